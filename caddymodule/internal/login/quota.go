package login

import (
	"errors"
	"sync"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// quotaClients is the number of clients that must reach a limit per minute before it counts as the
// app's limit.
const quotaClients = 5

// quotas holds the exhausted quotas of one of WeChat's calls, by app. The zero value is ready to
// use.
type quotas struct {
	mu    sync.Mutex
	byApp map[string]*quota
}

// quota is a quota of one app that is exhausted, or seems to be.
type quota struct {
	until time.Time // no call is made before this time
	err   *wechat.Error
	by    map[string]time.Time // the time at which each client reached the limit per minute
}

// enter reports whether the app's quota allows a call.
func (qs *quotas) enter(appid string, now time.Time) *Error {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	if q := qs.byApp[appid]; q != nil && now.Before(q.until) {
		return unavailable(&NotCalled{"WeChat was not asked, because a quota is used up", q.err}, q.until.Sub(now))
	}
	return nil
}

// leave records the outcome of a call in an app, for the client named by who.
func (qs *quotas) leave(appid, who string, now time.Time, err error) {
	var we *wechat.Error
	known := errors.As(err, &we)
	qs.mu.Lock()
	defer qs.mu.Unlock()
	switch {
	case known && we.Kind == wechat.KindQuota:
		if qs.byApp == nil {
			qs.byApp = make(map[string]*quota)
		}
		if qs.byApp[appid] == nil {
			qs.byApp[appid] = new(quota)
		}
		qs.byApp[appid].met(who, we, now)
	case err == nil, known && !we.Kind.WeChat() && we.Kind != wechat.KindCanceled && we.Kind != wechat.KindRefused:
		delete(qs.byApp, appid)
	}
}

// met records that WeChat refused a call because a quota is exhausted. A limit per minute may
// be the client's own: WeChat counts some calls by user, and does not say which. It counts as
// the app's limit only if several clients reach it and no call in between gets past it.
// Otherwise one user in a loop would lock out all others.
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
