package login

import (
	"errors"
	"sync"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

const (
	// tripAfter is the number of failures in a row that opens a circuit breaker.
	tripAfter = 10
	// perClient is the number of these failures that one client may cause, so that it takes at
	// least three clients to open the breaker.
	perClient = 4
	// forgetAfter is the longest time between two failures in a row.
	forgetAfter = time.Minute
	// firstPause is how long the breaker stays open at first. Each failed probe doubles
	// it, up to longestPause.
	firstPause, longestPause = time.Second, 5 * time.Second
	// maxProbers bounds the memory of a breaker.
	maxProbers = 64
)

// breaker is the circuit breaker of one of WeChat's calls. It opens when the call fails repeatedly.
// While it is open, it lets a single login through at intervals, as a probe whether WeChat is back.
// The zero value is ready to use.
//
// Requests of one client must neither open the breaker nor keep it open. So a failure that the
// client's input may have caused counts for that client: only a few times, and not at all if
// clients cannot be told apart.
type breaker struct {
	call wechat.Call

	mu       sync.Mutex
	failures int            // counted failures in a row
	by       map[string]int // failures by client
	inApp    map[string]int // failures that a client's input may have caused, by app
	others   int            // all other failures
	failed   time.Time      // time of the last failure
	last     error          // the error of the last failure
	pause    time.Duration
	closed   time.Time // no call is made before this time

	probing bool
	// probers are the clients whose probes have failed. newcomer is the time of the last request by
	// any other client. If it is recent, the next probe is reserved for such a client.
	probers  map[string]bool
	newcomer time.Time
}

// enter reports whether the client named by who may make the call, and whether that call is the
// probe.
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
	refused := &NotCalled{"WeChat was not asked, because the circuit breaker is open", b.last}
	switch {
	case now.Before(b.closed):
		return false, unavailable(refused, b.closed.Sub(now))
	case b.probing:
		return false, unavailable(refused, firstPause)
	case again && now.Sub(b.newcomer) < b.pause:
		// Without this rule, a client that always comes first, with a request that fails,
		// would keep the breaker open for all.
		return false, unavailable(refused, b.pause)
	case again:
		b.probers = nil // a new round begins: after this probe, the other clients go first again
	}
	b.probing = true
	return true, nil
}

// isOpen reports whether only probes are let through.
func (b *breaker) isOpen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures >= tripAfter
}

// leave records the outcome of a call in an app. made is false if the call was not made.
func (b *breaker) leave(app, who string, probe bool, now time.Time, err error, made bool) {
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
		b.forget()
		b.pause, b.probers = 0, nil
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
		b.forget()
	}
	b.failed = now
	before := b.failures
	b.count(app, who, err)
	if before < tripAfter && b.failures >= tripAfter || probe {
		b.pause = min(max(firstPause, 2*b.pause), longestPause)
		b.last, b.closed = err, now.Add(b.pause)
	}
}

// count counts a failure, unless its client has caused perClient failures already. Where clients
// are openids, failures that their input may have caused count by app: one person has an openid in
// each.
func (b *breaker) count(app, who string, err error) {
	var we *wechat.Error
	if errors.As(err, &we) && we.Unprovoked() {
		b.others++
		b.failures++
		return
	}
	if b.by[who] >= perClient {
		return
	}
	if b.by == nil {
		b.by, b.inApp = make(map[string]int), make(map[string]int)
	}
	if b.call != wechat.CallPhone {
		app = ""
	}
	b.by[who]++
	b.inApp[app]++
	b.failures = max(b.failures, b.others+b.inApp[app])
}

func (b *breaker) forget() { b.failures, b.by, b.inApp, b.others = 0, nil, nil, 0 }

// classification groups the outcomes of a call by what they prove about WeChat.
type classification int

const (
	nothing  classification = iota // the call was not made, or WeChat's edge answered
	answered                       // WeChat works, as far as we know
	failed                         // WeChat or the connection to it failed
)

func (b *breaker) classify(err error, who string) classification {
	var we *wechat.Error
	switch {
	case err == nil:
		return answered
	case !errors.As(err, &we): // an error of the store with the shared access tokens
		return nothing
	case we.Call != b.call && b.call == wechat.CallToken:
		return answered // the call that needs the token was made, so there was a token
	case we.Call != b.call && we.Call == wechat.CallToken:
		return nothing // the call was not made, because there was no token
	case we.Repeated, we.Unwrap() != nil:
		return nothing // it was counted before, or our own deadline passed
	case we.Kind == wechat.KindRefused:
		return nothing
	case !we.Kind.WeChat() || we.Code != 0 && we.Kind == wechat.KindBadAnswer:
		return answered // including an unknown errcode
	case who == "" && !we.Unprovoked():
		return answered // WeChat was reached, and any client may have provoked the error
	}
	return failed
}
