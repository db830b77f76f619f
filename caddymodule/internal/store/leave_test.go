package store

import (
	"slices"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

func leave(t *testing.T, s *Store, appid, openid string, before time.Time) Leaver {
	t.Helper()
	left, err := s.Leave(t.Context(), appid, openid, before, ending(now, settings.Until(now)))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

func TestWhoLeavesLosesTheirSessionsInThatAppOnly(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		bound := func(appid, openid, userID string) string {
			opened, _ := settle(t, s, user.Binding{AppID: appid, OpenID: openid, UnionID: "n", UserID: userID, PhoneAt: now, Phone: phone(t, "13800138000")}, user.Keep, now)
			return opened.ID
		}
		former := bound("wx1", "o1", "former") // the same WeChat user, with another number
		here, there := bound("wx1", "o1", "u"), bound("wx2", "o2", "u")
		bound("wx2", "o1", "other") // openids are unique within an app only

		left := leave(t, s, "wx1", "o1", now.Add(time.Minute))
		slices.Sort(left.Ended)
		want := []string{former, here}
		slices.Sort(want)
		if left.UserID != "u" || left.Last || left.Returned || !slices.Equal(left.Ended, want) {
			t.Errorf("left: %+v; want the sessions %v", left, want)
		}
		if b, ok, err := s.Binding(t.Context(), "wx1", "o1"); err != nil || !ok || !b.PhoneAt.IsZero() || !b.Phone.IsZero() {
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
		// The erasure failed, and is to be repeated.
		if again := leave(t, s, "wx2", "o2", now.Add(time.Minute)); again.UserID != "u" || !again.Last {
			t.Errorf("the last one again: %+v", again)
		}
		if feed, err := s.Revocations(t.Context(), 0, 0); err != nil || len(feed) != 3 {
			t.Errorf("the feed: %+v %v", feed, err)
		}
	})
}

func TestWhoLeavesIsUnknownOrBackAgain(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		if left := leave(t, s, "wx1", "nobody", now); left.UserID != "" || left.Last || left.Returned || left.Ended != nil {
			t.Errorf("nobody: %+v", left)
		}
		opened, _ := settle(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u", PhoneAt: now}, user.Keep, now)
		if left := leave(t, s, "wx1", "o1", now.Add(-time.Second)); !left.Returned || left.Last || left.Ended != nil {
			t.Errorf("back again: %+v", left)
		}
		if got, err := s.Session(t.Context(), opened.ID); err != nil || !got.EndedAt.IsZero() {
			t.Errorf("the session: %+v %v", got, err)
		}
	})
}

func TestAnOpenIDThatLeftIsNoOtherOpenID(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		settle(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u", PhoneAt: now}, user.Deny, now)
		leave(t, s, "wx1", "o1", now)
		settle(t, s, user.Binding{AppID: "wx1", OpenID: "o2", UserID: "u", PhoneAt: now}, user.Deny, now) // fails the test if denied
		if _, err := s.Settle(t.Context(), settlement(user.Binding{AppID: "wx1", OpenID: "o3", UserID: "u", PhoneAt: now}, user.Deny, newSession("u", "wx1", "o3", now))); err == nil {
			t.Error("a third one was let in beside the second")
		}
	})
}
