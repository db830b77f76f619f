package store

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// commitTest opens a test session of a user.
func commitTest(t *testing.T, s *Store, u user.User) (login.Commit, error) {
	t.Helper()
	opened := newSession(u.ID, "wx1", "", now)
	opened.Test = "mark"
	l := login.Commit{Binding: user.Binding{AppID: "wx1", UserID: u.ID}, Phone: u.Phone, Until: settings.Until(now), Session: opened, Max: 2}
	_, err := s.CommitTest(t.Context(), l)
	return l, err
}

// A test login opens a session and does nothing else. A phone login ends that session, whatever the
// rule. From then on, test logins of this user are refused, in every state of the binding.
func TestPhoneLoginEndsTestSessions(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		d := s.Users(true, settings)
		for i, rule := range []user.NewOpenID{user.Keep, user.Replace, user.Deny} {
			u, err := d.Login(t.Context(), user.Login{Phone: phone(t, "1380013800"+string(rune('1'+i)))})
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if _, err := commitTest(t, s, u); err != nil {
					t.Fatalf("%s: %v", rule, err)
				}
			}
			if n := count(t, s, `SELECT COUNT(*) FROM {sessions} WHERE user_id = ? AND ended_at = 0 AND test = 'mark'`, u.ID); n != 2 {
				t.Errorf("%s: %d test sessions, of at most 2", rule, n)
			}
			if n := count(t, s, `SELECT COUNT(*) FROM {bindings} WHERE user_id = ?`, u.ID); n != 0 {
				t.Errorf("%s: %d bindings", rule, n)
			}
			b := bindingOf("alice"+string(rule)+"/wx2", u.ID, now)
			done, err := commit(t, s, loginCommit(b, rule, newSession(u.ID, b.AppID, b.OpenID, now)))
			if err != nil || len(done.Ended) != 2 || done.Rebound {
				t.Errorf("%s: %+v, %v", rule, done, err)
			}
			for _, state := range []user.BindingState{user.Active, user.Suspended, user.Detached} {
				execute(t, s, `UPDATE {bindings} SET state = `+string(rune('0'+state))+` WHERE user_id = '`+u.ID+`'`)
				if _, err := commitTest(t, s, u); !errors.Is(err, login.ErrBound) {
					t.Errorf("%s, state %d: %v", rule, state, err)
				}
			}
			if has, err := s.HasOpenID(t.Context(), u.ID); err != nil || !has {
				t.Errorf("%s: %v, %v", rule, has, err)
			}
		}
		if has, err := s.HasOpenID(t.Context(), "nobody"); err != nil || has {
			t.Errorf("%v, %v", has, err)
		}
	})
}

// Ann has logged in with another number since, in whatever app, so nothing is bound to her former
// user. It is still her account, and stays closed to test logins.
func TestFormerOpenIDClosesATestLogin(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		d := s.Users(true, settings)
		for i, app := range []string{"wx1", "wx2"} {
			var users []user.User
			for j := range 2 {
				u, err := d.Login(t.Context(), user.Login{Phone: phone(t, fmt.Sprintf("138001380%d%d", i, j))})
				if err != nil {
					t.Fatal(err)
				}
				users = append(users, u)
			}
			if _, err := commitTest(t, s, users[0]); err != nil {
				t.Fatal(err)
			}
			for _, u := range users {
				logIn(t, s, bindingOf("ann/"+app, u.ID, now), user.Replace, now)
			}
			if n := count(t, s, `SELECT COUNT(*) FROM {bindings} WHERE user_id = ?`, users[0].ID); n != 0 {
				t.Fatalf("%s: %d bindings", app, n)
			}
			if _, err := commitTest(t, s, users[0]); !errors.Is(err, login.ErrBound) {
				t.Errorf("%s: %v", app, err)
			}
			if has, err := s.HasOpenID(t.Context(), users[0].ID); err != nil || !has {
				t.Errorf("%s: %v, %v", app, has, err)
			}
		}
	})
}

// A directory recognizes an openid that we have never seen, and the silent login binds it to the
// test login's user. The test sessions end then. Later silent logins by that binding end nothing.
func TestSilentBindingEndsTestSessions(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		u := user.User{ID: "m1", Phone: phone(t, "13800138001")}
		tested, err := commitTest(t, s, u)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range [][]string{{tested.Session.ID}, nil} {
			b := bindingOf("owner/wx1", u.ID, now)
			b.AuthAt = time.Time{}
			l := loginCommit(b, user.Replace, newSession(u.ID, b.AppID, b.OpenID, now))
			l.Phone = user.Phone{}
			if done, err := commit(t, s, l); err != nil || !slices.Equal(done.Ended, want) || done.Rebound {
				t.Errorf("silent login %d: %+v, %v; want %q ended", i, done, err, want)
			}
		}
	})
}

// The user of a test login is disabled, erased or loses the number while it is under way.
func TestTestLoginIsCheckedAgain(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		d := s.Users(true, settings)
		u, err := d.Login(t.Context(), user.Login{Phone: phone(t, "13800138001")})
		if err != nil {
			t.Fatal(err)
		}
		other := u
		other.Phone = phone(t, "13800138002")
		if _, err := commitTest(t, s, other); !errors.Is(err, login.ErrChanged) {
			t.Errorf("another number: %v", err)
		}
		if err := d.SetDisabled(t.Context(), u.ID, true); err != nil {
			t.Fatal(err)
		}
		if _, err := commitTest(t, s, u); !errors.Is(err, user.ErrDisabled) {
			t.Errorf("disabled: %v", err)
		}
		if err := d.Erase(t.Context(), u.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := commitTest(t, s, u); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("erased: %v", err)
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {sessions}`); n != 0 {
			t.Errorf("%d sessions", n)
		}
	})
}

// A test login and a phone login of the same user run at once. The test session must never stay
// once the WeChat account is bound.
func TestTestLoginBesideAPhoneLogin(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a, b := started(t, open), started(t, open)
		for round := range 8 {
			u, err := a.Users(true, settings).Login(t.Context(), user.Login{Phone: phone(t, "1380013800"+string(rune('0'+round)))})
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := commitTest(t, a, u); err != nil && !errors.Is(err, login.ErrBound) {
					t.Error(err)
				}
			})
			wg.Go(func() {
				x := bindingOf("alice"+u.ID+"/wx1", u.ID, now)
				if _, err := commit(t, b, loginCommit(x, user.Keep, newSession(u.ID, x.AppID, x.OpenID, now))); err != nil {
					t.Error(err)
				}
			})
			wg.Wait()
			if n := count(t, a, `SELECT COUNT(*) FROM {sessions} WHERE user_id = ? AND ended_at = 0 AND test <> ''`, u.ID); n != 0 {
				t.Errorf("round %d: the test session is live", round)
			}
		}
	})
}
