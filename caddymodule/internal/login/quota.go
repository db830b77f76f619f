package login

import (
	"errors"
	"sync"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// quotaClients is how many clients must meet a minute's limit before it counts as the
// app's limit.
const quotaClients = 5

// quotas are the used-up quotas of one of WeChat's calls, by app. The zero value is
// ready to use.
type quotas struct {
	mu    sync.Mutex
	byApp map[string]*quota
}

// quota is a quota of one app that is used up, or seems to be.
type quota struct {
	until time.Time // no call is made before
	err   *wechat.Error
	by    map[string]time.Time // when each client met the minute's limit
}

// enter reports whether the app's quota allows a call.
func (qs *quotas) enter(appid string, now time.Time) *Error {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	if q := qs.byApp[appid]; q != nil && now.Before(q.until) {
		return unavailable(q.err, q.until.Sub(now))
	}
	return nil
}

// leave records how a call went that was made for the client who in an app.
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

// met records that a call was refused because a quota is used up. A minute's limit may
// be the client's own: WeChat counts some calls by user, and does not say which. It
// counts as the app's limit if several clients meet it and none in between is free of
// it. Otherwise one user in a loop would lock out all others.
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
