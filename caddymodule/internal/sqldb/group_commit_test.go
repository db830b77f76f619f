package sqldb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
)

// gate makes the first transactions of a groupCommit wait, so that a test decides which writes are
// sent together.
type gate struct {
	open  chan struct{} // closed to let all pass
	sizes chan int      // of each transaction, as it is sent
}

// behindGate puts a gate in front of a groupCommit's transactions.
func behindGate(g *groupCommit) *gate {
	open := &gate{make(chan struct{}), make(chan int, 1000)}
	send := g.send
	g.soon = 0 // what waits at the gate is not slow
	g.send = func(ctx context.Context, writes []*Grouped) error {
		<-open.open
		open.sizes <- len(writes)
		if send == nil {
			return nil
		}
		return send(context.Background(), writes) // the test may have waited for longer than it takes
	}
	return open
}

// waits waits until n writes are waiting for a transaction.
func (g *groupCommit) waits(t *testing.T, n int) {
	t.Helper()
	g.until(t, func() bool { return len(g.waiting) == n })
}

// runs waits until n transactions are on their way.
func (g *groupCommit) runs(t *testing.T, n int) {
	t.Helper()
	g.until(t, func() bool { return g.running == n })
}

func (g *groupCommit) until(t *testing.T, reached func() bool) {
	t.Helper()
	for range 2000 {
		g.mu.Lock()
		ok := reached()
		g.mu.Unlock()
		if ok {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("it does not get there")
}

// Writes that arrive while transactions are on their way share the next ones. The more are on their
// way, the more must wait for one more to begin. Each has a bounded number of writes.
func TestGroupedWritesShareTransactions(t *testing.T) {
	g := new(groupCommit)
	at := behindGate(g)
	var all sync.WaitGroup
	waiting, running := 0, 0
	for range 1 + GroupEnough*(1+2+3) + 100 {
		all.Go(func() {
			if err := g.write(t.Context(), new(Grouped)); err != nil {
				t.Error(err)
			}
		})
		if waiting++; running < 4 && waiting >= GroupEnough*running {
			waiting, running = 0, running+1
		}
		g.until(t, func() bool { return len(g.waiting) == waiting && g.running == running })
	}
	close(at.open)
	all.Wait()
	var sizes []int
	for len(at.sizes) > 0 {
		sizes = append(sizes, <-at.sizes)
	}
	slices.Sort(sizes)
	if want := []int{1, 8, 16, 24, 100 - groupMost, groupMost}; !slices.Equal(sizes, want) {
		t.Errorf("transactions of %d writes, want %d", sizes, want)
	}
	if err := g.write(t.Context(), new(Grouped)); err != nil || g.running != 0 {
		t.Errorf("afterwards: %v, and %d are running", err, g.running)
	}
}

// If a caller gives up while its write is waiting, the write is not made. If a caller gives up
// later, it must wait for the result, because the transaction still uses its data.
func TestGroupedWriteIsTakenBack(t *testing.T) {
	g := new(groupCommit)
	at := behindGate(g)
	ctx, giveUp := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- g.write(ctx, new(Grouped)) }()
	g.runs(t, 1)
	late := make(chan error, 1)
	go func() { late <- g.write(ctx, new(Grouped)) }()
	g.waits(t, 1)
	giveUp()
	if err := <-late; !errors.Is(err, context.Canceled) {
		t.Error("it was sent after all:", err)
	}
	close(at.open)
	if err := <-first; err != nil {
		t.Error("the one that was on its way:", err)
	}
}

// The statements of a write panic. Another caller sends the transaction. That caller must not
// panic: both writes are made alone, and only the faulty one panics then.
func TestGroupedPanicStaysWithItsCaller(t *testing.T) {
	g := &groupCommit{send: func(_ context.Context, writes []*Grouped) error {
		for _, w := range writes {
			w.Statements(nil)
		}
		return nil
	}}
	at := behindGate(g)
	good := func(*Tx) (_, _ []Statement, _ error) { return nil, nil, nil }
	bad := func(*Tx) (_, _ []Statement, _ error) { panic("a fault") }
	var all sync.WaitGroup
	write := func(statements func(*Tx) (_, _ []Statement, _ error), want error) {
		all.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					t.Error("a caller panics:", p)
				}
			}()
			if err := g.write(t.Context(), &Grouped{Statements: statements}); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
	write(good, nil)
	g.runs(t, 1)
	write(good, ErrGroup)
	g.waits(t, 1)
	write(bad, ErrGroup)
	g.waits(t, 2)
	close(at.open)
	all.Wait()
	write(good, nil)
	all.Wait()
}

