package login_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// Alice's WeChat account belonged to another user before she logged in with a second number.
// The answer says so, also when it is repeated.
func TestMovedIsSaidInEveryAnswer(t *testing.T) {
	for _, union := range []bool{false, true} {
		h := newTestChain(t)
		h.wechat.union = union
		app := "wxA"
		if union {
			app = "wxB" // by the unionid
		}
		first := h.login(t, "wxA", h.code("alice"), h.phoneCode("alice", number))
		code, phoneCode := h.code("alice"), h.phoneCode("alice", otherNumber)
		moved, again := h.login(t, app, code, phoneCode), h.login(t, app, code, phoneCode)
		if first.Moved || !moved.Moved || !again.Moved || !again.Replayed || moved.User.ID == first.User.ID {
			t.Errorf("first %+v, moved %+v, again %+v", first, moved, again)
		}
		if h.login(t, app, h.code("alice"), h.phoneCode("alice", otherNumber)).Moved {
			t.Error("moved once more")
		}
		if h.login(t, app, h.code("alice"), "").Moved {
			t.Error("moved silently")
		}
	}
}

// A login code is sent alone and with two phone codes, all at the same time, on two replicas
// and at two sites. It opens one session. The phone codes of the logins that lost still work
// with a new login code.
func TestOneLoginCodeOpensOneSession(t *testing.T) {
	a := newTestChain(t)
	b := a.replica()
	b.Sessions.Issuer = "another site"
	a.login(t, "wxA", a.code("alice"), a.phoneCode("alice", number))
	for range 30 {
		code := a.code("alice")
		phoneCodes := []string{"", a.phoneCode("alice", number), a.phoneCode("alice", number), a.phoneCode("alice", otherNumber)}
		opened := make([]error, 2*len(phoneCodes))
		var wg sync.WaitGroup
		for i := range opened {
			h := []*testChain{a, b}[i%2]
			wg.Go(func() {
				_, opened[i] = h.Login(context.Background(), login.Request{App: wechat.App{ID: "wxA"}, Code: code, PhoneCode: phoneCodes[i/2]})
			})
		}
		wg.Wait()
		n := 0
		for _, err := range opened {
			var e *login.Error
			switch {
			case err == nil:
				n++
			case !errors.As(err, &e) || e.Code != problem.LoginCodeInvalid && e.Code != problem.PhoneRequired || e.Code == problem.LoginCodeInvalid && len(e.Renew) != 1:
				t.Errorf("refused: %v", err)
			}
		}
		if n != 1 {
			t.Fatalf("%d logins with one code", n)
		}
		asked := a.wechat.phones
		for _, phoneCode := range phoneCodes[1:] {
			a.login(t, "wxA", a.code("alice"), phoneCode)
		}
		if more := a.wechat.phones - asked; more > len(phoneCodes)-1 {
			t.Errorf("%d exchanges", more)
		}
	}
}

// slowMembers is an external directory that runs a function before it answers.
type slowMembers struct {
	*members
	before func()
}

func (m *slowMembers) Login(ctx context.Context, l user.Login) (user.User, error) {
	if do := m.before; do != nil {
		m.before = nil
		do()
	}
	if l.Silent() && l.UserID == "" {
		return user.User{}, user.ErrUnknown
	}
	return m.members.Login(ctx, l)
}

func (m *slowMembers) Check(_ context.Context, id string) (user.User, error) {
	return user.User{ID: id}, nil
}

func (m *slowMembers) Erase(context.Context, string) error { return nil }

