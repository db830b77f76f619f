package login_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// replica returns another process that uses the same store.
func (h *testChain) replica() *testChain {
	c := *h.Chain
	c.State = new(login.State)
	other := &testChain{Chain: &c, wechat: h.wechat, store: h.store}
	other.n.Store(1000 + h.n.Load()) // so that the two make different codes
	return other
}

// underWay starts a login and returns once it has reached the phone exchange. The login
// goes on when resume is called, and done receives its result.
func (h *testChain) underWay(t *testing.T, code, phoneCode string) (resume func(), done <-chan login.Result) {
	t.Helper()
	h.wechat.entered, h.wechat.gate = make(chan struct{}, 100), make(chan struct{})
	ended := make(chan login.Result, 1)
	go func() { ended <- h.login(t, "wxA", code, phoneCode) }()
	<-h.wechat.entered
	gate := h.wechat.gate
	return sync.OnceFunc(func() { close(gate) }), ended
}

func (h *testChain) wantCalls(t *testing.T, sessions, phones int) {
	t.Helper()
	h.wechat.mu.Lock()
	defer h.wechat.mu.Unlock()
	if h.wechat.sessions != sessions || h.wechat.phones != phones {
		t.Errorf("WeChat was asked %d and %d times, want %d and %d", h.wechat.sessions, h.wechat.phones, sessions, phones)
	}
}

// The client repeats its login at another replica while the first one still waits for
// WeChat.
func TestLoginIsJoinedOnAnotherReplica(t *testing.T) {
	a := newTestChain(t)
	b := a.replica()
	code, phoneCode := a.code("ann"), a.phoneCode("ann", number)
	resume, done := a.underWay(t, code, phoneCode)
	time.AfterFunc(250*time.Millisecond, resume) // between two polls
	joined := make([]login.Result, 20)
	var all sync.WaitGroup
	for i := range joined {
		all.Go(func() { joined[i] = b.login(t, "wxA", code, phoneCode) })
	}
	all.Wait()
	first := <-done
	for _, j := range joined {
		// The answer says that the user is new if this replica created it, whichever login
		// came first in the end.
		if isNew := first.User.New && (j.User.New || first.Replayed); j.Session.ID != first.Session.ID || j.RefreshToken != first.RefreshToken || !isNew || j.Replayed == first.Replayed {
			t.Fatalf("joined %+v, first %+v", j, first)
		}
	}
	a.wantCalls(t, 1, 1)
}

// The client comes to another replica with a new login code and the phone code that is
// being exchanged.
func TestPhoneCodeIsJoinedOnAnotherReplica(t *testing.T) {
	a := newTestChain(t)
	b := a.replica()
	phoneCode := a.phoneCode("ann", number)
	resume, done := a.underWay(t, a.code("ann"), phoneCode)
	time.AfterFunc(300*time.Millisecond, resume)
	second := b.login(t, "wxA", b.code("ann"), phoneCode) // the client has called wx.login again
	first := <-done
	if second.User.ID != first.User.ID || second.Session.ID == first.Session.ID {
		t.Errorf("%+v and %+v", first, second)
	}
	a.wantCalls(t, 2, 1)
}

// A thief presents the phone code at another replica while its owner's exchange is
// under way.
func TestStolenPhoneCodeOnAnotherReplica(t *testing.T) {
	for _, when := range []string{"before", "during", "after"} {
		t.Run(when, func(t *testing.T) {
			a := newTestChain(t)
			b := a.replica()
			phoneCode := a.phoneCode("ann", number)
			steal := func() {
				b.refused(t, "wxA", b.code("eve"), phoneCode, problem.PhoneCodeInvalid, "code", "phoneCode")
			}
			phones := 1
			switch when {
			case "before":
				steal()
				phones = 2 // WeChat refuses the thief's request
				a.login(t, "wxA", a.code("ann"), phoneCode)
			case "during":
				resume, done := a.underWay(t, a.code("ann"), phoneCode)
				time.AfterFunc(200*time.Millisecond, resume)
				steal()
				<-done
			case "after":
				a.login(t, "wxA", a.code("ann"), phoneCode)
				steal()
			}
			a.wantCalls(t, 2, phones)
		})
	}
}

