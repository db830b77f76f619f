package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// A scene is one step of a story. Its field who names a WeChat account and an app: "alice/wx1"
// is Alice's openid in wx1. After a "+" WeChat also sends her unionid. user owns the phone number
// of the login.
type scene struct {
	who, user string
	rule      user.NewOpenID
	silent    bool
	leaves    bool // no login: WeChat reports that the openid has left

	fails   error
	rebound bool
}

// cast plays scenes, each an hour after the last one.
type cast struct {
	t    *testing.T
	s    *Store
	at   time.Time
	open map[string]string // session → account and user
}

func newCast(t *testing.T, s *Store) *cast {
	return &cast{t: t, s: s, at: now, open: make(map[string]string)}
}

func bindingOf(who, userID string, at time.Time) user.Binding {
	name, union := strings.CutPrefix(who, "+")
	person, appid, _ := strings.Cut(name, "/")
	b := user.Binding{AppID: appid, OpenID: person + "@" + appid, UserID: userID, PhoneAt: at}
	if union {
		b.UnionID = "union-" + person
	}
	return b
}

func (c *cast) play(i int, sc scene) {
	c.t.Helper()
	c.at = c.at.Add(time.Hour)
	b := bindingOf(sc.who, sc.user, c.at)
	if sc.leaves {
		left, err := c.s.Leave(c.t.Context(), b.AppID, b.OpenID, c.at, ending(c.at, settings.Until(c.at)))
		if err != nil {
			c.t.Fatal(err)
		}
		for _, id := range left.Ended {
			delete(c.open, id)
		}
		return
	}
	l := settlement(b, sc.rule, newSession(sc.user, b.AppID, b.OpenID, c.at))
	l.Session.UnionID = b.UnionID
	if sc.silent {
		l.Phone = user.Phone{}
	}
	done, err := commit(c.t, c.s, l)
	if !errors.Is(err, sc.fails) || done.Rebound != sc.rebound {
		c.t.Errorf("scene %d, %+v: %v, %+v", i, sc, err, done)
	}
	if err == nil {
		c.open[l.Session.ID] = strings.TrimPrefix(sc.who, "+") + "=" + sc.user
	}
	for _, id := range done.Ended {
		delete(c.open, id)
	}
}

// silent returns the user that an account logs in as silently, or "" if it cannot.
func (c *cast) silent(who string) string {
	c.t.Helper()
	b := bindingOf(who, "", c.at)
	known, err := c.s.Known(c.t.Context(), login.Account{AppID: b.AppID, OpenID: b.OpenID, UnionID: b.UnionID})
	if err != nil {
		c.t.Fatal(err)
	}
	if known.State != user.Active || known.Taken || known.PhoneAt.IsZero() {
		return ""
	}
	return known.UserID
}

