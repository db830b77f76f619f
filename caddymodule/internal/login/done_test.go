package login_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

type ctxKey struct{}

// ended holds the arguments of a call of Chain.OnDone.
type ended struct {
	from any
	res  login.Result
	err  error
}

func (h *testChain) record() <-chan ended {
	done := make(chan ended, 200)
	h.OnDone = func(ctx context.Context, _ login.Request, res login.Result, err error) {
		done <- ended{ctx.Value(ctxKey{}), res, err}
	}
	return done
}

// Many requests join one login. It must be logged, counted and published once.
func TestOnDoneOnceForAllThatJoin(t *testing.T) {
	h := newTestChain(t)
	done := h.record()
	h.wechat.gate = make(chan struct{})
	code, phoneCode := h.code("ann"), h.phoneCode("ann", number)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { h.login(t, "wxA", code, phoneCode) })
	}
	time.Sleep(20 * time.Millisecond) // most of them join; a late one is a replay
	close(h.wechat.gate)
	wg.Wait()
	created := 0
	for range len(done) {
		if s := <-done; s.res.User.New && !s.res.Replayed {
			created++
		}
	}
	if created != 1 {
		t.Errorf("%d logins say that they created the user", created)
	}
}

// A client sends a wrong code and hangs up. The refusal still counts against the rate, and an
// operator's mistake is still logged.
func TestOnDoneForClientThatHangsUp(t *testing.T) {
	h := newTestChain(t)
	done := h.record()
	h.wechat.gate = make(chan struct{})
	h.wechat.fail = &wechat.Error{Call: wechat.CallPhone, Kind: wechat.KindPhoneCode, Renew: []wechat.Renew{wechat.RenewPhoneCode}}
	ctx, hangUp := context.WithCancel(context.WithValue(t.Context(), ctxKey{}, "ann's request"))
	go func() {
		time.Sleep(10 * time.Millisecond)
		hangUp()
		close(h.wechat.gate)
	}()
	if _, err := h.Login(ctx, login.Request{App: wechat.App{ID: "wxA"}, Code: h.code("ann"), PhoneCode: h.phoneCode("ann", number)}); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller who hung up got %v", err)
	}
	s := <-done
	var le *login.Error
	if !errors.As(s.err, &le) || !le.Refused || s.from != "ann's request" {
		t.Errorf("done: %+v", s)
	}
}

// A login that panics must end neither the process nor other logins.
func TestPanicInALoginEndsThatLoginOnly(t *testing.T) {
	h := newTestChain(t)
	done := h.record()
	h.Mint = nil
	_, err := h.Login(t.Context(), login.Request{App: wechat.App{ID: "wxA"}, Code: h.code("ann"), PhoneCode: h.phoneCode("ann", number)})
	var p *login.Panic
	if !errors.As(err, &p) || p.Stack == "" {
		t.Errorf("error %T %v", err, err)
	}
	if s := <-done; !errors.As(s.err, &p) {
		t.Errorf("done: %v", s.err)
	}
}

// A login in progress keeps the objects that it uses open until its end, even if its client
// has gone.
func TestLoginHoldsWhatItUsesFromItsStart(t *testing.T) {
	h := newTestChain(t)
	var held, most atomic.Int64
	h.Hold = func() func() {
		most.Store(max(most.Load(), held.Add(1)))
		return func() { held.Add(-1) }
	}
	h.wechat.gate = make(chan struct{})
	ctx, hangUp := context.WithCancel(t.Context())
	hangUp()
	_, err := h.Login(ctx, login.Request{App: wechat.App{ID: "wxA"}, Code: h.code("ann"), PhoneCode: h.phoneCode("ann", number)})
	if !errors.Is(err, context.Canceled) || held.Load() == 0 {
		t.Errorf("%v; holds %d as the request ends", err, held.Load())
	}
	close(h.wechat.gate)
	for deadline := time.Now().Add(5 * time.Second); held.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d references are lost", held.Load())
		}
	}
	if most.Load() != 1 {
		t.Errorf("one login holds %d references", most.Load())
	}
}

