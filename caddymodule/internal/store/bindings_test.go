package store

import (
	"bytes"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// A login looks up bindings by openid and by unionid. The backend looks them up by user.
func TestBindingsAreFoundByEachID(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		first := user.Binding{AppID: "wx1", OpenID: "o1", UnionID: "un1", UserID: "u1", PhoneAt: now}
		second := user.Binding{AppID: "wx2", OpenID: "o2", UnionID: "un1", UserID: "u2", PhoneAt: now.Add(time.Hour)}
		silent := user.Binding{AppID: "wx3", OpenID: "o3", UnionID: "un1", UserID: "u2"}
		none := user.Binding{AppID: "wx4", OpenID: "o4", UserID: "u3"}
		for i, b := range []user.Binding{first, second, silent, none} {
			logIn(t, s, b, user.Replace, now.Add(time.Duration(i)*time.Minute))
		}
		for _, want := range []user.Binding{first, second, silent, none} {
			if got, found, err := s.Binding(t.Context(), want.AppID, want.OpenID); !found || err != nil || got != want {
				t.Errorf("%+v, %v, %v; want %+v", got, found, err, want)
			}
		}
		if got, err := s.Known(t.Context(), login.Account{AppID: "wx9", OpenID: "o9", UnionID: "un1"}); err != nil || got.Binding != second || got.Taken {
			t.Errorf("the latest phone login: %+v, %v", got, err)
		}
		for _, none := range []string{"", "UN1", "un"} {
			if got, err := s.Known(t.Context(), login.Account{AppID: "wx9", OpenID: "o9", UnionID: none}); got.UserID != "" || err != nil {
				t.Errorf("unionid %q: %+v, %v", none, got, err)
			}
		}
		// Openids are compared byte by byte.
		if _, found, err := s.Binding(t.Context(), "wx1", "O1"); found || err != nil {
			t.Error("O1 is taken for o1", err)
		}

		logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o8", UserID: "u2"}, user.Keep, now.Add(time.Hour))
		if got, err := s.Known(t.Context(), login.Account{AppID: "wx1", OpenID: "o9", UnionID: "un1"}); err != nil || got.Binding != second || !got.Taken {
			t.Errorf("the user has another openid in the app: %+v, %v", got, err)
		}
	})
}

// A login without a unionid must not erase the unionid of an earlier one.
func TestSameOpenIDAgainForgetsNothing(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UnionID: "un1", UserID: "u1", PhoneAt: now}, user.Replace, now)
		first, ended := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1", PhoneAt: now.Add(-time.Hour)}, user.Deny, now)
		got, _, err := s.Binding(t.Context(), "wx1", "o1")
		if err != nil || got.UnionID != "un1" || !got.PhoneAt.Equal(now) || len(ended) != 0 {
			t.Errorf("%+v, %v, ended %v", got, err, ended)
		}
		if live, err := s.Session(t.Context(), first.ID); err != nil || !live.EndedAt.IsZero() {
			t.Error("the first session ended", err)
		}
	})
}

// A silent login changes neither the number nor the time of the last phone login.
func TestBindingKeepsTheLastPhoneLogin(t *testing.T) {
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
		logIn(t, s, b, user.Replace, now)
		want(p1)
		var raw []byte
		err := s.sql.Read(t.Context(), "reading", func(tx *sqldb.Tx) error { return tx.Row(`SELECT phone FROM {bindings}`).Scan(&raw) })
		if err != nil || len(raw) == 0 || bytes.Contains(raw, []byte("13800138000")) {
			t.Errorf("the number is not sealed: %q, %v", raw, err)
		}
		b.PhoneAt, b.Phone = now.Add(-time.Hour), p2
		logIn(t, s, b, user.Replace, now) // a login that began earlier and ends later
		want(p1)
		b.PhoneAt = now.Add(time.Hour)
		logIn(t, s, b, user.Replace, now)
		want(p2)
		b.UserID, b.Phone = "u2", user.Phone{}
		logIn(t, s, b, user.Replace, now)
		want(user.Phone{})
	})
}

// An openid that logs in with another user's number moves to that user.
func TestOpenIDOfAnotherUserMoves(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UnionID: "un1", UserID: "u1", PhoneAt: now}, user.Replace, now)
		want := user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u2", PhoneAt: now.Add(-time.Hour)}
		logIn(t, s, want, user.Deny, now)
		if got, _, err := s.Binding(t.Context(), "wx1", "o1"); err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	})
}

// Under `replace` a login ends other WeChat accounts, but not the same account in
// another app.
func TestReplaceSparesTheSameAccount(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		// The same WeChat account, with an openid that WeChat changed.
		logIn(t, s, user.Binding{AppID: "wx1", OpenID: "old", UnionID: "un", UserID: "u"}, user.Replace, now)
		logIn(t, s, user.Binding{AppID: "wx2", OpenID: "o2", UnionID: "un", UserID: "u"}, user.Replace, now)
		_, ended := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "new", UnionID: "un", UserID: "u"}, user.Replace, now)
		if len(ended) != 1 {
			t.Errorf("ended %v", ended)
		}
		if _, bound, err := s.Binding(t.Context(), "wx2", "o2"); !bound || err != nil {
			t.Error("the other app's binding was removed", err)
		}
	})
}

// A rule that this version does not know must not be treated as one that it knows.
func TestCommitRefusesAnUnknownRule(t *testing.T) {
	s := started(t, newSQLite(t))
	if _, err := commit(t, s, loginCommit(user.Binding{}, "", newSession("u", "a", "o", now))); err == nil {
		t.Error("a login with an unknown rule was committed")
	}
}
