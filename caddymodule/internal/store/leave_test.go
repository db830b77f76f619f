package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

func leave(t *testing.T, s *Store, appid, openid string, before time.Time) account.Leaver {
	t.Helper()
	left, err := s.Leave(t.Context(), appid, openid, false, before, ending(now, settings.Until(now)))
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

// Bob owns Alice's old number, so her account is suspended. Whether she withdraws the number or
// closes her account, she decides nothing about the user. If nobody has a phone login then, Bob's
// account decides, if it has left before. Hers may be the same person's, so until it leaves, too,
// it counts as one that still has a phone login.
func TestSuspendedAccountDecidesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		users := s.Users(true, settings)
		for i, c := range []struct {
			bob, alice string // how each leaves; Bob "moves on" to another user
			last       bool
			state      user.BindingState
		}{
			{"moves on", "withdraws", false, 0},
			{"moves on", "cancels", false, 0},
			{"withdraws", "cancels", true, user.Detached},
			{"withdraws", "withdraws", true, user.Detached},
			{"cancels", "withdraws", true, user.Cancelled},
			{"cancels", "cancels", true, user.Cancelled},
		} {
			name := fmt.Sprintf("bob %s, alice %s", c.bob, c.alice)
			u, err := users.Login(t.Context(), user.Login{Phone: phone(t, fmt.Sprint(13800138000+i))})
			if err != nil {
				t.Fatal(err)
			}
			alice, bob := fmt.Sprint("alice", i), fmt.Sprint("bob", i)
			bind := func(appid, openid, unionid string) {
				logIn(t, s, user.Binding{AppID: appid, OpenID: openid, UnionID: unionid, UserID: u.ID, PhoneAt: now}, user.Replace, now)
			}
			bind("wx1", alice, alice)
			bind("wx3", alice, alice)
			leave := func(appid, openid, how string) account.Leaver {
				t.Helper()
				left, err := s.Leave(t.Context(), appid, openid, how == "cancels", now.Add(time.Minute), ending(now, settings.Until(now)))
				if err != nil {
					t.Fatal(err)
				}
				return left
			}
			leave("wx3", alice, "withdraws") // before Bob has the number
			bind("wx2", bob, bob)
			if c.bob == "moves on" {
				execute(t, s, `DELETE FROM {bindings} WHERE openid = ?`, bob)
			} else if left := leave("wx2", bob, c.bob); left.Last {
				t.Errorf("%s: bob's decides: %+v", name, left)
			}
			left := leave("wx1", alice, c.alice)
			if left.Last != c.last || c.last && (left.Decides.OpenID != bob || left.Decides.State != c.state) {
				t.Errorf("%s: alice leaves: %+v", name, left)
			}
			if again := leave("wx3", alice, c.alice); again.Last != c.last || again.Decides.OpenID == alice {
				t.Errorf("%s: alice leaves another app: %+v", name, again)
			}
			if left.Decides.State == user.Detached {
				if detached, err := users.DetachLeft(t.Context(), u.ID, left.Decides.AppID, left.Decides.OpenID); err != nil || !detached {
					t.Errorf("%s: %v, %v", name, detached, err)
				}
			}
			for appid, openid := range map[string]string{"wx1": alice, "wx2": bob, "wx3": alice} {
				want := ""
				if openid == bob && left.Decides.State == user.Detached {
					want = u.ID
				}
				known, err := s.Known(t.Context(), login.Account{AppID: appid, OpenID: openid, UnionID: openid})
				if err != nil || known.Detached != want {
					t.Errorf("%s: %s would get the user %q with a new number, want %q: %v", name, openid, known.Detached, want, err)
				}
			}
		}
	})
}