// The codes of a session that has ended or expired must not open it again.
func TestEndedSessionIsNotReplayed(t *testing.T) {
	h := newTestChain(t)
	h.Sessions.Settings.Idle = 30 * time.Second
	code, phoneCode := h.code("ann"), h.phoneCode("ann", number)
	h.login(t, "wxA", code, phoneCode)
	h.pass(31 * time.Second)
	h.refused(t, "wxA", code, phoneCode, problem.LoginCodeInvalid, "code")

	h.Sessions.Settings.Idle = time.Hour
	code, phoneCode = h.code("ann"), h.phoneCode("ann", number)
	res := h.login(t, "wxA", code, phoneCode)
	h.Sessions.Revoked.Add(res.Session.ID, h.Now().Add(time.Hour)) // ended by another replica, or the write was lost
	h.refused(t, "wxA", code, phoneCode, problem.LoginCodeInvalid, "code")
}

// Somebody presents a login code that has opened its session, without its phone code. It is of
// no use to them, not even while its owner repeats the login.
func TestReplayTellsNobodyElseWhoseCodeItWas(t *testing.T) {
	h := newTestChain(t)
	code, phoneCode := h.code("ann"), h.phoneCode("ann", number)
	h.login(t, "wxA", code, phoneCode)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { h.login(t, "wxA", code, phoneCode) })
		wg.Go(func() { h.refused(t, "wxA", code, "", problem.LoginCodeInvalid, "code") })
	}
	wg.Wait()
}

// A guess that WeChat refuses counts against the client's rate. A failure of WeChat or
// of the operator must not.
func TestRefusalsByWeChatAreCounted(t *testing.T) {
	for _, tc := range []struct {
		err  *wechat.Error
		want bool
	}{
		{&wechat.Error{Kind: wechat.KindPhoneCode, Renew: []wechat.Renew{wechat.RenewPhoneCode}}, true},
		{&wechat.Error{Kind: wechat.KindBlocked}, true},
		{&wechat.Error{Kind: wechat.KindOperator, Code: 40013, Renew: []wechat.Renew{wechat.RenewPhoneCode}}, true},
		{&wechat.Error{Kind: wechat.KindOperator, Code: 40125}, false},
		{&wechat.Error{Kind: wechat.KindTimeout, Unanswered: true, Renew: []wechat.Renew{wechat.RenewPhoneCode}}, false},
		{&wechat.Error{Kind: wechat.KindBusy}, false},
	} {
		h := newTestChain(t)
		h.wechat.fail = tc.err
		_, err := h.Login(t.Context(), login.Request{App: wechat.App{ID: "wxA"}, Code: h.code("ann"), PhoneCode: h.phoneCode("ann", number)})
		var le *login.Error
		if !errors.As(err, &le) || le.Refused != tc.want {
			t.Errorf("%v: refused is %v", tc.err, le.Refused)
		}
	}
}

// A code that was lost on the way may turn out to be used only at the next login. That
// is not the client's fault either.
func TestLostCodeIsNotTheClientsFault(t *testing.T) {
	h := newTestChain(t)
	code, phoneCode := h.code("ann"), h.phoneCode("ann", number)
	used := &wechat.Error{Call: wechat.CallPhone, Kind: wechat.KindPhoneCode, Code: 40029, Renew: []wechat.Renew{wechat.RenewPhoneCode}}
	for i, tc := range []struct {
		phoneCode string
		says      *wechat.Error
		want      bool
	}{
		{phoneCode, &wechat.Error{Call: wechat.CallPhone, Kind: wechat.KindTimeout, Unanswered: true}, false},
		{phoneCode, used, false},
		{h.phoneCode("ann", number), used, true},
	} {
		h.wechat.fail = tc.says
		_, err := h.Login(t.Context(), login.Request{App: wechat.App{ID: "wxA"}, Code: code, PhoneCode: tc.phoneCode})
		var le *login.Error
		if !errors.As(err, &le) || le.Refused != tc.want {
			t.Errorf("try %d: %v, refused %v", i, err, le.Refused)
		}
	}
}

// The owner and a thief present one phone code at the same time. The owner logs in, and
// the thief learns that the two codes belong to different users.
func TestPhoneCodeOfTwoAtOnce(t *testing.T) {
	for range 20 {
		h := newTestChain(t)
		phoneCode := h.phoneCode("ann", number)
		anns, eves := h.code("ann"), h.code("eve")
		var wg sync.WaitGroup
		wg.Go(func() { h.login(t, "wxA", anns, phoneCode) })
		wg.Go(func() { h.refused(t, "wxA", eves, phoneCode, problem.PhoneCodeInvalid, "code", "phoneCode") })
		wg.Wait()
	}
}
