package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
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
	g.send = func(ctx context.Context, writes []*grouped) error {
		<-open.open
		open.sizes <- len(writes)
		if send == nil {
			return nil
		}
		return send(context.Background(), writes) // the test may have waited for longer than it takes
	}
	return open
}

// groups returns the groupCommit of an operation.
func (s *Store) groups(doing string, how durability) *groupCommit {
	p := s.db.pools.Load()
	return p.groups.of(groupKind{doing, how, true}, s.db, p.write)
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
	for range 1 + groupEnough*(1+2+3) + 100 {
		all.Go(func() {
			if err := g.write(t.Context(), new(grouped)); err != nil {
				t.Error(err)
			}
		})
		if waiting++; running < 4 && waiting >= groupEnough*running {
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
	if err := g.write(t.Context(), new(grouped)); err != nil || g.running != 0 {
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
	go func() { first <- g.write(ctx, new(grouped)) }()
	g.runs(t, 1)
	late := make(chan error, 1)
	go func() { late <- g.write(ctx, new(grouped)) }()
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
	g := &groupCommit{send: func(_ context.Context, writes []*grouped) error {
		for _, w := range writes {
			w.statements(nil)
		}
		return nil
	}}
	at := behindGate(g)
	good := func(*tx) (_, _ []statement, _ error) { return nil, nil, nil }
	bad := func(*tx) (_, _ []statement, _ error) { panic("a fault") }
	var all sync.WaitGroup
	write := func(statements func(*tx) (_, _ []statement, _ error), want error) {
		all.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					t.Error("a caller panics:", p)
				}
			}()
			if err := g.write(t.Context(), &grouped{statements: statements}); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
	write(good, nil)
	g.runs(t, 1)
	write(good, errGroup)
	g.waits(t, 1)
	write(bad, errGroup)
	g.waits(t, 2)
	close(at.open)
	all.Wait()
	write(good, nil)
	all.Wait()
}

// One transaction has the writes of many logins, and a row that exists already. The others succeed,
// and the fault meets its own caller.
func TestGroupedWriteFailsAlone(t *testing.T) {
	onServers(t, func(t *testing.T, _, address string) {
		s := started(t, handles(t, address))
		groups := s.groups("leasing a step", light)
		at := behindGate(groups)
		var all sync.WaitGroup
		const leases = groupEnough
		for n := range byte(leases) {
			all.Go(func() {
				found, err := s.Lease(t.Context(), "a", now, time.Hour, login.Key{n, 1}, login.Key{n, 2})
				if err != nil || !found[0].Leased || !found[1].Leased {
					t.Errorf("lease %d: %+v, %v", n, found, err)
				}
			})
		}
		groups.waits(t, leases-1)
		all.Go(func() {
			err := s.group(t.Context(), "leasing a step", light, &grouped{statements: func(*tx) (writes, _ []statement, _ error) {
				return []statement{onRow([]byte{1}, "", say(`INSERT INTO {meta} (name, value) VALUES (?, ?)`, keyCheckName, []byte{1}))}, nil, nil
			}})
			if !s.db.dialect.duplicate(err) {
				t.Errorf("a second row: %v", err)
			}
		})
		groups.runs(t, 2)
		close(at.open)
		all.Wait()
		if n := count(t, s, `SELECT COUNT(*) FROM {claimed_steps}`); n != 2*leases {
			t.Errorf("%d leases", n)
		}
	})
}

// Many refreshes share a transaction. One comes with a counter that is behind, two with the same.
func TestRefreshesShareATransaction(t *testing.T) {
	onServers(t, func(t *testing.T, _, address string) {
		s := started(t, handles(t, address))
		var sessions []session.Session
		for n := range groupEnough {
			who := fmt.Sprint("u", n)
			one, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: who, UserID: who}, user.Keep, now)
			sessions = append(sessions, one)
		}
		groups := s.groups("advancing a session", durable)
		at := behindGate(groups)
		var all sync.WaitGroup
		var mu sync.Mutex
		advanced := make(map[string]int)
		refresh := func(one session.Session, from uint64) {
			all.Go(func() {
				ok, err := s.Advance(t.Context(), one.ID, advance(from, from+1, now, now.Add(time.Hour)))
				if err != nil {
					t.Error(err)
				}
				if ok {
					mu.Lock()
					defer mu.Unlock()
					advanced[one.ID]++
				}
			})
		}
		refresh(sessions[0], 0)
		groups.runs(t, 1)
		for _, one := range sessions[1 : groupEnough-1] {
			refresh(one, 0)
		}
		refresh(sessions[1], 0)
		refresh(sessions[groupEnough-1], 7)
		groups.runs(t, 2)
		close(at.open)
		all.Wait()
		for n, one := range sessions {
			if want := 1 - n/(groupEnough-1); advanced[one.ID] != want {
				t.Errorf("session %d was advanced %d times, want %d", n, advanced[one.ID], want)
			}
			if found, err := s.Session(t.Context(), one.ID); err != nil || int(found.Counter) != advanced[one.ID] {
				t.Errorf("session %d: counter %d, %v", n, found.Counter, err)
			}
		}
	})
}

// Two replicas get the same codes in opposite orders. Their transactions must not deadlock, because
// a database may notice a deadlock only after a second.
func TestGroupedLeasesDoNotDeadlock(t *testing.T) {
	onServers(t, func(t *testing.T, _, address string) {
		open := handles(t, address)
		a, b := started(t, open), started(t, open)
		for round := range 20 {
			var both sync.WaitGroup
			for n, s := range []*Store{a, b} {
				both.Go(func() {
					writes := make([]*grouped, 20)
					for i := range writes {
						step := login.Key{byte(round), byte(i), 1}
						if n == 1 {
							step = login.Key{byte(round), byte(19 - i), 1}
						}
						writes[i] = &grouped{statements: func(*tx) (_, _ []statement, _ error) {
							return s.leaseSteps(fmt.Sprint(n), time.Hour, step), nil, nil
						}}
					}
					together := func(t *tx) error { return t.together(writes...) }
					if err := s.db.changing(t.Context(), s.db.pools.Load().write, light, together); err != nil {
						t.Error(err)
					}
				})
			}
			both.Wait()
		}
	})
}

// Adjacent statements that differ only in their row become one statement, for 2, 4, 8 and so on
// different rows.
func TestRowsAreJoined(t *testing.T) {
	insert := func(n byte) statement {
		return onRow([]byte{n}, "(?, ?)", say(`INSERT INTO t (a, b) VALUES (?, ?)`, n, n))
	}
	list := []statement{insert(3), say(`SELECT 1`), insert(1), onRow([]byte{2}, "?", say(`DELETE FROM t WHERE a IN (?)`, byte(2))), insert(2), insert(3), insert(4)}
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
		g.waiting = append(g.waiting, &grouped{rows: strings.Fields(rows)})
	}
	var got []string
	for len(g.waiting) > 0 {
		batch := ""
		for _, w := range g.next() {
			batch += strings.Join(w.rows, "") + " "
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
		done := make(chan error, 1+groupEnough)
		write := func(rows ...string) { done <- g.write(t.Context(), &grouped{rows: rows}) }
		go write()
		g.runs(t, 1)
		for n := range groupEnough - 1 {
			go write("a row")
			g.waits(t, n+1)
		}
		gone, giveUp := context.WithCancel(t.Context())
		giveUp()
		go func() { done <- g.write(afterwards{gone}, &grouped{rows: []string{"a row"}}) }()
		g.runs(t, 2)
		close(at.open)
		for range 1 + groupEnough {
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
