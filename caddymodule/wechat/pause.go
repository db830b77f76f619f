package wechat

import (
	"crypto/sha256"
	"time"
)

// pauseKey is a call that is not to be made for now.
type pauseKey struct {
	call   Call
	appid  string
	target string
}

type pause struct {
	until  time.Time
	err    *Error
	secret [sha256.Size]byte
}

// paused returns the error to answer instead of making the call, or nil. Another
// secret than the one that was refused ends the pause.
func (t *Transport) paused(key pauseKey, app App, now time.Time) *Error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.pauses[key]
	if !ok {
		return nil
	}
	if !now.Before(p.until) || p.secret != app.fingerprint() {
		delete(t.pauses, key)
		return nil
	}
	e := p.err.repeated()
	e.RetryAfter = p.until.Sub(now)
	return e
}

// pause stops the call for a while if the error is one that asking again would
// not change, or would make worse.
func (t *Transport) pause(key pauseKey, app App, e *Error, now time.Time) {
	stop := judge(key.call, e.Code).pause && e.Code != 0
	if e.Code == 0 {
		// An external source that refuses us.
		stop = key.call == CallToken && e.Kind == KindOperator
	}
	if !stop || e.RetryAfter <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pauses[key] = pause{until: now.Add(e.RetryAfter), err: e.repeated(), secret: app.fingerprint()}
}
