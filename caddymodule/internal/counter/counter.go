// Package counter counts on the path of every request. Cores that count at the same time
// do not write the same memory, so counting costs the same on any number of them.
package counter

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Counter adds up one cell for each core. A nil Counter counts nothing.
type Counter struct {
	// own finds the cell of the current core: a sync.Pool returns to a core what that core has put
	// in. After a garbage collection, a core may get another core's cell. The two then share a cell
	// for a while, which is slower but still correct.
	own   sync.Pool
	cells []cell
	next  atomic.Uint32
}

// cell is padded, so that no two cells share a cache line.
type cell struct {
	n atomic.Uint64
	_ [120]byte
}

// New returns a counter at zero.
func New() *Counter {
	c := &Counter{cells: make([]cell, runtime.GOMAXPROCS(0))}
	c.own.New = func() any { return &c.cells[int(c.next.Add(1)-1)%len(c.cells)] }
	return c
}

// Inc adds one.
func (c *Counter) Inc() {
	if c == nil {
		return
	}
	cell := c.own.Get().(*cell)
	cell.n.Add(1)
	c.own.Put(cell)
}

// Sum returns the count. It never decreases.
func (c *Counter) Sum() (n uint64) {
	if c == nil {
		return 0
	}
	for i := range c.cells {
		n += c.cells[i].n.Load()
	}
	return n
}
