package store

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

func TestBindingsAreFoundByOpenIDUnionIDAndUser(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		first := user.Binding{AppID: "wx1", OpenID: "o1", UnionID: "un1", UserID: "u1", PhoneAt: now}
		second := user.Binding{AppID: "wx2", OpenID: "o2", UnionID: "un1", UserID: "u2", PhoneAt: now.Add(time.Hour)}
		silent := user.Binding{AppID: "wx3", OpenID: "o3", UnionID: "un1", UserID: "u2"}
		none := user.Binding{AppID: "wx4", OpenID: "o4", UserID: "u3"}
		for i, b := range []user.Binding{first, second, silent, none} {
			settle(t, s, b, user.Replace, now.Add(time.Duration(i)*time.Minute))
		}
		for _, want := range []user.Binding{first, second, silent, none} {
			if got, found, err := s.Binding(t.Context(), want.AppID, want.OpenID); !found || err != nil || got != want {
				t.Errorf("%+v, %v, %v; want %+v", got, found, err, want)
			}
		}
		if got, found, err := s.BindingByUnionID(t.Context(), "un1"); !found || err != nil || got != second {
			t.Errorf("the latest phone login: %+v, %v, %v", got, found, err)
		}
		for _, none := range []string{"", "UN1", "un"} {
			if got, found, err := s.BindingByUnionID(t.Context(), none); found || err != nil {
				t.Errorf("unionid %q: %+v, %v", none, got, err)
			}
		}
		// Openids are compared byte by byte.
		if _, found, err := s.Binding(t.Context(), "wx1", "O1"); found || err != nil {
			t.Error("O1 is taken for o1", err)
		}

		settle(t, s, user.Binding{AppID: "wx1", OpenID: "o9", UserID: "u1"}, user.Keep, now.Add(time.Hour))
		if got, found, err := s.UserBinding(t.Context(), "wx1", "u1"); !found || err != nil || got.OpenID != "o9" {
			t.Errorf("the newest openid: %+v, %v", got, err)
		}
		if _, found, err := s.UserBinding(t.Context(), "wx2", "u1"); found || err != nil {
			t.Error(found, err)
		}
	})
}

func TestSameOpenIDAgainForgetsNothing(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		settle(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UnionID: "un1", UserID: "u1", PhoneAt: now}, user.Replace, now)
		first, ended := settle(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1", PhoneAt: now.Add(-time.Hour)}, user.Deny, now)
		got, _, err := s.Binding(t.Context(), "wx1", "o1")
		if err != nil || got.UnionID != "un1" || !got.PhoneAt.Equal(now) || len(ended) != 0 {
			t.Errorf("%+v, %v, ended %v", got, err, ended)
		}
		if live, err := s.Session(t.Context(), first.ID); err != nil || !live.EndedAt.IsZero() {
			t.Error("the first session ended", err)
		}
	})
}

func TestBindingKeepsTheNumberOfTheLastPhoneLogin(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		want := func(number user.Phone) {
			t.Helper()
			if got, _, err := s.Binding(t.Context(), "wx1", "o1"); err != nil || got.Phone != number {
				t.Errorf("%v, %v; want %v", got.Phone, err, number)
			}
		}
		p1, p2 := phone(t, "13800138000"), phone(t, "13900139000")
		b := user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1", PhoneAt: now, Phone: p1}
		settle(t, s, b, user.Replace, now)
		want(p1)
		var raw []byte
		err := s.read(t.Context(), "reading", func(tx *tx) error { return tx.row(`SELECT phone FROM {bindings}`).Scan(&raw) })
		if err != nil || len(raw) == 0 || bytes.Contains(raw, []byte("13800138000")) {
			t.Errorf("the number is not sealed: %q, %v", raw, err)
		}
		b.PhoneAt, b.Phone = now.Add(-time.Hour), p2
		settle(t, s, b, user.Replace, now) // an older login that was slow
		want(p1)
		b.PhoneAt = now.Add(time.Hour)
		settle(t, s, b, user.Replace, now)
		want(p2)
		b.UserID, b.Phone = "u2", user.Phone{}
		settle(t, s, b, user.Replace, now)
		want(user.Phone{})
	})
}

