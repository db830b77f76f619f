// Package outage turns the failures of one thing into two events: it has begun to fail,
// and it works again. However many requests fail in between, the log has two lines.
package outage

import (
	"sync"
	"time"
)

const (
	// quiet is how long nothing must fail, after something has worked, for an outage to
	// be over.
	quiet = time.Second
	// Something that fails again within relapse after an outage must then be quiet for
	// twice as long, up to longestQuiet. So one that fails now and then has few lines.
	relapse      = time.Minute
	longestQuiet = time.Minute
)

// Outage watches one thing. It is safe for concurrent use, and the zero value is ready.
type Outage struct {
	mu     sync.Mutex
	since  time.Time // of the outage; zero: there is none
	failed time.Time // the last failure
	ended  time.Time // the end of the last outage
	quiet  time.Duration
	timer  *time.Timer // it will call over; nil: nothing has worked since the last failure
	timers int         // how many timers there were
}

// Failed reports a failure. It calls began if that is the first one.
func (o *Outage) Failed(began func(since time.Time)) {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed = now
	if o.timer != nil {
		o.timer.Stop()
		o.timer = nil
	}
	if !o.since.IsZero() {
		return
	}
	if o.ended.IsZero() || now.Sub(o.ended) > relapse {
		o.quiet = quiet
	} else {
		o.quiet = min(2*o.quiet, longestQuiet)
	}
	o.since = now
	began(now)
}

// Worked reports that it works. It calls ended when the outage is over, if there is one,
// with the time between its first and its last failure.
func (o *Outage) Worked(ended func(after time.Duration)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() || o.timer != nil {
		return
	}
	o.timers++
	number := o.timers
	o.timer = time.AfterFunc(o.quiet, func() { o.over(number, ended) })
}

// over ends the outage, unless something has failed since the timer was set.
func (o *Outage) over(number int, ended func(time.Duration)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.timer == nil || o.timers != number {
		return
	}
	after := o.failed.Sub(o.since)
	o.timer, o.since, o.ended = nil, time.Time{}, time.Now()
	ended(after)
}
