package store

import (
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// A session contains the time of its openid's last phone login. Neither a silent login nor a login
// with the user's other openid changes that time. An import does not set it. An openid that moves
// to another user does not take it along.
func TestSessionHasItsPhoneLogin(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		now := time.Now().UTC().Truncate(time.Millisecond)
		bind := func(openid, userID string, at time.Time) (id string) {
			opened, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: openid, UserID: userID, PhoneAt: at, AuthAt: at}, user.Keep, at)
			return opened.ID
		}
		authAt := func(id string) time.Time {
			t.Helper()
			found, err := s.Session(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return found.AuthAt
		}
		old := now.Add(-time.Hour)
		first := bind("o1", "u1", old)
		bind("o2", "u1", now)
		if got := authAt(first); !got.Equal(old) {
			t.Errorf("after another openid's login: %v, want %v", got, old)
		}
		silent := loginCommit(user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1", PhoneAt: old, AuthAt: old}, user.Keep, newSession("u1", "wx1", "o1", now))
		silent.Phone = user.Phone{}
		if _, err := commit(t, s, silent); err != nil {
			t.Fatal(err)
		}
		if got := authAt(silent.Session.ID); !got.Equal(old) {
			t.Errorf("a silent login: %v, want %v", got, old)
		}
		if again := bind("o1", "u1", now); !authAt(again).Equal(now) || !authAt(first).Equal(now) {
			t.Errorf("a phone login: %v and %v, want %v", authAt(again), authAt(first), now)
		}
		bind("o1", "u2", now.Add(time.Second))
		if got := authAt(first); !got.IsZero() {
			t.Errorf("after the openid has moved to another user: %v", got)
		}
	})
}
