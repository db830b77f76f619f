package session

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// polled polls and expects success.
func polled(t *testing.T, f *Feed, m *memory, now time.Time) {
	t.Helper()
	if err := f.Poll(t.Context(), m, now); err != nil {
		t.Fatal(err)
	}
}

// A replica that starts must know every revocation that some token still needs before
// it accepts its first token. Older ones need not be loaded.
func TestFirstPollLoadsTheWholeLiveSet(t *testing.T) {
	m := newMemory()
	m.write(number(1), start.Add(time.Hour), true)
	m.write(number(2), start.Add(11*time.Hour), true)
	m.clock = func() time.Time { return start.Add(10 * time.Hour) }
	f := NewFeed(NewRevoked())
	now := start.Add(10 * time.Hour)

	m.fail = errAway
	if err := f.Poll(t.Context(), m, now); !errors.Is(err, errAway) || f.Loaded() {
		t.Fatalf("got %v, loaded %v", err, f.Loaded())
	}
	m.fail = nil
	polled(t, f, m, now)
	if !f.Loaded() || !f.Revoked.Contains(number(2)) {
		t.Error("not loaded")
	}
	if f.Revoked.Contains(number(1)) {
		t.Error("one was loaded that no token needs any more")
	}
}

// A user logs out on one replica. After the next poll, the other replica refuses the
// session's token and closes its connections.
func TestRevocationReachesTheOtherReplica(t *testing.T) {
	s := opened()
	m := newMemory(s)
	here := desk(t, m)
	there := NewFeed(NewRevoked())
	polled(t, there, m, start)
	conn, release := watch(there.Revoked, s.ID, start.Add(time.Hour))
	defer release()
	if _, err := here.End(t.Context(), s.ID, ReasonLogout, start); err != nil {
		t.Fatal(err)
	}
	if there.Revoked.Contains(s.ID) {
		t.Error("known before it was read")
	}
	polled(t, there, m, start.Add(time.Second))
	if !there.Revoked.Contains(s.ID) || !errors.Is(context.Cause(conn), ErrEnded) {
		t.Error("not revoked, or its connection lives on")
	}
}

// Sequence numbers become visible out of order when a transaction commits late, when
// clocks differ, or when a process is paused. Each such revocation must still be read.
func TestFeedLosesNoLateCommit(t *testing.T) {
	tests := []struct {
		name  string
		late  time.Duration // from the write to its commit
		skew  time.Duration // of the replica's clock
		pause time.Duration // after the commit, during which the replica does not poll
	}{
		{"at once", 0, 0, time.Second},
		{"late", 50 * time.Second, 0, time.Second},
		{"late, a clock a minute ahead", 50 * time.Second, time.Minute, time.Second},
		{"late, a clock a minute behind", 50 * time.Second, -time.Minute, time.Second},
		{"late, then a paused reader", 10 * time.Second, 0, 5 * time.Minute},
		{"late, then a reader paused for long", 50 * time.Second, -time.Minute, 5 * time.Hour},
		{"by a paused writer", 10 * time.Minute, 0, time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMemory()
			db := start
			m.clock = func() time.Time { return db }
			f := NewFeed(NewRevoked())
			second := func() {
				polled(t, f, m, db.Add(tt.skew))
				db = db.Add(time.Second)
			}
			second()
			until := start.Add(24 * time.Hour)
			row := m.write(number(1), until, false)
			for i := range int(tt.late/time.Second) + 1 {
				m.write(number(1000+i), until, true) // moves the cursor past it
				if i < int(tt.late/time.Second) {
					second()
				}
			}
			if tt.late > 0 && (f.cursor <= m.feed[row].Seq || f.Revoked.Contains(number(1))) {
				t.Fatal("the test proves nothing")
			}
			m.feed[row].committed = true
			db = db.Add(tt.pause)
			second()
			if !f.Revoked.Contains(number(1)) {
				t.Error("lost")
			}
		})
	}
}

// A database restored from a backup gives sequence numbers out again. The feed must
// read the new revocations, and keep those that the database has lost.
func TestFeedSurvivesAStoreThatWasSetBack(t *testing.T) {
	m := newMemory()
	for i := range 100 {
		m.write(number(i), start.Add(time.Hour), true)
	}
	f := NewFeed(NewRevoked())
	polled(t, f, m, start)
	m.feed, m.seq = m.feed[:10], 10 // restored from a backup
	m.write(number(500), start.Add(time.Hour), true)
	polled(t, f, m, start.Add(time.Second))
	if !f.Revoked.Contains(number(500)) || !f.Revoked.Contains(number(99)) {
		t.Error("a revocation was lost")
	}
}

