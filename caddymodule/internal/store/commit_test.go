package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// During Alice's phone login, Bob's login takes over the account. Her login is outdated, and must
// not end his session.
func TestLoginThatWasOvertakenIsRefused(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		for i, who := range []string{"alice/wx1", "alice/wx2"} {
			id := fmt.Sprint("u", i)
			c := newCast(t, s)
			c.play(0, scene{who: who, user: id, rule: user.Replace})
			hers := loginCommit(bindingOf(who, id, c.at), user.Replace, newSession(id, "wx", "o", c.at))
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
	time.Sleep(2 * time.Millisecond) // the readings of the clock before and after must differ
	st := lease(t, s, login.Key{code}, "me", now, time.Minute)
	if !st.Leased || st.Seen.IsZero() {
		t.Fatalf("%+v", st)
	}
	time.Sleep(2 * time.Millisecond)
	return st.Seen
}

// The former owner logs in silently while the new owner logs in with the phone. Whatever data the
// decision for the silent login was based on, the login must notice if that data has changed.
func TestSilentLoginBesideThatOfTheNewOwner(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		for i, silent := range []string{"alice/wx1", "+alice/wx1", "+alice/wx2", "alice/wx2"} {
			id := fmt.Sprint("u", i)
			c := newCast(t, s)
			home := silent
			if silent == "+alice/wx2" {
				home = "+alice/wx3" // the account that allows her silent login
			}
			c.play(0, scene{who: home, user: id, rule: user.Replace})
			b := bindingOf(silent, id, c.at)
			hers := loginCommit(b, user.Replace, newSession(id, b.AppID, b.OpenID, c.at))
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
				if _, err := commit(t, a, loginCommit(x, user.Deny, newSession(two, x.AppID, x.OpenID, now))); err != nil {
					t.Errorf("Alice: %v", err)
				}
			})
			wg.Go(func() {
				x := bindingOf(bob, one, now)
				if _, err := commit(t, b, loginCommit(x, user.Deny, newSession(one, x.AppID, x.OpenID, now))); !errors.Is(err, user.ErrNewOpenID) {
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
					l := loginCommit(bindingOf("alice/wx1", id, now), user.Keep, newSession(id, "wx1", "alice@wx1", now))
					l.Code = code
					var err error
					for range 4 { // the login chain tries as often
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
		l := loginCommit(user.Binding{AppID: "wx1", OpenID: "o1", UserID: u.ID, PhoneAt: now}, user.Replace, newSession(u.ID, "wx1", "o1", now))
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

// The directory finds a user, whose row then disappears without a tombstone, as when a database is
// restored. Nobody may get a session of that user, and the directory must be asked again.
func TestLoginOfALostUserAsksAgain(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		users, first := s.Users(true, settings), user.Login{Phone: phone(t, "13800138000")}
		if _, err := users.Login(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		ctx := s.Together(t.Context())
		u, err := users.Login(ctx, first)
		if err != nil || u.New {
			t.Fatal(u, err)
		}
		l := loginCommit(user.Binding{AppID: "wx1", OpenID: "o1", UserID: u.ID, PhoneAt: now}, user.Replace, newSession(u.ID, "wx1", "o1", now))
		if err := s.Keep(ctx, l.Code, nil, now.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		for _, table := range []string{"user_phones", "users"} {
			execute(t, s, `DELETE FROM {`+table+`}`)
		}
		if _, err := s.Commit(ctx, l); !errors.Is(err, login.ErrChanged) {
			t.Errorf("%v", err)
		}
	})
}

// Two phones log in with one new number at the same time. A login writes its new user with the
// session, so a login that fails leaves no user behind. Of two, the slower one has to ask again,
// and then finds the user of the faster one.
func TestNewUserIsWrittenWithTheSession(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		users := s.Users(true, settings)
		number := phone(t, "13800138000")
		begin := func(openid string) (context.Context, user.User, login.Commit) {
			t.Helper()
			ctx := s.Together(t.Context())
			u, err := users.Login(ctx, user.Login{Phone: number})
			if err != nil {
				t.Fatal(err)
			}
			l := loginCommit(user.Binding{AppID: "wx1", OpenID: openid, UserID: u.ID, PhoneAt: now}, user.Keep, newSession(u.ID, "wx1", openid, now))
			l.Phone = number
			if err := s.Keep(ctx, l.Code, nil, now.Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			return ctx, u, l
		}
		written := func(want int) {
			t.Helper()
			for _, table := range []string{"users", "user_phones", "sessions"} {
				if n := count(t, s, `SELECT COUNT(*) FROM {`+table+`}`); n != want {
					t.Errorf("%d rows of %s, want %d", n, table, want)
				}
			}
		}
		ctx1, u1, l1 := begin("o1")
		ctx2, u2, l2 := begin("o2")
		if !u1.New || !u2.New || u1.ID == u2.ID {
			t.Fatalf("%+v and %+v", u1, u2)
		}
		failed := l1
		failed.Code = login.Key{42} // nobody has kept its result
		if _, err := s.Commit(ctx1, failed); !errors.Is(err, login.ErrCodeSpent) {
			t.Error(err)
		}
		written(0)
		if _, err := s.Commit(ctx1, l1); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(ctx2, l2); !errors.Is(err, login.ErrChanged) {
			t.Errorf("the slower one: %v", err)
		}
		written(1)
		l2.Code, l2.Login = l1.Code, l1.Login
		if _, err := s.Commit(ctx2, l2); !errors.Is(err, login.ErrOpenedBefore) {
			t.Errorf("another replica with the codes of the faster one: %v", err)
		}
		u, err := users.Login(ctx2, user.Login{Phone: number})
		if err != nil || u.ID != u1.ID || u.New {
			t.Errorf("asked again: %+v, %v", u, err)
		}
		l2.Binding.UserID = u.ID
		if _, err := s.Commit(ctx2, l2); !errors.As(err, new(*login.Opened)) {
			t.Errorf("with that user: %v", err)
		}
	})
}

// A statement fails, and the code that sent it overlooks that. PostgreSQL then answers the COMMIT
// with ROLLBACK. That must not count as a success.
func TestCommitThatRollsBackFails(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		if kind != "postgres" {
			return // MySQL undoes the one statement, and commits the others
		}
		s := started(t, handles(t, address))
		if err := s.sql.Write(t.Context(), "failing", func(t *sqldb.Tx) error {
			_, _ = t.Exec(`INSERT INTO {users} (id) VALUES (NULL)`)
			return nil
		}); err == nil {
			t.Error("the commit counts as a success")
		}
	})
}
