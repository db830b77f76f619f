package session

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
)

const (
	pollEvery   = time.Second
	pollTimeout = 5 * time.Second
	tickEvery   = 250 * time.Millisecond

	// lateCommits is how far back every poll looks: a transaction that commits late
	// becomes visible behind rows that were read before.
	lateCommits = time.Minute

	// Every lookBackEvery, one poll looks as far back as lookBack, in case a replica
	// was paused in the middle of its transaction and committed only then.
	lookBackEvery = time.Minute
	lookBack      = 15 * time.Minute
)

// Feed reads the revocations of all replicas from the store into a [Revoked]. Both are
// kept over reloads. Its methods may be called from many goroutines at once.
type Feed struct {
	// Revoked is the set that the feed fills.
	Revoked *Revoked
	// Clock checks the wall clock that callers of Poll and Run pass in. While the wall clock
	// is off, nothing is dropped from the set. When it jumps, and when it is right again, the
	// whole set of unexpired revocations is read again. Optional: nil trusts the wall clock.
	// It must not be changed after the first Poll.
	Clock *clock.Clock

	polling chan struct{} // a lock that can be waited for with a context
	cursor  int64         // guarded by polling, as are lookedBack and generation
	// generation is the Generation of Clock when the whole set was last read.
	generation atomic.Uint64
	// lookedBack is the time of the last poll that looked as far back as lookBack.
	lookedBack time.Time

	mu     sync.Mutex
	since  time.Time // the time up to which commits are known; at first: the time of the first attempt
	loaded atomic.Bool
}

// NewFeed makes a feed that has read nothing yet.
func NewFeed(r *Revoked) *Feed {
	return &Feed{Revoked: r, Clock: r.Clock, polling: make(chan struct{}, 1)}
}

// Loaded reports whether all unexpired revocations have been read once. Before that, no
// token may be accepted.
func (f *Feed) Loaded() bool { return f.loaded.Load() }

// Age returns how stale the set is: the time since the last successful poll, or, before
// there was one, since the first attempt.
func (f *Feed) Age(now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.since.IsZero() {
		return 0
	}
	return elapsed(f.since, now)
}

// Poll reads new revocations; the first successful poll reads all of them. Concurrent
// callers wait for each other.
func (f *Feed) Poll(ctx context.Context, st Store, now time.Time) error {
	select {
	case f.polling <- struct{}{}:
		defer func() { <-f.polling }()
	case <-ctx.Done():
		return fmt.Errorf("reading the revocations: %w", context.Cause(ctx))
	}
	f.mu.Lock()
	if f.since.IsZero() {
		f.since = now
	}
	since := f.since
	f.mu.Unlock()

	f.Clock.Tick(now)
	generation := f.Clock.State().Generation
	whole := generation != f.generation.Load()
	if whole {
		// Read everything again: a wrong clock may have dropped revocations, or kept
		// them from being added. If this very poll reveals a change of the clock, the
		// next one handles it.
		f.cursor = 0
	}
	// While the store was unavailable or this process was paused, no poll looked for
	// late commits, so this one looks back over that time too.
	window := lateCommits + elapsed(since, now)
	far := elapsed(f.lookedBack, now) >= lookBackEvery
	if far {
		window = max(window, lookBack)
	}
	rs, err := st.Revocations(ctx, f.cursor, window)
	if err != nil {
		return fmt.Errorf("reading the revocations: %w", err)
	}
	over, known := f.Clock.Confirmed(now)
	for _, r := range rs {
		f.cursor = max(f.cursor, r.Seq)
		if !known || r.Until.After(over) {
			f.Revoked.Add(r.SessionID, r.Until)
		}
	}
	f.generation.Store(generation)
	if far {
		f.lookedBack = now
	}
	f.mu.Lock()
	f.since = now
	f.mu.Unlock()
	f.loaded.Store(true)
	return nil
}

// tick ends the connections whose token has expired. It also drops the revocations that
// no token needs any more, provided that the clock can be trusted.
func (f *Feed) tick(now time.Time) {
	f.Clock.Tick(now)
	f.Revoked.expire(now)
	if over, known := f.Clock.Confirmed(now); known && f.Clock.State().Generation == f.generation.Load() {
		f.Revoked.sweep(over)
	}
}

// elapsed returns the time between two readings of the clock, by the monotonic or the
// wall clock, whichever shows more. The monotonic clock stands still while a machine is
// suspended, and the wall clock may be set back.
func elapsed(from, to time.Time) time.Duration {
	return max(to.Sub(from), to.Round(0).Sub(from.Round(0)), 0)
}

// Run polls every second and calls tick several times a second, until ctx is done. It
// calls report after every poll, with nil if the poll succeeded.
func (f *Feed) Run(ctx context.Context, st Store, now func() time.Time, report func(error)) {
	var wg sync.WaitGroup
	// This runs beside the polls, because a store that does not answer must not keep
	// the connections of expired tokens open.
	wg.Go(func() {
		every(ctx, tickEvery, func() { f.tick(now()) })
	})
	every(ctx, pollEvery, func() {
		poll, cancel := context.WithTimeout(ctx, pollTimeout)
		defer cancel()
		err := f.Poll(poll, st, now())
		if ctx.Err() == nil { // a poll that was cut short by the end of Run is not reported
			report(err)
		}
	})
	wg.Wait()
}

// every calls do at once, and then once per period d until ctx is done.
func every(ctx context.Context, d time.Duration, do func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		do()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