// A user of an external directory is erased while one of their logins is under way. The
// login does not succeed for that id, and the client learns which codes to fetch. With
// these, the login creates a new user.
func TestErasureWinsAgainstALoginUnderWay(t *testing.T) {
	h := newTestChain(t)
	m := &slowMembers{members: withMembers(h)}
	there := h.store.ExternalUsers(m, h.Sessions.Settings)
	h.Directory = there
	id := "m-" + number
	erase := func() {
		if err := there.Erase(t.Context(), id); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Millisecond) // a login of the same millisecond counts as begun before
	}
	gone := func(what string) {
		t.Helper()
		if list, err := h.store.UserBindings(t.Context(), id); err != nil || len(list) != 0 {
			t.Errorf("%s: bindings %+v, %v", what, list, err)
		}
	}
	h.login(t, "wxA", h.code("alice"), h.phoneCode("alice", number))

	m.before = erase
	code, phoneCode := h.code("alice"), h.phoneCode("alice", number)
	h.refused(t, "wxA", code, phoneCode, problem.PhoneCodeInvalid, "code", "phoneCode")
	h.refused(t, "wxA", code, phoneCode, problem.PhoneCodeInvalid, "code", "phoneCode")            // the same codes again
	h.refused(t, "wxA", h.code("alice"), phoneCode, problem.PhoneCodeInvalid, "code", "phoneCode") // one of them is new
	gone("in the directory")
	if back := h.login(t, "wxA", h.code("alice"), h.phoneCode("alice", number)); back.User.ID != id {
		t.Errorf("back as %+v", back.User)
	}

	resume, ended := h.underWayRefused(t, h.code("alice"), h.phoneCode("alice", number))
	erase()
	resume()
	if e := <-ended; e == nil || e.Code != problem.PhoneCodeInvalid {
		t.Errorf("in WeChat: %v", e)
	}
	gone("in WeChat")
	h.wechat.gate, h.wechat.entered = nil, nil

	h.login(t, "wxA", h.code("alice"), h.phoneCode("alice", number))
	m.before = erase
	h.refused(t, "wxA", h.code("alice"), "", problem.PhoneRequired)
	gone("silently")

	// The first attempt fails at WeChat, and the same codes come again after the
	// erasure.
	h.login(t, "wxA", h.code("alice"), h.phoneCode("alice", number))
	h.wechat.fail = &wechat.Error{Call: wechat.CallPhone, Kind: wechat.KindBusy}
	code, phoneCode = h.code("alice"), h.phoneCode("alice", number)
	h.refused(t, "wxA", code, phoneCode, problem.WeChatUnavailable)
	h.wechat.fail = nil
	erase()
	h.refused(t, "wxA", code, phoneCode, problem.PhoneCodeInvalid, "code", "phoneCode")
	h.refused(t, "wxA", h.code("alice"), phoneCode, problem.PhoneCodeInvalid, "code", "phoneCode")
	gone("sent again")
	h.login(t, "wxA", h.code("alice"), h.phoneCode("alice", number))
}

func (h *testChain) underWayRefused(t *testing.T, code, phoneCode string) (resume func(), done <-chan *login.Error) {
	t.Helper()
	h.wechat.entered, h.wechat.gate = make(chan struct{}, 100), make(chan struct{})
	ended := make(chan *login.Error, 1)
	go func() {
		_, err := h.Login(context.Background(), login.Request{App: wechat.App{ID: "wxA"}, Code: code, PhoneCode: phoneCode})
		var e *login.Error
		errors.As(err, &e)
		ended <- e
	}()
	<-h.wechat.entered
	gate := h.wechat.gate
	return sync.OnceFunc(func() { close(gate) }), ended
}

// eraser is the store's own directory, but it erases each user that it has found, once.
type eraser struct {
	user.Directory
	done bool
}

func (e *eraser) Login(ctx context.Context, l user.Login) (user.User, error) {
	u, err := e.Directory.Login(ctx, l)
	if err == nil && !e.done {
		e.done = true
		err = e.Directory.Erase(ctx, u.ID)
	}
	return u, err
}