// Each story is about number 1 of user a, which belongs to Alice first and to Bob later. User b has
// number 2.
var stories = map[string]struct {
	scenes []scene
	live   []string          // the live sessions, as account and user
	silent map[string]string // the user that each account logs in as silently; "" if it cannot
}{
	"replace in one app": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Replace},
			{who: "bob/wx1", user: "a", rule: user.Replace, rebound: true},
		},
		live:   []string{"bob/wx1=a"},
		silent: map[string]string{"alice/wx1": "", "bob/wx1": "a"},
	},
	"keep": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Keep},
			{who: "alice/wx2", user: "a", rule: user.Keep},
			{who: "bob/wx1", user: "a", rule: user.Keep},
		},
		live:   []string{"alice/wx1=a", "alice/wx2=a", "bob/wx1=a"},
		silent: map[string]string{"alice/wx1": "a", "alice/wx2": "a", "bob/wx1": "a"},
	},
	"(a) her session stays when her openid moves": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Replace},
			{who: "alice/wx1", user: "b", rule: user.Replace},
			{who: "bob/wx1", user: "a", rule: user.Replace},
		},
		live:   []string{"alice/wx1=b", "bob/wx1=a"},
		silent: map[string]string{"alice/wx1": "b", "bob/wx1": "a"},
	},
	"(a) under keep, too": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Keep},
			{who: "alice/wx1", user: "b", rule: user.Keep},
		},
		live:   []string{"alice/wx1=b"},
		silent: map[string]string{"alice/wx1": "b"},
	},
	"(b) deny after her openid has moved": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Deny},
			{who: "alice/wx1", user: "b", rule: user.Deny},
			{who: "bob/wx1", user: "a", rule: user.Deny, fails: user.ErrNewOpenID},
			{who: "alice/wx1", user: "a", rule: user.Deny}, // she has both numbers
			{who: "bob/wx1", user: "b", rule: user.Deny, fails: user.ErrNewOpenID},
		},
		live:   []string{"alice/wx1=a"},
		silent: map[string]string{"alice/wx1": "a", "bob/wx1": ""},
	},
	"(c) her other mini program, unionids unknown": {
		scenes: []scene{
			{who: "alice/wx2", user: "a", rule: user.Replace},
			{who: "bob/wx1", user: "a", rule: user.Replace, rebound: true},
		},
		live:   []string{"bob/wx1=a"},
		silent: map[string]string{"alice/wx2": "", "bob/wx1": "a"},
	},
	"(c) her other mini program, unionids known": {
		scenes: []scene{
			{who: "+alice/wx1", user: "a", rule: user.Replace},
			{who: "+alice/wx2", user: "a", rule: user.Replace},
			{who: "+bob/wx1", user: "a", rule: user.Replace, rebound: true},
		},
		live:   []string{"bob/wx1=a"},
		silent: map[string]string{"+alice/wx1": "", "+alice/wx2": "", "+alice/wx3": "", "+bob/wx1": "a", "+bob/wx3": "a"},
	},
	"her other mini program after her openid has moved": {
		scenes: []scene{
			{who: "+alice/wx1", user: "a", rule: user.Replace},
			{who: "+alice/wx2", user: "a", rule: user.Replace},
			{who: "+alice/wx1", user: "b", rule: user.Replace},
			{who: "+bob/wx1", user: "a", rule: user.Replace, rebound: true},
		},
		live:   []string{"alice/wx1=b", "bob/wx1=a"},
		silent: map[string]string{"+alice/wx1": "b", "+alice/wx2": "", "+alice/wx3": "b", "+bob/wx1": "a"},
	},
	"a session without a binding of its user": {
		scenes: []scene{
			{who: "+alice/wx1", user: "a", rule: user.Replace},
			{who: "+alice/wx2", user: "a", rule: user.Keep, silent: true},
			{who: "+bob/wx3", user: "a", rule: user.Replace, rebound: true},
		},
		live:   []string{"bob/wx3=a"},
		silent: map[string]string{"+alice/wx1": "", "+alice/wx2": "", "+alice/wx3": "", "+alice/wx4": ""},
	},
	"one account in two apps": {
		scenes: []scene{
			{who: "+alice/wx1", user: "a", rule: user.Replace},
			{who: "+alice/wx2", user: "a", rule: user.Replace},
			{who: "+alice/wx1", user: "a", rule: user.Replace},
		},
		live:   []string{"alice/wx1=a", "alice/wx1=a", "alice/wx2=a"},
		silent: map[string]string{"+alice/wx1": "a", "+alice/wx2": "a"},
	},
	"an openid that is bound already ends nothing": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Keep},
			{who: "bob/wx1", user: "a", rule: user.Keep},
			{who: "carol/wx2", user: "a", rule: user.Keep},
			{who: "alice/wx1", user: "a", rule: user.Replace},
			{who: "alice/wx1", user: "a", rule: user.Deny},
		},
		live:   []string{"alice/wx1=a", "alice/wx1=a", "alice/wx1=a", "bob/wx1=a", "carol/wx2=a"},
		silent: map[string]string{"alice/wx1": "a", "bob/wx1": "a", "carol/wx2": "a"},
	},
	"a suspended openid becomes active again, and nobody ends": {
		scenes: []scene{
			{who: "alice/wx2", user: "a", rule: user.Replace},
			{who: "bob/wx1", user: "a", rule: user.Replace, rebound: true},
			{who: "alice/wx2", user: "a", rule: user.Replace, rebound: true},
			{who: "alice/wx2", user: "a", rule: user.Deny},
		},
		live:   []string{"alice/wx2=a", "alice/wx2=a", "bob/wx1=a"},
		silent: map[string]string{"alice/wx2": "a", "bob/wx1": "a"},
	},
	"under deny, too": {
		scenes: []scene{
			{who: "alice/wx2", user: "a", rule: user.Replace},
			{who: "bob/wx1", user: "a", rule: user.Replace, rebound: true},
			{who: "alice/wx2", user: "a", rule: user.Deny, rebound: true},
		},
		live:   []string{"alice/wx2=a", "bob/wx1=a"},
		silent: map[string]string{"alice/wx2": "a", "bob/wx1": "a"},
	},
	"deny in one app": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Deny},
			{who: "bob/wx1", user: "a", rule: user.Deny, fails: user.ErrNewOpenID},
		},
		live:   []string{"alice/wx1=a"},
		silent: map[string]string{"alice/wx1": "a", "bob/wx1": ""},
	},
	"deny in two apps, unionids known": {
		scenes: []scene{
			{who: "+alice/wx1", user: "a", rule: user.Deny},
			{who: "+bob/wx2", user: "a", rule: user.Deny, fails: user.ErrNewOpenID},
			{who: "bob/wx2", user: "a", rule: user.Deny, fails: user.ErrNewOpenID}, // this openid belongs to another Open Platform account
			{who: "+alice/wx2", user: "a", rule: user.Deny},
		},
		live:   []string{"alice/wx1=a", "alice/wx2=a"},
		silent: map[string]string{"+alice/wx1": "a", "+alice/wx2": "a", "+bob/wx2": ""},
	},
	"whom deny lets in is treated as by replace": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Deny}, // no unionid is known
			{who: "bob/wx2", user: "a", rule: user.Deny, rebound: true},
		},
		live:   []string{"bob/wx2=a"},
		silent: map[string]string{"alice/wx1": "", "bob/wx2": "a"},
	},
	"deny knows an openid that was replaced and has moved": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Replace},
			{who: "bob/wx1", user: "a", rule: user.Replace, rebound: true},
			{who: "bob/wx1", user: "b", rule: user.Replace},
			{who: "carol/wx1", user: "a", rule: user.Deny, fails: user.ErrNewOpenID},
			{who: "bob/wx1", user: "a", rule: user.Deny},
		},
		live:   []string{"bob/wx1=a"},
		silent: map[string]string{"alice/wx1": "", "bob/wx1": "a", "carol/wx1": ""},
	},
	"whoever has left one app needs the phone there, by the unionid too": {
		scenes: []scene{
			{who: "+alice/wx1", user: "a", rule: user.Replace},
			{who: "+alice/wx2", user: "a", rule: user.Replace},
			{who: "+alice/wx1", leaves: true},
		},
		live:   []string{"alice/wx2=a"},
		silent: map[string]string{"+alice/wx1": "", "+alice/wx2": "a", "+alice/wx3": "a"},
	},
	"a silent login of a directory's own moves nothing": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Replace},
			{who: "alice/wx1", user: "b", rule: user.Replace, silent: true},
			{who: "bob/wx1", user: "a", rule: user.Replace, silent: true},
		},
		live:   []string{"alice/wx1=a", "alice/wx1=b", "bob/wx1=a"},
		silent: map[string]string{"alice/wx1": "a"},
	},
}

