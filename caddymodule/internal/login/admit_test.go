package login_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
)

// The backend has disabled a user. Their login is refused, and their sessions end.
func TestDisabledUserIsRefusedAtLogin(t *testing.T) {
	h := newTestChain(t)
	ann := h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", number))
	if err := h.store.SetDisabled(t.Context(), ann.User.ID, true); err != nil {
		t.Fatal(err)
	}
	h.refused(t, "wxA", h.code("ann"), "", problem.UserDisabled)
	if !h.Sessions.Revoked.Contains(ann.Session.ID) {
		t.Error("the disabled user's session goes on")
	}
}

// Registration is closed: an unknown number is refused.
func TestRegistrationClosed(t *testing.T) {
	h := newTestChain(t)
	h.Directory = h.store.Users(false, h.Sessions.Settings)
	h.refused(t, "wxA", h.code("ann"), h.phoneCode("ann", number), problem.RegistrationClosed)
}

// A number of another country may not register. A user who already has one may log in.
func TestCountriesLimitRegistrationOnly(t *testing.T) {
	h := newTestChain(t)
	h.wechat.country = "852"
	known := h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", "91234567"))
	h.Directory = h.store.Users(true, h.Sessions.Settings).Countries([]string{"86", "853"})
	h.refused(t, "wxA", h.code("bob"), h.phoneCode("bob", "91234568"), problem.RegistrationClosed)
	if again := h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", "91234567")); again.User.ID != known.User.ID {
		t.Error("a known user is another one")
	}
	h.wechat.country = "86"
	h.login(t, "wxA", h.code("bob"), h.phoneCode("bob", number))
	h.Directory = h.store.Users(true, h.Sessions.Settings).Countries(nil)
	h.wechat.country = "81"
	h.login(t, "wxA", h.code("cid"), h.phoneCode("cid", "9012345678"))
}

// A hundred first logins of one number at once create one user.
func TestHundredFirstLoginsMakeOneUser(t *testing.T) {
	h := newTestChain(t)
	ids := make([]string, 100)
	var created atomic.Int64
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			res := h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", number))
			ids[i] = res.User.ID
			if res.User.New {
				created.Add(1)
			}
		})
	}
	wg.Wait()
	if slices.Sort(ids); ids[0] != ids[99] || created.Load() != 1 {
		t.Errorf("%d users were created", created.Load())
	}
}