// The other replica is alive but slow. Nobody else may spend the code, so the client is asked
// to try again.
func TestSlowReplicaKeepsItsLease(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it takes seconds")
	}
	t.Parallel()
	a := newTestChain(t)
	b := a.replica()
	code, phoneCode := a.code("ann"), a.phoneCode("ann", number)
	resume, done := a.underWay(t, code, phoneCode)
	defer resume()
	_, err := b.Login(t.Context(), login.Request{App: wechat.App{ID: "wxA"}, Code: code, PhoneCode: phoneCode})
	var le *login.Error
	if !errors.As(err, &le) || le.Code != problem.WeChatUnavailable || le.Renew == nil || len(le.Renew) != 0 || le.RetryAfter <= 0 || le.Refused {
		t.Fatalf("%+v", err)
	}
	resume()
	first := <-done
	if again := b.login(t, "wxA", code, phoneCode); again.Session.ID != first.Session.ID {
		t.Error("another session")
	}
	a.wantCalls(t, 1, 1)
}

// deadStore is the store of a process that was killed: nothing renews or releases its
// leases.
type deadStore struct{ login.Store }

func (deadStore) Renew(context.Context, string, time.Duration, ...login.Key) error { return nil }
func (deadStore) Release(context.Context, string, ...login.Key) error              { return nil }

// A replica dies while it holds a lease. The client waits once, for as long as the
// lease lasts.
func TestDeadReplicaHoldsAStepForItsLeaseOnly(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it takes seconds")
	}
	t.Parallel()
	a := newTestChain(t)
	b := a.replica()
	a.Chain.Store = deadStore{a.store}
	code, phoneCode := a.code("ann"), a.phoneCode("ann", number)
	resume, done := a.underWay(t, code, phoneCode)
	late := &lateWeChat{fakeWeChat: a.wechat, before: func() { resume(); <-done }}
	b.Chain.WeChat = late
	// One wait is enough, because it is longer than the lease. If the first replica was not
	// dead after all, its result is found once WeChat says that the code is used.
	b.login(t, "wxA", code, phoneCode)
	a.wantCalls(t, 1, 2)
}

// lateWeChat runs a function before a phone code arrives.
type lateWeChat struct {
	*fakeWeChat
	before func()
}

func (l *lateWeChat) PhoneNumber(ctx context.Context, app wechat.App, code, openid string) (wechat.PhoneNumber, error) {
	l.before()
	return l.fakeWeChat.PhoneNumber(ctx, app, code, openid)
}

// A result that the store could not take is delivered when the store is back, even if
// the client does not come to the same replica again.
func TestPendingResultReachesOtherReplicas(t *testing.T) {
	a := newTestChain(t)
	b := a.replica()
	code, phoneCode := a.failAfterExchange(t)
	a.store.failing.Store(false)
	time.Sleep(time.Second) // the store is tried every half second
	b.login(t, "wxA", code, phoneCode)
	a.wantCalls(t, 1, 1)
}

// A fault shows only when a result is delivered later. No server recovers that panic, which would
// end the process: it is reported, and the result stays for a client that comes again.
func TestPanicWhileAResultIsDelivered(t *testing.T) {
	h := newTestChain(t)
	reported := make(chan any, 1)
	h.OnPanic = func(p any) { reported <- p }
	code, phoneCode := h.failAfterExchange(t)
	h.store.panics.Store(true)
	h.store.failing.Store(false)
	if p := <-reported; p != "a fault" {
		t.Errorf("%v", p)
	}
	h.store.panics.Store(false)
	h.login(t, "wxA", code, phoneCode)
	h.wantCalls(t, 1, 1)
}

// The first login creates the user and then fails. The answer that finally succeeds
// must still say that the user is new.
func TestUserIsNewUntilAnAnswerArrives(t *testing.T) {
	h := newTestChain(t)
	code, phoneCode := h.code("ann"), h.phoneCode("ann", number)
	h.store.committing.Store(false)
	h.refused(t, "wxA", code, phoneCode, problem.StoreUnavailable) // the user was created, but no session
	h.store.committing.Store(true)
	for _, answer := range []string{"the first", "a repeated one"} {
		if res := h.login(t, "wxA", code, phoneCode); !res.User.New {
			t.Errorf("%s answer says that the user is not new", answer)
		}
	}
	if res := h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", number)); res.User.New {
		t.Error("the next login says that the user is new")
	}
}