// In each story a number passes from Alice to Bob in some way. Afterwards the live sessions and the
// possible silent logins must be those of the rule.
func TestStoriesOfRecycledNumbers(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		for name, story := range stories {
			t.Run(name, func(t *testing.T) {
				c := newCast(t, s)
				for i, sc := range story.scenes {
					c.play(i, sc)
				}
				var live []string
				for id, who := range c.open {
					got, err := s.Session(t.Context(), id)
					if err != nil || !got.EndedAt.IsZero() {
						t.Errorf("%s has ended, and it was not reported: %v", who, err)
					}
					live = append(live, who)
				}
				if slices.Sort(live); !slices.Equal(live, story.live) {
					t.Errorf("live are %q, want %q", live, story.live)
				}
				if n := count(t, s, `SELECT COUNT(*) FROM {sessions} WHERE ended_at = 0`); n != len(story.live) {
					t.Errorf("%d sessions are live, want %q", n, story.live)
				}
				for who, want := range story.silent {
					if got := c.silent(who); got != want {
						t.Errorf("%s logs in silently as %q, want %q", who, got, want)
					}
				}
				for _, table := range []string{"{sessions}", "{bindings}", "{former_openids}"} {
					execute(t, s, `DELETE FROM `+table)
				}
			})
		}
	})
}

