package login

import (
	"errors"
	"sync"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

const (
	// tripAfter is how many failures in a row open a circuit breaker.
	tripAfter = 10
	// perClient is how many of these may be one client's, so that it takes three.
	perClient = 4
	// forgetAfter is how long failures in a row may be apart.
	forgetAfter = time.Minute
	// firstPause is how long an open breaker stays open at first; each probe that
	// fails doubles it, up to longestPause.
	firstPause, longestPause = time.Second, 5 * time.Second
	// maxProbers bounds the memory of a breaker.
	maxProbers = 64
)

// breaker is the circuit breaker of one of WeChat's calls. It opens when the call
// fails again and again, and then lets one login through now and then to see
// whether WeChat is back. The zero value is ready to use.
//
// Nothing that one client sends may open it, or keep it open. So a failure that a
// client's input can have caused counts for the client that met it, a few times at
// most, and not at all where clients cannot be told apart.
type breaker struct {
	call wechat.Call

	mu       sync.Mutex
	failures int            // in a row, that count
	by       map[string]int // how many of them each client met
	failed   time.Time      // the last one
	last     error          // and why
	pause    time.Duration
	closed   time.Time // no call before

	probing bool
	// probers are the clients that have probed in vain, and newcomer is when any
	// other one came last: the next probe is for one of those.
	probers  map[string]bool
	newcomer time.Time
}

// enter asks whether who may make the call, and whether that is the probe.
func (b *breaker) enter(who string, now time.Time) (probe bool, e *Error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < tripAfter {
		return false, nil
	}
	again := who != "" && b.probers[who]
	if !again {
		b.newcomer = now
	}
	switch {
	case now.Before(b.closed):
		return false, unavailable(b.last, b.closed.Sub(now))
	case b.probing:
		return false, unavailable(b.last, firstPause)
	case again && now.Sub(b.newcomer) < b.pause:
		// A client that always comes first with something that fails would hold
		// the breaker open for all.
		return false, unavailable(b.last, b.pause)
	case again:
		b.probers = nil // the next round: the others go before it once more
	}
	b.probing = true
	return true, nil
}

// leave takes note of how a call went; made is false if it was not made.
func (b *breaker) leave(who string, probe bool, now time.Time, err error, made bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe {
		b.probing = false
	}
	if !made {
		return
	}
	outcome := b.classify(err, who)
	if outcome == answered {
		b.failures, b.by, b.pause, b.probers = 0, nil, 0, nil
		return
	}
	if probe && who != "" {
		if b.probers == nil || len(b.probers) >= maxProbers {
			b.probers = make(map[string]bool)
		}
		b.probers[who] = true
	}
	if outcome != failed {
		return
	}
	if now.Sub(b.failed) > forgetAfter && !probe {
		b.failures, b.by = 0, nil
	}
	b.failed = now
	if counts := b.count(who, err); counts && b.failures == tripAfter || probe {
		b.pause = min(max(firstPause, 2*b.pause), longestPause)
		b.last, b.closed = err, now.Add(b.pause)
	}
}

// count counts a failure, unless its client has met its share of them.
func (b *breaker) count(who string, err error) bool {
	var we *wechat.Error
	if errors.As(err, &we) && !we.Unprovoked() {
		if b.by[who] >= perClient {
			return false
		}
		if b.by == nil {
			b.by = make(map[string]int)
		}
		b.by[who]++
	}
	b.failures++
	return true
}

// classification is what a call's outcome says of WeChat.
type classification int

const (
	nothing  classification = iota // it was not asked, or the answer is its edge's
	answered                       // it is there, as far as anybody can tell
	failed                         // it, or the way to it, failed
)

func (b *breaker) classify(err error, who string) classification {
	var we *wechat.Error
	switch {
	case err == nil:
		return answered
	case !errors.As(err, &we): // of the store that the access tokens are shared by
		return nothing
	case we.Call != b.call && b.call == wechat.CallToken:
		return answered // the call that needs the token was made
	case we.Call != b.call && we.Call == wechat.CallToken:
		return nothing // it was not made for want of a token
	case we.Repeated, we.Unwrap() != nil:
		return nothing // counted before; or it was our own time that was up
	case we.Kind == wechat.KindRefused:
		return nothing
	case !we.Kind.WeChat() || we.Code != 0 && we.Kind == wechat.KindBadAnswer:
		return answered // also with an errcode that we do not know
	case who == "" && !we.Unprovoked():
		return answered // it could be reached, and anybody may have provoked the rest
	}
	return failed
}
