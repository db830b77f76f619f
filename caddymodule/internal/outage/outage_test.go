package outage

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// watched is an outage that counts its events.
type watched struct {
	Outage
	mu           sync.Mutex // of the counts: the outage holds no lock while it calls
	began, ended int
	after        time.Duration
}

func (w *watched) fails() {
	w.Failed(func(time.Time) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.began++
	})
}

func (w *watched) works() {
	w.Worked(func(after time.Duration) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ended++
		w.after = after
	})
}

// After a thousand failures and a success, the outage has begun once and ended once.
func TestOutageIsTwoEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o watched
		o.works()
		for range 1000 {
			o.fails()
			time.Sleep(10 * time.Millisecond)
		}
		if o.began != 1 || o.ended != 0 {
			t.Errorf("it began %d times and ended %d times", o.began, o.ended)
		}
		o.works()
		time.Sleep(quiet)
		synctest.Wait()
		if o.began != 1 || o.ended != 1 || o.after != 9990*time.Millisecond {
			t.Errorf("it began %d times and ended %d times, after %v", o.began, o.ended, o.after)
		}
	})
}

// For ten minutes, every second call fails. Frequent calls make one outage, and rare calls make
// only a few.
func TestFlappingHasFewEvents(t *testing.T) {
	for _, every := range []time.Duration{100 * time.Millisecond, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			var o watched
			for start := time.Now(); time.Since(start) < 10*time.Minute; time.Sleep(every) {
				o.fails()
				o.works()
			}
			time.Sleep(longestQuiet)
			synctest.Wait()
			if o.began > 4 || o.began != o.ended {
				t.Errorf("a failure every %v: it began %d times and ended %d times", every, o.began, o.ended)
			}
		})
	}
}

// A failure during the quiet time continues the outage.
func TestFailureContinuesTheOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o watched
		o.fails()
		o.works()
		time.Sleep(quiet / 2)
		o.fails()
		time.Sleep(2 * quiet)
		synctest.Wait()
		if o.began != 1 || o.ended != 0 {
			t.Errorf("it began %d times and ended %d times", o.began, o.ended)
		}
	})
}

// The log is on a disk that hangs. The operations that report to the outage do not wait for it.
func TestOutageLogsWithoutItsLock(t *testing.T) {
	var o Outage
	logging, log := make(chan struct{}), make(chan struct{})
	defer close(log)
	go o.Failed(func(time.Time) {
		close(logging)
		<-log
	})
	<-logging
	reported := make(chan struct{})
	go func() {
		defer close(reported)
		o.Failed(func(time.Time) {})
		o.Worked(func(time.Duration) {})
	}()
	select {
	case <-reported:
	case <-time.After(5 * time.Second):
		t.Error("an operation waits for the log")
	}
}
