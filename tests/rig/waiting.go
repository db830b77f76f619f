package rig

import (
	"sync"
	"testing"
	"time"
)

// Await waits for a condition.
func Await(t testing.TB, within time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not after %s: %s", within, what)
		}
	}
}

// InBackground runs do and sends its result on the channel.
func InBackground[T any](do func() T) <-chan T {
	done := make(chan T, 1)
	go func() { done <- do() }()
	return done
}

// Within returns the value that arrives on the channel. If none arrives in time, the test
// ends.
func Within[T any](t testing.TB, d time.Duration, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(d):
		t.Fatalf("not after %s: %s", d, what)
		panic("unreachable")
	}
}

// AtOnce calls do n times in parallel.
func AtOnce(n int, do func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { do(i) })
	}
	all.Wait()
}

// Loops are goroutines that do something again and again until they are ended.
type Loops struct {
	stop    chan struct{}
	close   func()
	running sync.WaitGroup
}

// NewLoops returns loops that end with the test at the latest.
func NewLoops(t testing.TB) *Loops {
	l := &Loops{stop: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.stop) })
	t.Cleanup(l.End)
	return l
}

// Go calls do, after a pause each time, until it returns false or the loops are ended.
func (l *Loops) Go(pause time.Duration, do func() bool) {
	l.running.Go(func() {
		for {
			select {
			case <-l.stop:
				return
			case <-time.After(pause):
			}
			if !do() {
				return
			}
		}
	})
}

// End ends the loops and waits until they have ended.
func (l *Loops) End() {
	l.close()
	l.running.Wait()
}