// A session may be older than the unionid that its binding has learned since.
func TestAccountIsKnownByItsBindingToo(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		c := newCast(t, s)
		for i, sc := range []scene{
			{who: "alice/wx1", user: "a", rule: user.Replace},
			{who: "+alice/wx1", user: "a", rule: user.Replace},
			{who: "+alice/wx2", user: "a", rule: user.Replace},
		} {
			c.play(i, sc)
		}
		if len(c.open) != 3 {
			t.Errorf("%d of three sessions of one account are live", len(c.open))
		}
	})
}

// Bob's login takes the account over during Alice's phone login. Her login is outdated, and must
// not end his session.
func TestLoginThatWasOvertakenIsRefused(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		for i, who := range []string{"alice/wx1", "alice/wx2"} {
			id := fmt.Sprint("u", i)
			c := newCast(t, s)
			c.play(0, scene{who: who, user: id, rule: user.Replace})
			hers := settlement(bindingOf(who, id, c.at), user.Replace, newSession(id, "wx", "o", c.at))
			hers.Session.AppID, hers.Session.OpenID = hers.Binding.AppID, hers.Binding.OpenID
			hers.Begun = seen(t, s, byte(i))
			c.play(1, scene{who: "bob/wx1", user: id, rule: user.Replace, rebound: true})
			if _, err := commit(t, s, hers); !errors.Is(err, login.ErrOvertaken) {
				t.Errorf("%s: %v", who, err)
			}
			// With fresh codes she proves that she has the number.
			hers.Session.ID, hers.Login, hers.Code = newID(now), login.Key{byte(i), 1}, login.Key{byte(i), 2}
			hers.Begun = seen(t, s, byte(10+i))
			if _, err := commit(t, s, hers); err != nil {
				t.Errorf("%s again: %v", who, err)
			}
		}
	})
}

// seen returns the time at which a new code was first seen.
func seen(t *testing.T, s *Store, code byte) time.Time {
	t.Helper()
	st := lease(t, s, login.Key{code}, "me", now, time.Minute)
	if !st.Leased || st.Seen.IsZero() {
		t.Fatalf("%+v", st)
	}
	time.Sleep(2 * time.Millisecond) // the next reading of the clock must differ
	return st.Seen
}

