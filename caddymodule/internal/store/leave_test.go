package store

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

func leave(t *testing.T, s *Store, appid, openid string, before time.Time) account.Leaver {
	t.Helper()
	left, err := s.Leave(t.Context(), appid, openid, before, ending(now, settings.Until(now)))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// A user leaves one app. The sessions in this app end, and those in other apps stay.
func TestLeavingEndsTheAppsSessionsOnly(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		bound := func(appid, openid, userID string) string {
			opened, _ := logIn(t, s, user.Binding{AppID: appid, OpenID: openid, UnionID: "n", UserID: userID, PhoneAt: now, Phone: phone(t, "13800138000")}, user.Keep, now)
			return opened.ID
		}
		here, there := bound("wx1", "o1", "u"), bound("wx2", "o2", "u")
		bound("wx2", "o1", "other") // an openid is unique within one app only

		left := leave(t, s, "wx1", "o1", now.Add(time.Minute))
		want := []string{here}
		if left.UserID != "u" || left.Last || left.Returned || !slices.Equal(left.Ended, want) {
			t.Errorf("left: %+v; want the sessions %v", left, want)
		}
		if b, ok, err := s.Binding(t.Context(), "wx1", "o1"); err != nil || !ok || b.State != user.Detached || !b.PhoneAt.IsZero() || !b.Phone.IsZero() {
			t.Errorf("the binding: %+v %v %v", b, ok, err)
		}
		if list, err := s.UserBindings(t.Context(), "u"); err != nil || len(list) != 1 || list[0].AppID != "wx2" {
			t.Errorf("the user's openids: %+v %v", list, err)
		}
		if again := leave(t, s, "wx1", "o1", now.Add(time.Minute)); again.UserID != "u" || again.Last || len(again.Ended) != 0 {
			t.Errorf("again: %+v", again)
		}

		last := leave(t, s, "wx2", "o2", now.Add(time.Minute))
		if last.UserID != "u" || !last.Last || !slices.Equal(last.Ended, []string{there}) {
			t.Errorf("the last one: %+v", last)
		}
		// The erasure has failed and has to be repeated.
		if again := leave(t, s, "wx2", "o2", now.Add(time.Minute)); again.UserID != "u" || !again.Last {
			t.Errorf("the last one again: %+v", again)
		}
		if feed, err := s.Revocations(t.Context(), 0, 0); err != nil || len(feed) != 2 {
			t.Errorf("the feed: %+v %v", feed, err)
		}
	})
}

// WeChat reports a user who is unknown here, or who has logged in again since. Nothing changes.
func TestLeavingUserIsUnknownOrBack(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		if left := leave(t, s, "wx1", "nobody", now); left.UserID != "" || left.Last || left.Returned || left.Ended != nil {
			t.Errorf("nobody: %+v", left)
		}
		opened, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u", PhoneAt: now}, user.Keep, now)
		if left := leave(t, s, "wx1", "o1", now.Add(-time.Second)); !left.Returned || left.Last || left.Ended != nil {
			t.Errorf("back again: %+v", left)
		}
		if got, err := s.Session(t.Context(), opened.ID); err != nil || !got.EndedAt.IsZero() {
			t.Errorf("the session: %+v %v", got, err)
		}
	})
}

// Ann gave up her number and revoked the app's permissions. Bob has the number now. Under the rule
// `deny` he must not get into her account.
func TestDenyKnowsAnOpenIDThatLeft(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		logIn(t, s, user.Binding{AppID: "wx1", OpenID: "ann", UserID: "u", PhoneAt: now}, user.Deny, now)
		leave(t, s, "wx1", "ann", now)
		bob := loginCommit(user.Binding{AppID: "wx1", OpenID: "bob", UserID: "u", PhoneAt: now}, user.Deny, newSession("u", "wx1", "bob", now))
		if _, err := commit(t, s, bob); !errors.Is(err, user.ErrNewOpenID) {
			t.Errorf("Bob: %v", err)
		}
		logIn(t, s, user.Binding{AppID: "wx1", OpenID: "ann", UserID: "u", PhoneAt: now}, user.Deny, now) // fails the test if the login is denied
		if b, _, err := s.Binding(t.Context(), "wx1", "ann"); err != nil || b.State != user.Active {
			t.Errorf("Ann is back: %+v, %v", b, err)
		}
	})
}

// A user's last openid has left, so the user is about to be erased. Before that, the user logs in
// with a phone number, with this openid or another one. Then nothing is erased.
func TestPhoneLoginBeforeErasureKeepsUser(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		there := &externalBook{users: make(map[string]user.User)}
		for name, erase := range map[string]func(context.Context, string) (bool, []string, error){
			"own": s.Users(true, settings).EraseLeft, "elsewhere": s.ExternalUsers(there, settings).EraseLeft,
		} {
			for _, returns := range []string{"", "same", "other"} {
				id := name + returns
				there.users[id] = user.User{ID: id}
				b := user.Binding{AppID: "wx1", OpenID: "same" + id, UserID: id, PhoneAt: now}
				logIn(t, s, b, user.Keep, now)
				if left := leave(t, s, "wx1", b.OpenID, now); !left.Last {
					t.Fatalf("%s: %+v", id, left)
				}
				want := true
				if returns != "" {
					b.OpenID, want = returns+id, false
					logIn(t, s, b, user.Keep, now)
				}
				erased, ended, err := erase(t.Context(), id)
				if err != nil || erased != want || len(ended) != 0 {
					t.Errorf("%s: erased %v, ended %v, %v", id, erased, ended, err)
				}
				if n := count(t, s, `SELECT COUNT(*) FROM {sessions} WHERE user_id = ? AND ended_at = 0`, id); (n == 0) != want {
					t.Errorf("%s: %d sessions live", id, n)
				}
				if _, known := there.users[id]; known == want && name == "elsewhere" {
					t.Errorf("%s: the directory has the user: %v", id, known)
				}
			}
		}
	})
}

// Bob owns Alice's old number, so her account is suspended. What she does with it later, in her own
// app, decides nothing about the user: Bob may have moved on or have withdrawn the number by then.
func TestSuspendedAccountDecidesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		users := s.Users(true, settings)
		number := phone(t, "13800138000")
		u, err := users.Login(t.Context(), user.Login{Phone: number})
		if err != nil {
			t.Fatal(err)
		}
		logIn(t, s, user.Binding{AppID: "wx1", OpenID: "alice", UserID: u.ID, PhoneAt: now}, user.Replace, now)
		logIn(t, s, user.Binding{AppID: "wx2", OpenID: "bob", UserID: u.ID, PhoneAt: now}, user.Replace, now)
		later := now.Add(time.Minute)
		// Hers may be the same person's, so it counts as one that still has a phone login.
		if left := leave(t, s, "wx2", "bob", later); left.Last {
			t.Errorf("bob's decides: %+v", left)
		}
		if left := leave(t, s, "wx1", "alice", later); left.Last {
			t.Errorf("alice's decides: %+v", left)
		}
		for appid, openid := range map[string]string{"wx1": "alice", "wx2": "bob"} {
			known, err := s.Known(t.Context(), login.Account{AppID: appid, OpenID: openid})
			if err != nil || known.Detached != "" {
				t.Errorf("%s would get the user %q with a new number: %v", openid, known.Detached, err)
			}
		}
	})
}
