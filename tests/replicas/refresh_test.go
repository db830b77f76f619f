package replicas

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

const number = "13800138000"

const (
	// feedTime is how soon a logout on one replica must take effect on the others.
	feedTime = 1500 * time.Millisecond
	// patience is how long a test waits on a busy machine for something that takes a
	// second.
	patience = 20 * time.Second
)

// wantEndedEverywhere fails the test unless the session has ended on every replica in
// time.
func wantEndedEverywhere(t testing.TB, replicas []*rig.Gateway, p rig.Pair) {
	t.Helper()
	for _, r := range replicas {
		rig.Await(t, patience, "the session is over there too", func() bool {
			return r.Get("/", p.Token).Status == http.StatusUnauthorized
		})
		r.WantEnded(t, p)
	}
}

// Fifty tabs, spread over two replicas, refresh with one token at once. The counter
// advances once, and all get the same next refresh token.
func TestFiftyRefreshesAdvanceOnce(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		replicas := rig.NewReplicas(t, db, 2)
		p := replicas[0].MustLogin(t, number)
		for round := range int64(5) { // ten refreshes a minute are allowed
			answers := make([]rig.Answer, 50)
			begin := make(chan struct{})
			var asking sync.WaitGroup
			for i := range answers {
				asking.Go(func() {
					<-begin
					answers[i] = replicas[i%2].Refresh(p.RefreshToken)
				})
			}
			close(begin)
			asking.Wait()
			first := answers[0].Pair(t)
			for _, a := range answers {
				next := a.Pair(t)
				if next.RefreshToken != first.RefreshToken || next.RefreshToken == p.RefreshToken {
					t.Fatal("two different refresh tokens follow one")
				}
				if rig.SessionOf(t, next.Token) != rig.SessionOf(t, p.Token) {
					t.Fatal("the session is another one")
				}
				for _, r := range replicas {
					r.WantAlive(t, next)
				}
			}
			query := fmt.Sprintf(`SELECT counter FROM wx_auth_sessions WHERE id = '%s' AND ended_at = 0`, rig.SessionOf(t, p.Token))
			if n := db.Count(t, query); n != round+2 { // it starts at 1
				t.Fatalf("the counter is %d after %d rounds", n, round+1)
			}
			p = first
		}
	})
}

// The counter of a session leads to the same decision on both replicas: current, within the
// grace, late, stolen, and ahead after a failover.
func TestCounterTableHoldsOnBothReplicas(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		replicas := rig.NewReplicas(t, db, 2)
		a, b := replicas[0], replicas[1]
		change := func(t *testing.T, p rig.Pair, set string) {
			t.Helper()
			db.Run(t, fmt.Sprintf(`UPDATE wx_auth_sessions SET %s WHERE id = '%s'`, set, rig.SessionOf(t, p.Token)))
		}
		noAlarm := func(t *testing.T, p rig.Pair) {
			t.Helper()
			for _, r := range replicas {
				if lines := r.Caddy.Log.Lines("stolen", rig.SessionOf(t, p.Token)); len(lines) > 0 {
					t.Errorf("an alarm: %s", lines)
				}
			}
		}
		alive := func(t *testing.T, p rig.Pair) {
			t.Helper()
			for _, r := range replicas {
				r.WantAlive(t, p)
			}
			noAlarm(t, p)
		}
		t.Run("the current one", func(t *testing.T) {
			p := a.MustLogin(t, number)
			seen := map[string]bool{p.RefreshToken: true}
			for i := range 6 {
				p = replicas[i%2].Refresh(p.RefreshToken).Pair(t)
				if seen[p.RefreshToken] {
					t.Fatal("the refresh token did not advance")
				}
				seen[p.RefreshToken] = true
			}
			alive(t, p)
		})
		t.Run("one behind, within the grace", func(t *testing.T) {
			p := a.MustLogin(t, number)
			next := a.Refresh(p.RefreshToken).Pair(t)
			change(t, p, `advanced_at = advanced_at - 50000`) // the grace is 60 s
			for _, r := range replicas {
				again := r.Refresh(p.RefreshToken).Pair(t)
				if again.RefreshToken != next.RefreshToken {
					t.Error("another refresh token")
				}
				if again.Token == next.Token {
					t.Error("the token was not minted anew")
				}
				alive(t, again)
			}
			alive(t, b.Refresh(next.RefreshToken).Pair(t))
		})
		t.Run("one behind, later", func(t *testing.T) {
			p := a.MustLogin(t, number)
			next := a.Refresh(p.RefreshToken).Pair(t)
			change(t, p, `advanced_at = advanced_at - 61000`)
			b.Refresh(p.RefreshToken).WantProblem(t, http.StatusUnauthorized, "session_ended", nil)
			wantEndedEverywhere(t, []*rig.Gateway{b, a}, next)
			noAlarm(t, p)
		})
		t.Run("two behind", func(t *testing.T) {
			p := a.MustLogin(t, number)
			next := b.Refresh(a.Refresh(p.RefreshToken).Pair(t).RefreshToken).Pair(t)
			b.Refresh(p.RefreshToken).WantProblem(t, http.StatusUnauthorized, "reuse_detected", nil)
			wantEndedEverywhere(t, []*rig.Gateway{b, a}, next)
			b.Caddy.Log.Wait(t, 20*time.Second, "stolen", rig.SessionOf(t, p.Token))
		})
		t.Run("ahead", func(t *testing.T) {
			p := a.MustLogin(t, number)
			next := p
			for range 3 {
				next = a.Refresh(next.RefreshToken).Pair(t)
			}
			change(t, p, `counter = counter - 2`) // as after a failover that lost two writes
			after := b.Refresh(next.RefreshToken).Pair(t)
			alive(t, after)
			// The counter continues from there, so the token that was current before is one
			// behind now.
			if again := a.Refresh(next.RefreshToken).Pair(t); again.RefreshToken != after.RefreshToken {
				t.Error("another refresh token")
			}
			alive(t, b.Refresh(after.RefreshToken).Pair(t))
		})
		t.Run("ahead, of a session that ended", func(t *testing.T) {
			p := a.MustLogin(t, number)
			next := a.Refresh(p.RefreshToken).Pair(t)
			b.Logout(next.Token, "", false).Want(t, http.StatusNoContent)
			change(t, p, `counter = counter - 1`)
			wantEndedEverywhere(t, []*rig.Gateway{b, a}, next)
		})
		t.Run("a MAC that is none", func(t *testing.T) {
			p := a.MustLogin(t, number)
			last := p.RefreshToken[len(p.RefreshToken)-2:]
			forged := p.RefreshToken[:len(p.RefreshToken)-2] + map[bool]string{true: "BA", false: "AA"}[last == "AA"]
			for _, r := range replicas {
				r.Refresh(forged).WantProblem(t, http.StatusUnauthorized, "refresh_invalid", nil)
			}
			alive(t, p)
		})
	})
}
