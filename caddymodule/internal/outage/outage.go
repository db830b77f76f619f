// Package outage turns the failures of one thing into two events: it has begun to fail,
// and it works again. However many requests fail in between, the log has two lines.
package outage

import (
	"sync"
	"time"
)

const (
	// An outage is over when, after a success, nothing has failed for the time quiet.
	quiet = time.Second
	// A failure within relapse after an outage doubles the quiet time of the next outage, up to
	// longestQuiet. So something that fails now and then writes few log lines.
	relapse      = time.Minute
	longestQuiet = time.Minute
)

// Outage watches one thing. It is safe for concurrent use, and the zero value is ready. It calls
// the functions that it is given without its lock, because they write to the log, and the next
// operation must not wait for that.
type Outage struct {
	mu     sync.Mutex
	since  time.Time // the start of the outage; zero: there is none
	failed time.Time // the last failure
	ended  time.Time // the end of the last outage
	quiet  time.Duration
	timer  *time.Timer // calls over after the quiet time; nil: nothing has worked since the last failure
	timers int         // the number of timers so far, by which over recognises the current one
}

// Failed reports a failure. It calls began if that is the first one.
func (o *Outage) Failed(began func(since time.Time)) {
	now := time.Now()
	if o.begins(now) {
		began(now)
	}
}

// begins records a failure, and reports whether an outage begins with it.
func (o *Outage) begins(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed = now
	if o.timer != nil {
		o.timer.Stop()
		o.timer = nil
	}
	if !o.since.IsZero() {
		return false
	}
	if o.ended.IsZero() || now.Sub(o.ended) > relapse {
		o.quiet = quiet
	} else {
		o.quiet = min(2*o.quiet, longestQuiet)
	}
	o.since = now
	return true
}

// Worked reports a success. If that ends an outage, ended is called after the quiet time, with the
// time between the outage's first and last failure.
func (o *Outage) Worked(ended func(after time.Duration)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() || o.timer != nil {
		return
	}
	o.timers++
	number := o.timers
	o.timer = time.AfterFunc(o.quiet, func() {
		if after, over := o.over(number); over {
			ended(after)
		}
	})
}

// over ends the outage, unless something has failed since the timer was set. It returns the time
// between the outage's first and last failure.
func (o *Outage) over(number int) (after time.Duration, over bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.timer == nil || o.timers != number {
		return 0, false
	}
	after = o.failed.Sub(o.since)
	o.timer, o.since, o.ended = nil, time.Time{}, time.Now()
	return after, true
}
