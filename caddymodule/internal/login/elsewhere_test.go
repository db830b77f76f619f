package login_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// members is an external directory that returns no phone numbers.
type members struct {
	user.Directory
	asked []user.Login
	fail  error
	id    func(user.Login) string
}

func (m *members) Login(_ context.Context, l user.Login) (user.User, error) {
	m.asked = append(m.asked, l)
	if m.fail != nil {
		return user.User{}, m.fail
	}
	return user.User{ID: m.id(l)}, nil
}

func (m *members) last() user.Login { return m.asked[len(m.asked)-1] }

func withMembers(h *testChain) *members {
	m := &members{id: func(l user.Login) string {
		if l.Silent() {
			return l.UserID
		}
		return "m-" + l.Phone.National
	}}
	h.Directory = m
	return m
}

// The external directory returns no numbers. A silent login then has the number of the
// last phone login.
func TestNumberIsKeptForASilentDirectory(t *testing.T) {
	h := newTestChain(t)
	m := withMembers(h)
	var minted user.User
	h.Mint = func(_ session.Session, u user.User, _ time.Time) (string, error) {
		minted = u
		return "token", nil
	}
	h.wechat.union = true
	want := func(what, phone string) {
		t.Helper()
		if minted.Phone.E164() != phone {
			t.Errorf("%s: the token's number is %q, want %q", what, minted.Phone.E164(), phone)
		}
	}
	h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", number))
	want("phone login", "+86"+number)
	h.login(t, "wxA", h.code("ann"), "")
	want("silent login", "+86"+number)
	h.login(t, "wxB", h.code("ann"), "")
	want("silent login by unionid, in another app", "+86"+number)
	h.login(t, "wxB", h.code("ann"), "")
	want("and again there", "+86"+number)

	if m.last().Rebound {
		t.Error("a silent login is said to be rebound")
	}
	h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", otherNumber))
	if !m.last().Rebound || m.last().UserID != "m-"+number {
		t.Errorf("another number is not told: %+v", m.last())
	}
	want("another number", "+86"+otherNumber)
	h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", otherNumber))
	if m.last().Rebound {
		t.Error("the same number again is said to be another")
	}
}

// A backend may create a user before its answer is lost. All attempts of one login must
// have the same id, so that it creates one user.
func TestLoginHasOneIDForTheDirectory(t *testing.T) {
	h := newTestChain(t)
	m := withMembers(h)
	h.wechat.union = true // otherwise a login in another app suspends the first openid
	m.fail = errors.New("down")
	code, phoneCode := h.code("ann"), h.phoneCode("ann", number)
	h.refused(t, "wxA", code, phoneCode, problem.DirectoryUnavailable)
	h.refused(t, "wxA", code, phoneCode, problem.DirectoryUnavailable)
	h.refused(t, "wxA", h.code("ann"), phoneCode, problem.DirectoryUnavailable) // the login code was renewed
	m.fail = fmt.Errorf("%w: garbage", user.ErrMisconfigured)
	h.refused(t, "wxA", h.code("ann"), phoneCode, problem.Misconfigured)
	m.fail = nil
	h.login(t, "wxA", h.code("ann"), phoneCode)
	first := m.asked[0].ID
	if first == "" {
		t.Fatal("a login has no id")
	}
	for i, l := range m.asked {
		if l.ID != first {
			t.Errorf("try %d has another id", i)
		}
	}
	if h.wechat.phones != 1 {
		t.Errorf("the phone code was exchanged %d times", h.wechat.phones)
	}
	seen := map[string]bool{first: true}
	silent := h.code("ann")
	for name, do := range map[string]func(){
		"another phone code": func() { h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", number)) },
		"another app":        func() { h.login(t, "wxB", h.code("ann"), h.phoneCode("ann", number)) },
		"silent":             func() { h.login(t, "wxA", silent, "") },
		"silent again":       func() { h.login(t, "wxA", h.code("ann"), "") },
	} {
		do()
		if seen[m.last().ID] {
			t.Errorf("%s: the id was another login's", name)
		}
		seen[m.last().ID] = true
	}
}

// The directory returns claims that do not fit into a token. No session may be left
// behind.
func TestOversizedClaimsOpenNoSession(t *testing.T) {
	h := newTestChain(t)
	withMembers(h)
	good := h.Mint
	h.Mint = func(session.Session, user.User, time.Time) (string, error) { return "", errors.New("too long") }
	code, phoneCode := h.code("ann"), h.phoneCode("ann", number)
	h.refused(t, "wxA", code, phoneCode, problem.Misconfigured)
	if ss, err := h.store.UserSessions(t.Context(), "m-"+number, h.Now()); err != nil || len(ss) != 0 {
		t.Errorf("%d sessions, %v", len(ss), err)
	}
	h.Mint = good
	h.pass(2 * time.Minute) // longer than a pair is answered with its session
	h.login(t, "wxA", code, phoneCode)
	if h.wechat.sessions != 1 || h.wechat.phones != 1 {
		t.Errorf("codes were exchanged %d and %d times", h.wechat.sessions, h.wechat.phones)
	}
}

// A package that does not know the token decides which claims a directory must not set. The
// two lists must agree.
func TestClaimsOfTheTokenAreReserved(t *testing.T) {
	for _, name := range []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "sid", "openid", "unionid", "wx", "SUB", "roles", "phone"} {
		if token.Reserved(name) && !user.ReservedClaim(name) {
			t.Errorf("%s is the token's, and a directory may set it", name)
		}
	}
	if !user.ReservedClaim(login.PhoneClaim) || user.ReservedClaim("roles") {
		t.Error("the phone number's claim is reserved, roles is not")
	}
}