// The former owner logs in silently while the new owner logs in with the phone. The silent login
// must notice that the data it was decided on has changed, whichever part of it.
func TestSilentLoginBesideThatOfTheNewOwner(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		for i, silent := range []string{"alice/wx1", "+alice/wx1", "+alice/wx2", "alice/wx2"} {
			id := fmt.Sprint("u", i)
			c := newCast(t, s)
			home := silent
			if silent == "+alice/wx2" {
				home = "+alice/wx3" // the account that her silent login is based on
			}
			c.play(0, scene{who: home, user: id, rule: user.Replace})
			b := bindingOf(silent, id, c.at)
			hers := settlement(b, user.Replace, newSession(id, b.AppID, b.OpenID, c.at))
			hers.Phone = user.Phone{}
			known, err := s.Known(t.Context(), login.Account{AppID: b.AppID, OpenID: b.OpenID, UnionID: b.UnionID})
			if err != nil || known.UserID != id {
				t.Fatalf("%+v, %v", known, err)
			}
			hers.Known = known
			c.play(1, scene{who: "bob/wx1", user: id, rule: user.Replace, rebound: true})
			if err := s.Keep(t.Context(), hers.Code, nil, now.Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Commit(t.Context(), hers); !errors.Is(err, login.ErrChanged) {
				t.Errorf("%s: %v", silent, err)
			}
			execute(t, s, `DELETE FROM {bindings}`)
		}
	})
}

// Alice moves to number 2 while Bob logs in with number 1, her former one. Under the rule `deny` he
// is refused, whichever login is first.
func TestMoveBesideALoginUnderDeny(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a, b := started(t, open), started(t, open)
		for round := range 10 {
			one, two := fmt.Sprint("a", round), fmt.Sprint("b", round)
			alice, bob := fmt.Sprintf("alice%d/wx1", round), fmt.Sprintf("bob%d/wx1", round)
			newCast(t, a).play(0, scene{who: alice, user: one, rule: user.Deny})
			var wg sync.WaitGroup
			wg.Go(func() {
				x := bindingOf(alice, two, now)
				if _, err := commit(t, a, settlement(x, user.Deny, newSession(two, x.AppID, x.OpenID, now))); err != nil {
					t.Errorf("Alice: %v", err)
				}
			})
			wg.Go(func() {
				x := bindingOf(bob, one, now)
				if _, err := commit(t, b, settlement(x, user.Deny, newSession(one, x.AppID, x.OpenID, now))); !errors.Is(err, user.ErrNewOpenID) {
					t.Errorf("Bob: %v", err)
				}
			})
			wg.Wait()
		}
	})
}

// One login code opens one session, even if several logins have the code.
func TestOneLoginCodeOpensOneSession(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		replicas := []*Store{started(t, open), started(t, open)}
		for round := range 5 {
			code := login.Key{byte(round), 1}
			if err := replicas[0].Keep(t.Context(), code, []byte("whose"), now.Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			errs := make(map[string]int)
			var wg sync.WaitGroup
			for i := range 6 {
				wg.Go(func() {
					// Each login has another phone code, and so another user.
					id := fmt.Sprintf("u%d-%d", round, i)
					l := settlement(bindingOf("alice/wx1", id, now), user.Keep, newSession(id, "wx1", "alice@wx1", now))
					l.Code = code
					var err error
					for range 4 { // the chain does the same
						if l.Known, err = replicas[i%2].Known(t.Context(), login.Account{AppID: "wx1", OpenID: "alice@wx1"}); err == nil {
							_, err = replicas[i%2].Commit(context.Background(), l)
						}
						if !errors.Is(err, login.ErrChanged) {
							break
						}
					}
					mu.Lock()
					defer mu.Unlock()
					errs[fmt.Sprint(err)]++
				})
			}
			wg.Wait()
			if errs["<nil>"] != 1 || len(errs) != 2 {
				t.Errorf("round %d: %v", round, errs)
			}
		}
		if n := count(t, replicas[0], `SELECT COUNT(*) FROM {sessions}`); n != 5 {
			t.Errorf("%d sessions of five codes", n)
		}
	})
}

