package login

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// upstream controls one of WeChat's calls: how many may be under way, of one client and
// in all, a circuit breaker, and the apps' quotas. It is kept over reloads.
type upstream struct {
	shares  shares
	turns   concurrency
	breaker breaker
	quotas  quotas
}

func newUpstream(call wechat.Call) *upstream {
	return &upstream{turns: make(concurrency, maxCalls), breaker: breaker{call: call}}
}

// upstreams are the calls, by the WeChat that they go to. If one WeChat is down, such as a
// simulator for staging, logins with another still work. The zero value is ready to use.
type upstreams struct {
	mu     sync.Mutex
	calls  map[upstreamKey]*upstream
	tokens map[tokenKey]*breaker
	names  map[tokenKey]string // of the WeChats of tokens
}

type upstreamKey struct {
	route, wechat string
	call          wechat.Call
}

// tokenKey identifies the source of an app's access token. That may be the operator's
// own service, whose failures concern this app only.
type tokenKey struct{ route, appid string }

func (us *upstreams) call(route, name string, call wechat.Call) *upstream {
	us.mu.Lock()
	defer us.mu.Unlock()
	k := upstreamKey{route, name, call}
	u := us.calls[k]
	if u == nil {
		if us.calls == nil {
			us.calls = make(map[upstreamKey]*upstream)
		}
		u = newUpstream(call)
		us.calls[k] = u
	}
	return u
}

func (us *upstreams) token(route, appid string) *breaker {
	us.mu.Lock()
	defer us.mu.Unlock()
	k := tokenKey{route, appid}
	b := us.tokens[k]
	if b == nil {
		if us.tokens == nil {
			us.tokens = make(map[tokenKey]*breaker)
		}
		b = &breaker{call: wechat.CallToken}
		us.tokens[k] = b
	}
	return b
}

// tokenOf returns the breaker of a request's access-token call. The request names the WeChat
// for the metrics.
func (us *upstreams) tokenOf(route string, r Request) *breaker {
	b := us.token(route, r.App.ID)
	us.mu.Lock()
	defer us.mu.Unlock()
	if us.names == nil {
		us.names = make(map[tokenKey]string)
	}
	us.names[tokenKey{route, r.App.ID}] = r.WeChat
	return b
}

// EachBreaker calls yield with the state of each circuit breaker. One call may have several
// breakers, one for each route.
func (s *State) EachBreaker(yield func(wechat string, call wechat.Call, open bool)) {
	us := &s.upstreams
	us.mu.Lock()
	calls, tokens, names := maps.Clone(us.calls), maps.Clone(us.tokens), maps.Clone(us.names)
	us.mu.Unlock()
	for k, u := range calls {
		yield(k.wechat, k.call, u.breaker.isOpen())
	}
	for k, b := range tokens {
		yield(names[k], b.call, b.isOpen())
	}
}

// do makes the call for a client in an app, or returns the reason why not. It counts failures by
// who, which identifies the client and is empty if clients cannot be told apart.
func (u *upstream) do(ctx context.Context, appid, who string, now func() time.Time, call func() error) error {
	if e := u.quotas.enter(appid, now()); e != nil {
		return e
	}
	return u.breaker.do(appid, who, now, func() (bool, error) {
		if e := u.turns.acquire(ctx); e != nil {
			return false, e
		}
		defer u.turns.release()
		err := call()
		u.quotas.leave(appid, who, now(), err)
		return true, err
	})
}

// do makes a call through the breaker. call reports whether it was made, and returns
// the error of WeChat or, if it was not made, of the login.
func (b *breaker) do(app, who string, now func() time.Time, call func() (made bool, err error)) error {
	probe, e := b.enter(who, now())
	if e != nil {
		return e
	}
	var made bool
	var err error
	defer func() { b.leave(app, who, probe, now(), err, made) }() // after a panic too
	made, err = call()
	if err == nil {
		return nil
	}
	if made {
		return fromWeChat(err)
	}
	return err
}

// NotCalled is the cause of a login's failure for which WeChat was not asked.
type NotCalled struct {
	why  string
	last error
}

func (e *NotCalled) Error() string { return e.why + "; the last error was: " + e.last.Error() }

// Unwrap returns the error because of which WeChat is not asked.
func (e *NotCalled) Unwrap() error { return e.last }

// unavailable returns the error of a call that was not made: the same codes will work
// when the wait is over.
func unavailable(cause error, wait time.Duration) *Error {
	e := refuse(problem.WeChatUnavailable, cause)
	e.RetryAfter = wait
	return e
}
