package wechat

import (
	"crypto/sha256"
	"time"
)

// pauseKey identifies a call that is paused.
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

// paused returns the error to return instead of making the call, or nil. A changed
// secret ends the pause.
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

// pause stops the call for a while if repeating it would give the same error or make matters
// worse.
func (t *Transport) pause(key pauseKey, app App, e *Error, now time.Time) {
	stop := classify(key.call, e.Code).pause && e.Code != 0
	if e.Code == 0 {
		// Here an external source has refused our request.
		stop = key.call == CallToken && e.Kind == KindOperator
	}
	if !stop || e.RetryAfter <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pauses[key] = pause{until: now.Add(e.RetryAfter), err: e.repeated(), secret: app.fingerprint()}
}
