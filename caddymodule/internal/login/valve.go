package login

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

const (
	// maxCalls is how many calls of one kind may be under way at WeChat.
	maxCalls = 128
	// maxQueue is how long a login waits for its turn.
	maxQueue = 2 * time.Second
	// tripAfter is how many failures in a row open the valve.
	tripAfter = 10
	// firstPause is how long it then stays open at first; each probe that fails
	// doubles it, up to longestPause.
	firstPause, longestPause = time.Second, 5 * time.Second
)

// errBusy says that a call was not made, so that no code was spent.
var errBusy = errors.New("too many calls to WeChat are under way")

// valve stands before one of WeChat's calls. It bounds how many are under way,
// stops them for a while when WeChat fails again and again, letting one through
// now and then to see whether it is back, and keeps to the pauses that a used-up
// quota asks for. It lives over reloads; the zero value is ready to use.
type valve struct {
	once  sync.Once
	slots chan struct{}

	mu       sync.Mutex
	failures int // in a row
	pause    time.Duration
	closed   time.Time // no call before
	probing  bool      // one is under way to see whether WeChat is back
	last     error     // why
	quotas   map[string]*quota
}

// do makes the call for somebody in an app, or says why not. who tells one from
// another; empty: it cannot be told.
func (v *valve) do(ctx context.Context, appid, who string, now func() time.Time, call func() error) error {
	v.once.Do(func() { v.slots = make(chan struct{}, maxCalls) })
	probe, e := v.enter(appid, now())
	if e != nil {
		return e
	}
	wait := time.NewTimer(maxQueue)
	defer wait.Stop()
	select {
	case v.slots <- struct{}{}:
	case <-wait.C:
		v.leave(appid, who, probe, now(), nil, false)
		return unavailable(errBusy, busyRetry)
	case <-ctx.Done():
		v.leave(appid, who, probe, now(), nil, false)
		return unavailable(ctx.Err(), busyRetry)
	}
	done := false
	var err error
	defer func() { // also after a panic
		<-v.slots
		v.leave(appid, who, probe, now(), err, done)
	}()
	err = call()
	done = true
	if err != nil {
		return fromWeChat(err)
	}
	return nil
}

// enter asks whether the call may be made, and whether it is the probe.
func (v *valve) enter(appid string, now time.Time) (probe bool, e *Error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if q := v.quotas[appid]; q != nil && now.Before(q.until) {
		return false, unavailable(q.err, q.until.Sub(now))
	}
	if v.failures < tripAfter {
		return false, nil
	}
	if now.Before(v.closed) {
		return false, unavailable(v.last, v.closed.Sub(now))
	}
	if v.probing {
		return false, unavailable(v.last, time.Second)
	}
	v.probing = true
	return true, nil
}

// leave takes note of how a call went; made is false if it was not made.
func (v *valve) leave(appid, who string, probe bool, now time.Time, err error, made bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if probe {
		v.probing = false
	}
	if !made {
		return
	}
	var we *wechat.Error
	if !errors.As(err, &we) {
		v.failures, v.pause = 0, 0
		delete(v.quotas, appid)
		return
	}
	switch {
	case we.Kind == wechat.KindQuota:
		v.failures, v.pause = 0, 0
		if v.quotas == nil {
			v.quotas = make(map[string]*quota)
		}
		if v.quotas[appid] == nil {
			v.quotas[appid] = new(quota)
		}
		v.quotas[appid].met(who, we, now)
	case we.Kind.WeChat():
		v.failures++
		v.last = err
		if v.failures == tripAfter || probe {
			v.pause = min(max(firstPause, 2*v.pause), longestPause)
			v.closed = now.Add(v.pause)
		}
	case we.Kind != wechat.KindCanceled:
		v.failures, v.pause = 0, 0 // WeChat answered, whatever it was
		delete(v.quotas, appid)
	}
}

// quotaClients is how many must meet the limit of a minute before it is taken for
// the app's.
const quotaClients = 5

// quota is a quota of one app's that is used up, or seems to be.
type quota struct {
	until time.Time // no call before
	err   *wechat.Error
	by    map[string]time.Time // who met the limit of a minute, and when
}

// met takes note that somebody was refused because a quota is used up. The limit
// of a minute may be their own: WeChat counts some calls by user, and does not say
// which. It is the app's if several meet it and nobody in between goes free of
// it; else one user in a loop would keep all others out.
func (q *quota) met(who string, err *wechat.Error, now time.Time) {
	if err.PerMinute() && err.Call != wechat.CallToken {
		if who == "" {
			return
		}
		for other, at := range q.by {
			if now.Sub(at) >= err.RetryAfter {
				delete(q.by, other)
			}
		}
		if q.by == nil {
			q.by = make(map[string]time.Time, quotaClients)
		}
		if q.by[who] = now; len(q.by) < quotaClients {
			return
		}
	}
	*q = quota{until: now.Add(err.RetryAfter), err: err}
}

// unavailable is the error of a call that was not made: the same codes will do
// when the time is up.
func unavailable(cause error, wait time.Duration) *Error {
	e := refuse(WeChatUnavailable, cause)
	e.RetryAfter = wait
	return e
}