// Monitoring shows how stale the feed is. The next poll after an outage must look back
// over the outage.
func TestFeedAge(t *testing.T) {
	m := newMemory()
	f := NewFeed(NewRevoked())
	at := func(sec int) time.Time { return start.Add(time.Duration(sec) * time.Second) }
	age := func(sec int, want time.Duration) {
		t.Helper()
		if got := f.Age(at(sec)); got != want {
			t.Errorf("second %d: age %v, want %v", sec, got, want)
		}
	}
	age(5, 0)
	m.fail = errAway
	if f.Poll(t.Context(), m, at(10)) == nil || f.Poll(t.Context(), m, at(11)) == nil {
		t.Fatal("no error")
	}
	age(13, 3*time.Second) // since the first attempt
	m.fail = nil
	polled(t, f, m, at(20))
	age(20, 0)
	age(15, 0) // the clock was set back
	m.fail = errAway
	if f.Poll(t.Context(), m, at(90)) == nil {
		t.Fatal("no error")
	}
	age(100, 80*time.Second)
	m.fail = nil
	polled(t, f, m, at(100))
	if got := m.polls[len(m.polls)-1].window; got < 140*time.Second {
		t.Errorf("after 80 s without an answer it looks back %v", got)
	}
	polled(t, f, m, at(101))
	if got := m.polls[len(m.polls)-1].window; got != 61*time.Second {
		t.Errorf("in the ordinary second it looks back %v", got)
	}
	age(101, 0)
}

// Two polls at once would move the cursor under each other. The second one waits, but
// no longer than its context allows.
func TestPollsWaitForEachOther(t *testing.T) {
	st := &blocking{memory: newMemory(), entered: make(chan struct{}), leave: make(chan struct{})}
	f := NewFeed(NewRevoked())
	first := make(chan error)
	go func() { first <- f.Poll(t.Context(), st, start) }()
	<-st.entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Poll(ctx, st, start); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting goes on after its context: %v", err)
	}
	close(st.leave)
	if err := <-first; err != nil || !f.Loaded() {
		t.Errorf("got %v", err)
	}
}

// blocking holds a poll back until leave is closed.
type blocking struct {
	*memory
	entered, leave chan struct{}
}

func (b *blocking) Revocations(ctx context.Context, after int64, window time.Duration) ([]Revocation, error) {
	select {
	case b.entered <- struct{}{}:
	case <-ctx.Done():
	}
	select {
	case <-b.leave:
		return b.memory.Revocations(ctx, after, window)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A revocation is known a second after it was written, and every failure of a poll is
// reported.
func TestRunPollsEverySecondAndReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.clock = time.Now
		f := NewFeed(NewRevoked())
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		var reports []error
		var wg sync.WaitGroup
		wg.Go(func() {
			f.Run(ctx, m, time.Now, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				reports = append(reports, err)
			})
		})
		synctest.Wait()
		if !f.Loaded() {
			t.Error("not loaded at once")
		}
		time.Sleep(4500 * time.Millisecond)
		m.mu.Lock()
		m.write(number(1), time.Now().Add(time.Hour), true)
		m.mu.Unlock()
		time.Sleep(time.Second)
		if !f.Revoked.Contains(number(1)) {
			t.Error("not known after a second")
		}
		m.mu.Lock()
		m.fail = errAway
		m.mu.Unlock()
		time.Sleep(time.Second)
		cancel()
		wg.Wait()
		if n := len(reports); n != 7 || reports[5] != nil || !errors.Is(reports[6], errAway) {
			t.Errorf("%d reports: %v", n, reports)
		}
	})
}

// A store that does not answer must not keep a connection open beyond the expiry of its
// token.
func TestConnectionsExpireWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &blocking{memory: newMemory(), entered: make(chan struct{}), leave: make(chan struct{})}
		f := NewFeed(NewRevoked())
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var failed atomic.Int32
		wg.Go(func() {
			f.Run(ctx, st, time.Now, func(err error) {
				if errors.Is(err, context.DeadlineExceeded) {
					failed.Add(1)
				}
			})
		})
		conn, release := watch(f.Revoked, number(1), time.Now().Add(12*time.Second))
		defer release()
		time.Sleep(11900 * time.Millisecond)
		if conn.Err() != nil {
			t.Error("ended too early")
		}
		time.Sleep(600 * time.Millisecond)
		if !errors.Is(context.Cause(conn), ErrTokenExpired) {
			t.Error("still open")
		}
		if failed.Load() != 2 {
			t.Errorf("%d polls timed out, want 2", failed.Load())
		}
		cancel()
		wg.Wait()
	})
}
