package counter

import (
	"runtime"
	"sync"
	"testing"
)

// Several goroutines count while the garbage collector takes the cells from the cores. No count is
// lost.
func TestCounterCountsAll(t *testing.T) {
	c := New()
	const each, goroutines = 10_000, 8
	var all sync.WaitGroup
	for range goroutines {
		all.Go(func() {
			for i := range each {
				if c.Inc(); i%2000 == 0 {
					runtime.GC()
				}
			}
		})
	}
	all.Wait()
	if n := c.Sum(); n != each*goroutines {
		t.Errorf("counted %d of %d", n, each*goroutines)
	}
}

// A nil counter can be used. It counts nothing.
func TestNoCounter(t *testing.T) {
	var c *Counter
	if c.Inc(); c.Sum() != 0 {
		t.Error("a nil counter has counted")
	}
}

// BenchmarkInc counts on one core.
func BenchmarkInc(b *testing.B) {
	c := New()
	for b.Loop() {
		c.Inc()
	}
}

// BenchmarkIncParallel counts on all cores.
func BenchmarkIncParallel(b *testing.B) {
	c := New()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.Inc()
		}
	})
}
