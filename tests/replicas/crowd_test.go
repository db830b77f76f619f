package replicas

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// outTime is how long a client may wait for the answer that it needs, on a machine where
// replicas or the database are killed all the time. A client that waits longer counts as
// locked out.
const outTime = 90 * time.Second

// crowd is a number of users of correct mini programs. Each sends an unanswered request again,
// to any replica, and fetches again only the codes that an answer names. They log in, refresh
// and log out until they are stopped, and remember all answers.
type crowd struct {
	t        testing.TB
	db       *rig.Database
	replicas []*rig.Gateway
	loops    *rig.Loops

	mu      sync.Mutex
	random  *rand.Rand
	seen    int                 // phone numbers below this have been used
	numbers map[string]string   // phone number -> user id
	alive   map[string]rig.Pair // session -> its newest pair
	over    []rig.Pair
	repeats int           // requests that had to be sent again
	renewed int           // phone codes that had to be fetched again
	longest time.Duration // longest wait for an answer
}

// newCrowd starts that many users; seed determines what they do.
func newCrowd(t testing.TB, db *rig.Database, replicas []*rig.Gateway, people int, seed uint64) *crowd {
	c := &crowd{
		t: t, db: db, replicas: replicas, loops: rig.NewLoops(t), random: rand.New(rand.NewPCG(seed, 0)),
		numbers: make(map[string]string), alive: make(map[string]rig.Pair),
	}
	for range people {
		c.loops.Go(0, func() bool {
			c.visit()
			return true
		})
	}
	return c
}

func (c *crowd) pick(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n)
}

// number returns a new number, or one that has been used.
func (c *crowd) number() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.seen
	if c.random.IntN(2) == 0 {
		c.seen++
	} else {
		n = c.random.IntN(c.seen + 1)
	}
	return fmt.Sprintf("139%08d", n)
}

// ask sends a request until a wanted answer comes.
func (c *crowd) ask(what string, do func(*rig.Gateway) rig.Answer, wanted func(rig.Answer) bool) (rig.Answer, bool) {
	replica := c.pick(len(c.replicas))
	begun := time.Now()
	for try := 0; ; try++ {
		a := do(c.replicas[(replica+try)%len(c.replicas)])
		waited := time.Since(begun)
		if wanted(a) {
			c.mu.Lock()
			c.longest = max(c.longest, waited)
			c.mu.Unlock()
			return a, true
		}
		c.mu.Lock()
		c.repeats++
		c.mu.Unlock()
		// There was no connection, or the answer asks the client to try again. Any other
		// answer is a refusal.
		if a.Err == nil && a.Status < 500 && a.Status != http.StatusTooManyRequests {
			c.t.Errorf("%s is refused: %d %s", what, a.Status, a.Body)
			return a, false
		}
		if waited > outTime {
			c.t.Errorf("locked out: %s is not answered after %s: %d %v %s", what, waited, a.Status, a.Err, a.Body)
			return a, false
		}
		time.Sleep(time.Duration(min(20*(try+1), 300)) * time.Millisecond)
	}
}

func ok(a rig.Answer) bool { return a.Err == nil && a.Status == http.StatusOK }

// visit is a user's login, some refreshes and, mostly, a logout.
func (c *crowd) visit() {
	number := c.number()
	codes := c.replicas[0].WeChat.Tap(c.t, number)
	a, done := c.ask("a login", func(r *rig.Gateway) rig.Answer {
		a := r.Login(codes.Code, codes.PhoneCode)
		if a.Err != nil || a.Status == http.StatusOK {
			return a
		}
		renew := a.Problem(c.t).Renew
		fresh := c.replicas[0].WeChat.Tap(c.t, number)
		if slices.Contains(renew, "code") {
			codes.Code = fresh.Code
		}
		if slices.Contains(renew, "phoneCode") {
			codes.PhoneCode = fresh.PhoneCode
			c.mu.Lock()
			c.renewed++
			c.mu.Unlock()
		}
		if a.Status == http.StatusBadRequest && len(renew) > 0 {
			a.Status = http.StatusServiceUnavailable // its renew says what to send again
		}
		return a
	}, ok)
	if !done {
		return
	}
	p := a.Pair(c.t)
	session := rig.SessionOf(c.t, p.Token)
	c.mu.Lock()
	if id, known := c.numbers[number]; known && id != p.UserInfo.ID {
		c.t.Errorf("the owner of %s is %s, and then %s", number, id, p.UserInfo.ID)
	}
	c.numbers[number] = p.UserInfo.ID
	c.alive[session] = p
	c.mu.Unlock()
	for range c.pick(4) {
		a, done := c.ask("a refresh", func(r *rig.Gateway) rig.Answer { return r.Refresh(p.RefreshToken) }, ok)
		if !done {
			return
		}
		p = a.Pair(c.t)
		c.mu.Lock()
		c.alive[session] = p
		c.mu.Unlock()
	}
	if c.pick(4) == 0 {
		return
	}
	c.mu.Lock()
	delete(c.alive, session) // from now on the session may have ended
	c.mu.Unlock()
	_, done = c.ask("a logout", func(r *rig.Gateway) rig.Answer { return r.Logout(p.Token, "", false) }, func(a rig.Answer) bool {
		return a.Err == nil && a.Status == http.StatusNoContent
	})
	if done {
		c.mu.Lock()
		c.over = append(c.over, p)
		c.mu.Unlock()
	}
}

// finish waits until all users are done, and checks on every replica that what was
// answered is true.
func (c *crowd) finish(t testing.TB) {
	t.Helper()
	c.loops.End()
	for _, p := range c.over {
		for _, r := range c.replicas {
			rig.Await(t, patience, "a session that was ended is over", func() bool { return r.Get("/", p.Token).Status == http.StatusUnauthorized })
		}
		c.replicas[0].Refresh(p.RefreshToken).WantProblem(t, http.StatusUnauthorized, "session_ended", nil)
	}
	i := 0
	for session, p := range c.alive {
		for _, r := range c.replicas {
			r.WantAlive(t, p)
		}
		i++
		next := c.replicas[i%len(c.replicas)].Refresh(p.RefreshToken).Pair(t)
		if rig.SessionOf(t, next.Token) != session {
			t.Errorf("session %s became another one", session)
		}
	}
	// A login that its client gave up may have created a user, but no number has two users.
	if users, numbers := c.db.Count(t, "SELECT COUNT(*) FROM wx_auth_users"), len(c.numbers); users != int64(numbers) {
		t.Errorf("%d users of %d phone numbers", users, numbers)
	}
	if len(c.alive) == 0 || len(c.over) == 0 {
		t.Errorf("%d sessions alive and %d over: too little was done", len(c.alive), len(c.over))
	}
	t.Logf("%s: %d users, %d sessions alive, %d logged out; %d requests sent again, %d phone codes fetched anew, longest wait %s",
		c.db.Kind, len(c.numbers), len(c.alive), len(c.over), c.repeats, c.renewed, c.longest.Round(time.Millisecond))
}
