package sqldb

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
)

// holdWriter keeps the only writing connection busy with a batch until release is called, so that
// all writes meanwhile gather in the queue.
func holdWriter(t *testing.T, c *Client) (release func()) {
	t.Helper()
	p := c.DB.Pools()
	dbtest.WaitFor(t, "the queue to rest", func() bool {
		p.queue.mu.Lock()
		defer p.queue.mu.Unlock()
		return !p.queue.running
	})
	conn, err := p.Write.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan error, 1)
	go func() {
		first <- c.Write(context.Background(), "waiting", func(*Tx) error { return nil })
	}()
	dbtest.WaitFor(t, "the first write to begin", func() bool {
		p.queue.mu.Lock()
		defer p.queue.mu.Unlock()
		return p.queue.running && len(p.queue.waiting) == 0
	})
	return func() {
		conn.Close()
		if err := <-first; err != nil {
			t.Error(err)
		}
	}
}

func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

// Writes share a transaction. If one of them fails, the others must still be written.
func TestOneBadWriteLeavesItsBatchAlone(t *testing.T) {
	c := newSQLite(t)
	if err := c.insert(t.Context(), Durable, "taken"); err != nil {
		t.Fatal(err)
	}
	q := c.DB.Pools().queue
	release := holdWriter(t, c)
	mine := errors.New("mine")
	const writes = 30
	errs := make([]error, writes)
	var wg sync.WaitGroup
	for i := range writes {
		wg.Go(func() {
			errs[i] = c.Write(context.Background(), "testing", func(tx *Tx) error {
				if _, err := tx.Exec(`INSERT INTO {rows} (name) VALUES (?)`, fmt.Sprint("w", i)); err != nil {
					return err
				}
				switch i % 3 {
				case 1:
					return mine
				case 2:
					_, err := tx.Exec(`INSERT INTO {rows} (name) VALUES ('taken')`)
					return err
				}
				return nil
			})
		})
	}
	dbtest.WaitFor(t, "a batch", func() bool { return q.length() == writes })
	release()
	wg.Wait()
	for i, err := range errs {
		switch {
		case i%3 == 0 && err != nil, i%3 == 1 && !errors.Is(err, mine), i%3 == 2 && !c.DB.Dialect.Duplicate(err):
			t.Errorf("write %d: %v", i, err)
		}
	}
	if n := c.rows(t) - 1; n != writes/3 {
		t.Errorf("%d writes are there of %d", n, writes/3)
	}
}

// A caller gives up while its write is in the queue. The write must not happen later.
func TestAbandonedWriteDoesNotHappen(t *testing.T) {
	c := newSQLite(t)
	q := c.DB.Pools().queue
	release := holdWriter(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan error)
	go func() { second <- c.insert(ctx, Durable, "abandoned") }()
	dbtest.WaitFor(t, "the second write to wait", func() bool { return q.length() == 1 })
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	release()
	if n := c.rows(t); n != 0 {
		t.Error("the write happened")
	}
}

// Closing the database must not lose writes that the queue has accepted.
func TestCloseSeesWritesThrough(t *testing.T) {
	address := "sqlite:" + filepath.Join(t.TempDir(), "wx.db")
	c := withRows(t, address)
	q := c.DB.Pools().queue
	release := holdWriter(t, c)
	const writes = 10
	errs := make(chan error, writes)
	for i := range writes {
		go func() { errs <- c.insert(context.Background(), Durable, fmt.Sprint(i)) }()
	}
	dbtest.WaitFor(t, "the writes", func() bool { return q.length() == writes })
	closed := make(chan error)
	go func() { closed <- c.DB.Close() }()
	dbtest.WaitFor(t, "closing to begin", func() bool { return c.DB.Pools() == nil })
	release()
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	stored := 0
	for range writes {
		if err := <-errs; err == nil {
			stored++
		} else if !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
	}
	if n := withRows(t, address).rows(t); n != stored || stored == 0 {
		t.Errorf("%d writes were reported as done, %d are there", stored, n)
	}
}

// Durable writes per second, from one caller and from many at once.
func BenchmarkDurableWrites(b *testing.B) {
	for _, writers := range []int{1, 16, 128} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			c := newSQLite(b)
			var n atomic.Int64
			b.SetParallelism(writers)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := c.insert(context.Background(), Durable, fmt.Sprint(n.Add(1))); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// A write is acknowledged only once it is on disk.
func TestDurableWriteReturnsOnceOnDisk(t *testing.T) {
	c := newSQLite(t)
	q := c.DB.Pools().queue
	flush, flushing, disk := q.flush, make(chan struct{}), make(chan error)
	q.flush = func() error {
		flushing <- struct{}{}
		return errors.Join(<-disk, flush())
	}
	insert := func(name string) <-chan error {
		told := make(chan error, 1)
		go func() { told <- c.insert(context.Background(), Durable, name) }()
		return told
	}
	first := insert("first")
	<-flushing
	second, third := insert("second"), insert("third")
	// Other callers can see the write, and make writes of their own, before it is on disk.
	dbtest.WaitFor(t, "the others", func() bool { return c.rows(t) == 3 })
	if err := c.insert(t.Context(), Light, "light"); err != nil {
		t.Error("a light write:", err)
	}
	select {
	case <-first:
		t.Error("the first was acknowledged before it was on disk")
	case <-second:
		t.Error("the second was acknowledged before it was on disk")
	default:
	}
	disk <- nil
	if err := <-first; err != nil {
		t.Error(err)
	}
	<-flushing // one flush for both
	broken := errors.New("broken")
	disk <- broken
	for _, told := range []<-chan error{second, third} {
		if err := <-told; !errors.Is(err, ErrUnavailable) || !errors.Is(err, broken) {
			t.Errorf("with a broken disk: %v", err)
		}
	}
	q.flush = flush
	if err := <-insert("fifth"); err != nil {
		t.Error(err)
	}
	if err := flushFile(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there was flushed")
	}
}

// One of the writes of a batch panics. Its caller panics, the others are written, and the queue
// goes on.
func TestPanicStaysWithItsWrite(t *testing.T) {
	c := newSQLite(t)
	q := c.DB.Pools().queue
	write := func(name string) (panicked any, err error) {
		defer func() { panicked = recover() }()
		return nil, c.Write(context.Background(), "testing", func(tx *Tx) error {
			_, err := tx.Exec(`INSERT INTO {rows} (name) VALUES (?)`, name)
			if name == "bad" {
				panic("a fault")
			}
			return err
		})
	}
	together := func(names ...string) {
		t.Helper()
		release := holdWriter(t, c)
		var all sync.WaitGroup
		for _, name := range names {
			all.Go(func() {
				p, err := write(name)
				if err != nil || (name == "bad") != strings.Contains(fmt.Sprint(p), "a fault") {
					t.Errorf("%s: panic %v, error %v", name, p, err)
				}
			})
		}
		dbtest.WaitFor(t, "a batch", func() bool { return q.length() == len(names) })
		release()
		all.Wait()
	}
	together("bad", "good", "better")
	together("bad")
	together("best")
	if n := c.rows(t); n != 3 {
		t.Errorf("%d rows were written, want 3", n)
	}
}