// Adjacent statements that differ only in their row become one statement, for 2, 4, 8 and so on
// different rows.
func TestRowsAreJoined(t *testing.T) {
	insert := func(n byte) Statement {
		return OnRow([]byte{n}, "(?, ?)", Say(`INSERT INTO t (a, b) VALUES (?, ?)`, n, n))
	}
	list := []Statement{insert(3), Say(`SELECT 1`), insert(1), OnRow([]byte{2}, "?", Say(`DELETE FROM t WHERE a IN (?)`, byte(2))), insert(2), insert(3), insert(4)}
	slices.SortStableFunc(list, byLocks)
	var got []string
	for _, st := range joinRows(list) {
		got = append(got, fmt.Sprint(st.query, st.args))
	}
	want := []string{
		`DELETE FROM t WHERE a IN (?)[2]`, `INSERT INTO t (a, b) VALUES (?, ?), (?, ?)[1 1 2 2]`, `INSERT INTO t (a, b) VALUES (?, ?)[3 3]`,
		`INSERT INTO t (a, b) VALUES (?, ?), (?, ?)[3 3 4 4]`, `SELECT 1[]`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Of the writes that wait, those that are decided by a common row are sent one after the other.
func TestGroupedRowsStayApart(t *testing.T) {
	g := new(groupCommit)
	for _, rows := range []string{"a b", "b c", "d", "c"} {
		g.waiting = append(g.waiting, &Grouped{Rows: strings.Fields(rows)})
	}
	var got []string
	for len(g.waiting) > 0 {
		batch := ""
		for _, w := range g.next() {
			batch += strings.Join(w.Rows, "") + " "
		}
		if more := g.next(); len(more) > 0 {
			t.Errorf("%d more are sent meanwhile", len(more))
		}
		clear(g.busy) // they have been sent
		got = append(got, batch)
	}
	if want := []string{"ab d c ", "bc "}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// afterwards is a context that ends as soon as it was looked at.
type afterwards struct{ context.Context }

func (afterwards) Err() error { return nil }

// A write arrives that begins a transaction, but waits itself, because it has a row in common with
// one that goes first. Its caller gives up. The transaction is sent all the same.
func TestGroupedLeaderGivesUp(t *testing.T) {
	for range 20 { // a caller that has given up chooses at random what it sees first
		g := new(groupCommit)
		at := behindGate(g)
		done := make(chan error, 1+GroupEnough)
		write := func(rows ...string) { done <- g.write(t.Context(), &Grouped{Rows: rows}) }
		go write()
		g.runs(t, 1)
		for n := range GroupEnough - 1 {
			go write("a row")
			g.waits(t, n+1)
		}
		gone, giveUp := context.WithCancel(t.Context())
		giveUp()
		go func() { done <- g.write(afterwards{gone}, &Grouped{Rows: []string{"a row"}}) }()
		g.runs(t, 2)
		close(at.open)
		for range 1 + GroupEnough {
			select {
			case err := <-done:
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("a write is never sent")
			}
		}
	}
}

// A common transaction fails, so the write is made alone. That is reported, as it costs a further
// transaction.
func TestRetriesAreReported(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, _, address string) {
		c := withRows(t, address)
		var seen []int
		c.DB.Observe(func(o Operation) { seen = append(seen, o.Again) })
		insert := func(name string) {
			t.Helper()
			if err := c.Group(t.Context(), "inserting", Durable, &Grouped{Statements: func(*Tx) (_, _ []Statement, _ error) {
				return []Statement{Say(`INSERT INTO {rows} (name) VALUES (?)`, name)}, nil, nil
			}}); err != nil {
				t.Fatal(err)
			}
		}
		insert("shared")
		c.Grouping("inserting", Durable).Intercept(func(Send) Send {
			return func(context.Context, []*Grouped) error { return errors.New("lost") }
		})
		insert("alone")
		if want := []int{0, 1}; !slices.Equal(seen, want) {
			t.Errorf("run again %d times, want %d", seen, want)
		}
	})
}
