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

	// lateCommits is how far back every poll looks: a transaction that commits
	// late becomes visible behind rows that were read before.
	lateCommits = time.Minute

	// Once in lookBackEvery a poll looks lookBack into the past, for the commit
	// of a replica that was paused in the middle of its transaction.
	lookBackEvery = time.Minute
	lookBack      = 15 * time.Minute
)

// Feed reads the revocations of all replicas from the store into a [Revoked].
// It lives over reloads, as that does. Its methods may be called from many
// goroutines at once.
type Feed struct {
	// Revoked is the set that the feed fills.
	Revoked *Revoked
	// Clock judges the clock by which Poll and Run are called. While that is off,
	// nothing is dropped from the set; when it jumps, and when it is right again,
	// the whole live set is read again. Optional: nil trusts the clock. It is not
	// to be changed after the first Poll.
	Clock *clock.Clock

	polling chan struct{} // holds one element while somebody polls
	cursor  int64         // guarded by polling, as are lookedBack and generation
	// generation is the state of the clock in which the whole set was read.
	generation atomic.Uint64
	// lookedBack is when a poll last looked far into the past.
	lookedBack time.Time

	mu     sync.Mutex
	since  time.Time // what was committed by then is known; at first: when the first poll was tried
	loaded atomic.Bool
}

// NewFeed makes a feed that has read nothing yet.
func NewFeed(r *Revoked) *Feed {
	return &Feed{Revoked: r, Clock: r.Clock, polling: make(chan struct{}, 1)}
}

// Loaded reports whether the whole live set was read once. Before that, no
// token may be accepted.
func (f *Feed) Loaded() bool { return f.loaded.Load() }

// Age is how old the knowledge is: the time since the last poll that
// succeeded, or, before any has, since the first that was tried.
func (f *Feed) Age(now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.since.IsZero() {
		return 0
	}
	return elapsed(f.since, now)
}

// Poll reads what is new. The first poll that succeeds reads everything.
// Callers at the same time wait for each other.
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
		// What was dropped, or never added, by a wrong clock comes back. A change
		// that this poll itself brings to light is the next one's.
		f.cursor = 0
	}
	// A poll that did not happen, because the store was away or we were paused,
	// looked at no late commits: this one looks back over that time too.
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

// tick ends the connections whose time is over, and drops the revocations that no
// token needs any more, if the clock can be trusted in that.
func (f *Feed) tick(now time.Time) {
	f.Clock.Tick(now)
	f.Revoked.expire(now)
	if over, known := f.Clock.Confirmed(now); known && f.Clock.State().Generation == f.generation.Load() {
		f.Revoked.sweep(over)
	}
}

// elapsed is the time from one reading of the clock to another, by whichever
// of the two clocks says more: the monotonic one stands still while a machine
// is suspended, the wall clock may be set back.
func elapsed(from, to time.Time) time.Duration {
	return max(to.Sub(from), to.Round(0).Sub(from.Round(0)), 0)
}

// Run polls every second and ticks the set, until ctx is done. report is told
// of every poll, with nil when it succeeded.
func (f *Feed) Run(ctx context.Context, st Store, now func() time.Time, report func(error)) {
	var wg sync.WaitGroup
	// Beside the polls: a store that does not answer must not keep the
	// connections of expired tokens open.
	wg.Go(func() {
		every(ctx, tickEvery, func() { f.tick(now()) })
	})
	every(ctx, pollEvery, func() {
		poll, cancel := context.WithTimeout(ctx, pollTimeout)
		defer cancel()
		err := f.Poll(poll, st, now())
		if ctx.Err() == nil { // a poll that the end of Run broke off is no news
			report(err)
		}
	})
	wg.Wait()
}

// every calls do at once and then at each tick.
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