// The number moved to another user after the directory had answered.
func TestNumberMustStillBeTheUsers(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		u, err := s.Users(true, settings).Login(t.Context(), user.Login{Phone: phone(t, "13800138000")})
		if err != nil {
			t.Fatal(err)
		}
		l := settlement(user.Binding{AppID: "wx1", OpenID: "o1", UserID: u.ID, PhoneAt: now}, user.Replace, newSession(u.ID, "wx1", "o1", now))
		l.Phone = phone(t, "13900139000")
		if err := s.Keep(t.Context(), l.Code, nil, now.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(t.Context(), l); !errors.Is(err, login.ErrChanged) {
			t.Errorf("another number: %v", err)
		}
		l.Phone = u.Phone
		if _, err := s.Commit(t.Context(), l); err != nil {
			t.Error(err)
		}
	})
}

// An erasure refuses logins that began before it, but not later ones.
func TestTombstoneRefusesLoginsFromBefore(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		there := s.Elsewhere(&elsewhere{users: make(map[string]user.User)}, settings)
		settled := func(begun time.Time) error {
			l := settlement(user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u", PhoneAt: now}, user.Replace, newSession("u", "wx1", "o1", now))
			l.Begun = begun
			_, err := commit(t, s, l)
			return err
		}
		before := seen(t, s, 1)
		if err := s.Release(t.Context(), "me", login.Key{1}); err != nil { // the first attempt of this login failed
			t.Fatal(err)
		}
		for range 2 {
			if err := there.Erase(t.Context(), "u"); err != nil {
				t.Fatal(err)
			}
		}
		if again := seen(t, s, 1); !again.Equal(before) {
			t.Errorf("a code that was seen at %v is seen first at %v", before, again)
		}
		time.Sleep(2 * time.Millisecond)
		after := seen(t, s, 2)
		for _, begun := range []time.Time{before, {}} {
			if err := settled(begun); !errors.Is(err, user.ErrUnknown) {
				t.Errorf("begun %v: %v", begun, err)
			}
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {bindings}`); n != 0 {
			t.Errorf("%d bindings of an erased user", n)
		}
		if err := settled(after); err != nil {
			t.Errorf("begun after the erasure: %v", err)
		}
		// The later login may belong to another person with the same id.
		if err := settled(before); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("begun before the erasure, and ended after a later login: %v", err)
		}
	})
}

// A mark names an openid that has left a user. It is personal data, so an erasure removes it.
func TestErasureTakesMarksAlong(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		c := newCast(t, s)
		c.play(0, scene{who: "alice/wx1", user: "a", rule: user.Deny})
		c.play(1, scene{who: "alice/wx1", user: "b", rule: user.Deny})
		if n := count(t, s, `SELECT COUNT(*) FROM {former_openids}`); n != 1 {
			t.Fatalf("%d marks", n)
		}
		if err := s.Users(true, settings).Erase(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {former_openids}`); n != 0 {
			t.Errorf("%d marks of an erased user", n)
		}
	})
}

// Bob's login has replaced Alice's. A directory that remembers openids itself would let her in
// silently, to the account that is Bob's now. She must need the phone button.
func TestReplacedOpenIDNeedsItsPhone(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		for _, who := range []string{"alice", "bob"} {
			settle(t, s, user.Binding{AppID: "wx1", OpenID: who, UserID: "u", PhoneAt: now}, user.Replace, now)
		}
		l := settlement(user.Binding{AppID: "wx1", OpenID: "alice", UserID: "u"}, user.Replace, newSession("u", "wx1", "alice", now))
		l.Phone = user.Phone{}
		if _, err := commit(t, s, l); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("silently: %v", err)
		}
		settle(t, s, user.Binding{AppID: "wx1", OpenID: "alice", UserID: "u", PhoneAt: now}, user.Replace, now)
		l.Session, l.Code, l.Login = newSession("u", "wx1", "alice", now), [32]byte{7}, [32]byte{8}
		if _, err := commit(t, s, l); err != nil {
			t.Errorf("silently after a phone login: %v", err)
		}
	})
}
