package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// gate makes the first transactions of a gather wait, so that a test decides which writes are sent
// together.
type gate struct {
	open  chan struct{} // closed to let all pass
	sizes chan int      // of each transaction, as it is sent
}

// behindGate puts a gate in front of a gather's transactions.
func behindGate(g *gather) *gate {
	open := &gate{make(chan struct{}), make(chan int, 1000)}
	send := g.send
	g.send = func(ctx context.Context, writes []*gathered) error {
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
func (g *gather) waits(t *testing.T, n int) {
	t.Helper()
	g.until(t, func() bool { return len(g.waiting) == n })
}

// runs waits until n transactions are on their way.
func (g *gather) runs(t *testing.T, n int) {
	t.Helper()
	g.until(t, func() bool { return g.running == n })
}

func (g *gather) until(t *testing.T, reached func() bool) {
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
	t.Fatal("the gather does not get there")
}

// Writes that arrive while transactions are on their way share the next ones. Each transaction has
// a bounded number of writes.
func TestGatheredWritesShareTransactions(t *testing.T) {
	g := new(gather)
	at := behindGate(g)
	var all sync.WaitGroup
	for n := range gatherAtOnce + 100 {
		all.Go(func() {
			if err := g.write(t.Context(), new(gathered)); err != nil {
				t.Error(err)
			}
		})
		g.waits(t, max(0, n+1-gatherAtOnce))
	}
	close(at.open)
	all.Wait()
	var sizes []int
	for len(at.sizes) > 0 {
		sizes = append(sizes, <-at.sizes)
	}
	slices.Sort(sizes)
	if want := []int{1, 1, 1, 1, 100 - gatherMost, gatherMost}; !slices.Equal(sizes, want) {
		t.Errorf("transactions of %d writes, want %d", sizes, want)
	}
	if err := g.write(t.Context(), new(gathered)); err != nil || g.running != 0 {
		t.Errorf("afterwards: %v, and %d are running", err, g.running)
	}
}

// If a caller gives up while its write is waiting, the write is not made. If a caller gives up
// later, it must wait for the result, because the transaction still uses its data.
func TestGatheredWriteIsTakenBack(t *testing.T) {
	g := new(gather)
	at := behindGate(g)
	ctx, giveUp := context.WithCancel(t.Context())
	results := make(chan error, gatherAtOnce+1)
	for range gatherAtOnce {
		go func() { results <- g.write(ctx, new(gathered)) }()
	}
	g.runs(t, gatherAtOnce)
	late := make(chan error, 1)
	go func() { late <- g.write(ctx, new(gathered)) }()
	g.waits(t, 1)
	giveUp()
	if err := <-late; !errors.Is(err, context.Canceled) {
		t.Error("it was sent after all:", err)
	}
	close(at.open)
	for range gatherAtOnce {
		if err := <-results; err != nil {
			t.Error("one that was on its way:", err)
		}
	}
}

// The statements of a write panic. Another caller sends the transaction. That caller must not
// panic: both writes are made alone, and only the faulty one panics then.
func TestGatheredPanicStaysWithItsCaller(t *testing.T) {
	g := &gather{send: func(_ context.Context, writes []*gathered) error {
		for _, w := range writes {
			w.statements()
		}
		return nil
	}}
	at := behindGate(g)
	good := func() (_, _ []statement) { return nil, nil }
	bad := func() (_, _ []statement) { panic("a fault") }
	var all sync.WaitGroup
	write := func(statements func() (_, _ []statement), want error) {
		all.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					t.Error("a caller panics:", p)
				}
			}()
			if err := g.write(t.Context(), &gathered{statements: statements}); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
	for n := range gatherAtOnce {
		write(good, nil)
		g.runs(t, n+1)
	}
	write(good, errGathered)
	g.waits(t, 1)
	write(bad, errGathered)
	g.waits(t, 2)
	close(at.open)
	all.Wait()
	write(good, nil)
	all.Wait()
}

// Two first logins with one number, and a step that is too large for its column, share a
// transaction with the writes of other logins. The others succeed, and each error reaches its own
// caller.
func TestGatheredWriteFailsAlone(t *testing.T) {
	onServers(t, func(t *testing.T, _, address string) {
		s := started(t, handles(t, address))
		users := s.Users(true, settings)
		gathers := s.db.pools.Load().gathers[gathering{light, true}]
		at := behindGate(gathers)
		var all sync.WaitGroup
		ids := make([]string, 12)
		for i := range ids {
			all.Go(func() {
				// Numbers 0 and 1 are equal.
				number := fmt.Sprintf("1380000%04d", max(i, 1))
				u, err := users.Login(t.Context(), user.Login{AppID: "wx1", OpenID: "o", Phone: phone(t, number)})
				if err != nil {
					t.Errorf("login %d: %v", i, err)
				}
				ids[i] = u.ID
			})
		}
		gathers.waits(t, len(ids)-gatherAtOnce)
		all.Go(func() {
			found, err := s.Lease(t.Context(), "a", now, time.Hour, login.Key{1}, login.Key{2})
			if err != nil || !found[0].Leased || !found[1].Leased {
				t.Errorf("lease: %+v, %v", found, err)
			}
		})
		gathers.waits(t, len(ids)-gatherAtOnce+1)
		close(at.open)
		all.Wait()
		if ids[0] != ids[1] {
			t.Error("two users for one number")
		}
		slices.Sort(ids)
		if n := len(slices.Compact(ids)); n != 11 {
			t.Errorf("%d users, want 11", n)
		}
	})
}

// A replica that hangs has locked the row of one client. The transaction that waits for it contains
// other clients' writes, too, and holds the locks of their rows. They must be made soon after it
// has failed. MySQL does not notice that its client has given up. Here it waits for 30 seconds.
func TestGatheredWriteBehindAHungReplica(t *testing.T) {
	onServers(t, func(t *testing.T, _, address string) {
		hung := started(t, handles(t, address))
		s := started(t, func(opts Options) *DB {
			db := handles(t, address)(opts)
			if server, ok := db.server.(*mysqlAddress); ok {
				server.config.Params["innodb_lock_wait_timeout"] = "30"
			}
			return db
		})
		expires := now.Add(time.Hour)
		if err := hung.Keep(t.Context(), login.Key{2}, []byte("x"), expires); err != nil {
			t.Fatal(err)
		}
		held, err := hung.db.pools.Load().write.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer held.Rollback()
		if _, err := held.Exec(hung.db.sql(`UPDATE {kept_steps} SET spent = 1`)); err != nil {
			t.Fatal(err)
		}
		g := s.db.pools.Load().gathers[gathering{durable, false}]
		at := make(chan struct{})
		send := g.send
		g.send = func(_ context.Context, writes []*gathered) error {
			<-at
			ctx, cancel := context.WithTimeout(context.Background(), gatherTimeout)
			defer cancel()
			return send(ctx, writes)
		}
		var all sync.WaitGroup
		keep := func(step login.Key, want error) {
			all.Go(func() {
				if err := s.Keep(t.Context(), step, []byte("x"), expires); !errors.Is(err, want) {
					t.Errorf("step %d: %v, want %v", step[:1], err, want)
				}
			})
		}
		for n := range gatherAtOnce {
			keep(login.Key{byte(10 + n)}, nil)
			g.runs(t, n+1)
		}
		for n := range 3 {
			keep(login.Key{byte(1 + n)}, []error{nil, ErrUnavailable, nil}[n])
			g.waits(t, n+1)
		}
		close(at)
		all.Wait()
	})
}

// Two replicas get the same codes in opposite orders. Their transactions must not deadlock, because
// a database may notice a deadlock only after a second.
func TestGatheredLeasesDoNotDeadlock(t *testing.T) {
	onServers(t, func(t *testing.T, _, address string) {
		open := handles(t, address)
		a, b := started(t, open), started(t, open)
		for round := range 20 {
			var both sync.WaitGroup
			for n, s := range []*Store{a, b} {
				both.Go(func() {
					writes := make([]*gathered, 20)
					for i := range writes {
						step := login.Key{byte(round), byte(i), 1}
						if n == 1 {
							step = login.Key{byte(round), byte(19 - i), 1}
						}
						writes[i] = &gathered{statements: func() (_, _ []statement) {
							return s.leaseSteps(fmt.Sprint(n), time.Hour, step), nil
						}}
					}
					if err := s.db.together(t.Context(), s.db.pools.Load().write, light, writes); err != nil {
						t.Error(err)
					}
				})
			}
			both.Wait()
		}
	})
}

// Adjacent statements that differ only in their row become one statement.
func TestRowsAreJoined(t *testing.T) {
	insert := func(n byte) statement {
		return onRow([]byte{n}, "(?, ?)", say(`INSERT INTO t (a, b) VALUES (?, ?)`, n, n))
	}
	list := []statement{insert(3), say(`SELECT 1`), insert(1), onRow([]byte{2}, "?", say(`DELETE FROM t WHERE a IN (?)`, byte(2))), insert(2)}
	slices.SortStableFunc(list, byLocks)
	var got []string
	for _, st := range joinRows(list) {
		got = append(got, fmt.Sprint(st.query, st.args))
	}
	want := []string{`DELETE FROM t WHERE a IN (?)[2]`, `INSERT INTO t (a, b) VALUES (?, ?), (?, ?), (?, ?)[1 1 2 2 3 3]`, `SELECT 1[]`}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