func TestOpenIDOfAnotherUserMoves(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		settle(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UnionID: "un1", UserID: "u1", PhoneAt: now}, user.Replace, now)
		want := user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u2", PhoneAt: now.Add(-time.Hour)}
		settle(t, s, want, user.Deny, now)
		if got, _, err := s.Binding(t.Context(), "wx1", "o1"); err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	})
}

// Ann gave up her number; Bob got it, and logs in with it from his phone.
func TestNewOpenIDRules(t *testing.T) {
	for rule, want := range map[user.NewOpenID]struct {
		err         error
		ended       int
		ann1, ann2  bool // her openids in the two apps stay bound
		annSameApp2 bool // an account of hers that WeChat does not connect with the first
	}{
		user.Replace: {nil, 2, false, false, true},
		user.Keep:    {nil, 0, true, true, true},
		user.Deny:    {user.ErrNewOpenID, 0, true, true, true},
	} {
		t.Run(string(rule), func(t *testing.T) {
			onEach(t, func(t *testing.T, open database) {
				s := started(t, open)
				in1, _ := settle(t, s, user.Binding{AppID: "wx1", OpenID: "ann1", UnionID: "ann", UserID: "u", PhoneAt: now}, rule, now)
				in2, _ := settle(t, s, user.Binding{AppID: "wx2", OpenID: "ann2", UnionID: "ann", UserID: "u", PhoneAt: now}, rule, now)
				in3, _ := settle(t, s, user.Binding{AppID: "wx3", OpenID: "tablet", UnionID: "", UserID: "u", PhoneAt: now}, rule, now)

				later := now.Add(time.Hour)
				bob := newSession("u", "wx1", "bob1", later)
				ended, err := s.Settle(t.Context(), settlement(user.Binding{AppID: "wx1", OpenID: "bob1", UnionID: "bob", UserID: "u", PhoneAt: later}, rule, bob))
				if !errors.Is(err, want.err) || len(ended) != want.ended {
					t.Fatalf("ended %v, %v", ended, err)
				}
				for openid, stays := range map[string]bool{"ann1": want.ann1, "ann2": want.ann2} {
					if _, bound, err := s.Binding(t.Context(), "wx"+openid[3:], openid); bound != stays || err != nil {
						t.Errorf("%s is bound: %v, %v", openid, bound, err)
					}
				}
				if _, bound, err := s.Binding(t.Context(), "wx3", "tablet"); bound != want.annSameApp2 || err != nil {
					t.Errorf("the tablet is bound: %v, %v", bound, err)
				}
				for id, stays := range map[string]bool{in1.ID: want.ann1, in2.ID: want.ann2, in3.ID: true} {
					got, err := s.Session(t.Context(), id)
					if err != nil || got.EndedAt.IsZero() != stays || slices.Contains(ended, id) == stays {
						t.Errorf("a session of Ann's: %+v, %v", got, err)
					}
				}
				feed, err := s.Revocations(t.Context(), 0, 0)
				if err != nil || len(feed) != want.ended {
					t.Errorf("the feed: %+v, %v", feed, err)
				}
				_, bound, _ := s.Binding(t.Context(), "wx1", "bob1")
				_, err = s.Session(t.Context(), bob.ID)
				if bound != (want.err == nil) || (err == nil) != (want.err == nil) {
					t.Errorf("Bob is bound: %v; his session: %v", bound, err)
				}
			})
		})
	}
}

func TestReplaceInOneAppSparesTheSameAccountElsewhere(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		// The same WeChat account, with an openid that WeChat changed.
		settle(t, s, user.Binding{AppID: "wx1", OpenID: "old", UnionID: "un", UserID: "u"}, user.Replace, now)
		settle(t, s, user.Binding{AppID: "wx2", OpenID: "o2", UnionID: "un", UserID: "u"}, user.Replace, now)
		_, ended := settle(t, s, user.Binding{AppID: "wx1", OpenID: "new", UnionID: "un", UserID: "u"}, user.Replace, now)
		if len(ended) != 1 {
			t.Errorf("ended %v", ended)
		}
		if _, bound, err := s.Binding(t.Context(), "wx2", "o2"); !bound || err != nil {
			t.Error("the other app's binding went", err)
		}
	})
}

func TestSettleRefusesAnUnknownRule(t *testing.T) {
	s := started(t, newSQLite(t))
	if _, err := s.Settle(t.Context(), settlement(user.Binding{}, "", newSession("u", "a", "o", now))); err == nil {
		t.Error("settled")
	}
}