// The store's own directory never reuses an id, so the login creates a new user.
func TestErasedIDOfOurOwnNeverComesAgain(t *testing.T) {
	h := newTestChain(t)
	first := h.login(t, "wxA", h.code("alice"), h.phoneCode("alice", number))
	h.Directory = &eraser{Directory: h.Directory}
	res := h.login(t, "wxA", h.code("alice"), h.phoneCode("alice", number))
	if res.User.ID == first.User.ID || !res.User.New {
		t.Errorf("%+v after %+v", res.User, first.User)
	}
	if list, err := h.store.UserBindings(t.Context(), first.User.ID); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

// An external directory must not learn of a suspended binding, because only the number proves
// who owns that account now.
func TestDirectorySeesNoSuspendedBinding(t *testing.T) {
	h := newTestChain(t)
	m := withMembers(h)
	h.login(t, "wxB", h.code("alice"), h.phoneCode("alice", number))
	bob := h.login(t, "wxA", h.code("bob"), h.phoneCode("bob", number))
	if !bob.Rebound || len(bob.Ended) != 1 {
		t.Errorf("Bob: %+v", bob)
	}
	asked := len(m.asked)
	h.refused(t, "wxB", h.code("alice"), "", problem.PhoneRequired)
	if len(m.asked) != asked {
		t.Error("the directory is asked about a silent login")
	}
	h.login(t, "wxB", h.code("alice"), h.phoneCode("alice", otherNumber))
	if l := m.last(); l.UserID != "" || l.Rebound {
		t.Errorf("it is asked %+v", l)
	}
}

// A recycled number: Ann gives her number back, and Bob gets it. Bob's login takes the
// account over, and Ann is logged out in every app.
func TestRecycledNumberReplace(t *testing.T) {
	h := newTestChain(t)
	h.wechat.union = true
	ann := h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", number))
	annB := h.login(t, "wxB", h.code("ann"), "")
	bob := h.login(t, "wxA", h.code("bob"), h.phoneCode("bob", number))
	if bob.User.ID != ann.User.ID {
		t.Errorf("the number's user is another one: %s", bob.User.ID)
	}
	if !slices.Contains(bob.Ended, ann.Session.ID) || !h.Sessions.Revoked.Contains(ann.Session.ID) {
		t.Error("Ann's session in the same app goes on")
	}
	if !slices.Contains(bob.Ended, annB.Session.ID) {
		t.Error("Ann's session in the other app goes on")
	}
	for _, app := range []string{"wxA", "wxB"} {
		h.refused(t, app, h.code("ann"), "", problem.PhoneRequired)
	}
	h.login(t, "wxA", h.code("bob"), "")
}

// The same story under `keep`: both openids may use the account.
func TestRecycledNumberKeep(t *testing.T) {
	h := newTestChain(t)
	h.NewOpenID = user.Keep
	ann := h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", number))
	bob := h.login(t, "wxA", h.code("bob"), h.phoneCode("bob", number))
	if bob.User.ID != ann.User.ID || len(bob.Ended) != 0 {
		t.Errorf("bob is %s, ended %v", bob.User.ID, bob.Ended)
	}
	if res := h.login(t, "wxA", h.code("ann"), ""); res.User.ID != ann.User.ID {
		t.Error("Ann's openid lost its binding")
	}
}

// The same story under `deny`: the other openid is refused.
func TestRecycledNumberDeny(t *testing.T) {
	h := newTestChain(t)
	h.NewOpenID = user.Deny
	ann := h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", number))
	h.refused(t, "wxA", h.code("bob"), h.phoneCode("bob", number), problem.NewOpenIDDenied)
	if h.Sessions.Revoked.Contains(ann.Session.ID) {
		t.Error("Ann's session ended")
	}
	h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", number))
}

// Ann gets a new number. If her user's number were changed, a number that belongs to
// somebody else could take her account over. So she becomes a new user.
func TestNewNumberOfAnOpenIDIsANewUser(t *testing.T) {
	h := newTestChain(t)
	ann := h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", number))
	moved := h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", otherNumber))
	if moved.User.ID == ann.User.ID || !moved.User.New {
		t.Errorf("the new number is %s, new %v", moved.User.ID, moved.User.New)
	}
	if silent := h.login(t, "wxA", h.code("ann"), ""); silent.User.ID != moved.User.ID {
		t.Error("the openid still belongs to the former user")
	}
}
