package store

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// gate makes the first transactions of an operation wait, so that a test decides which writes are
// sent together.
type gate struct {
	sqldb.Grouping
	open  chan struct{} // closed to let all pass
	sizes chan int      // of each transaction, as it is sent
}

// behindGate puts a gate in front of the transactions of an operation.
func behindGate(s *Store, doing string, how sqldb.Durability) *gate {
	g := &gate{s.sql.Grouping(doing, how), make(chan struct{}), make(chan int, 1000)}
	g.Intercept(func(send sqldb.Send) sqldb.Send {
		return func(ctx context.Context, writes []*sqldb.Grouped) error {
			<-g.open
			g.sizes <- len(writes)
			return send(context.Background(), writes) // the test may have waited for longer than it takes
		}
	})
	return g
}

// until waits until so many writes are waiting, and so many transactions are on their way.
func (g *gate) until(t *testing.T, reached func(waiting, running int) bool) {
	t.Helper()
	dbtest.WaitFor(t, "the writes", func() bool { return reached(g.State()) })
}

// runs waits until n transactions are on their way.
func (g *gate) runs(t *testing.T, n int) {
	t.Helper()
	g.until(t, func(_, running int) bool { return running == n })
}

// waits waits until n writes are waiting for a transaction.
func (g *gate) waits(t *testing.T, n int) {
	t.Helper()
	g.until(t, func(waiting, _ int) bool { return waiting == n })
}

// One transaction has the writes of many logins, and a row that exists already. The others succeed,
// and the fault meets its own caller.
func TestGroupedWriteFailsAlone(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, _, address string) {
		s := started(t, handles(t, address))
		at := behindGate(s, "leasing a step", sqldb.Light)
		var all sync.WaitGroup
		const leases = sqldb.GroupEnough
		for n := range byte(leases) {
			all.Go(func() {
				found, err := s.Lease(t.Context(), "a", now, time.Hour, login.Key{n, 1}, login.Key{n, 2})
				if err != nil || !found[0].Leased || !found[1].Leased {
					t.Errorf("lease %d: %+v, %v", n, found, err)
				}
			})
		}
		at.waits(t, leases-1)
		all.Go(func() {
			err := s.sql.Group(t.Context(), "leasing a step", sqldb.Light, &sqldb.Grouped{Statements: func(*sqldb.Tx) (writes, _ []sqldb.Statement, _ error) {
				return []sqldb.Statement{sqldb.OnRow([]byte{1}, "", sqldb.Say(`INSERT INTO {meta} (name, value) VALUES (?, ?)`, keyCheckName, []byte{1}))}, nil, nil
			}})
			if !s.db.sql.Dialect.Duplicate(err) {
				t.Errorf("a second row: %v", err)
			}
		})
		at.runs(t, 2)
		close(at.open)
		all.Wait()
		if n := count(t, s, `SELECT COUNT(*) FROM {claimed_steps}`); n != 2*leases {
			t.Errorf("%d leases", n)
		}
	})
}

// Many refreshes share a transaction. One comes with a counter that is behind, two with the same.
func TestRefreshesShareATransaction(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, _, address string) {
		s := started(t, handles(t, address))
		var sessions []session.Session
		for n := range sqldb.GroupEnough {
			who := fmt.Sprint("u", n)
			one, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: who, UserID: who}, user.Keep, now)
			sessions = append(sessions, one)
		}
		at := behindGate(s, "advancing a session", sqldb.Durable)
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
		at.runs(t, 1)
		for _, one := range sessions[1 : sqldb.GroupEnough-1] {
			refresh(one, 0)
		}
		refresh(sessions[1], 0)
		refresh(sessions[sqldb.GroupEnough-1], 7)
		at.runs(t, 2)
		close(at.open)
		all.Wait()
		for n, one := range sessions {
			if want := 1 - n/(sqldb.GroupEnough-1); advanced[one.ID] != want {
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
	dbtest.OnServers(t, func(t *testing.T, _, address string) {
		open := handles(t, address)
		a, b := started(t, open), started(t, open)
		for round := range 20 {
			var both sync.WaitGroup
			for n, s := range []*Store{a, b} {
				both.Go(func() {
					writes := make([]*sqldb.Grouped, 20)
					for i := range writes {
						step := login.Key{byte(round), byte(i), 1}
						if n == 1 {
							step = login.Key{byte(round), byte(19 - i), 1}
						}
						writes[i] = &sqldb.Grouped{Statements: func(*sqldb.Tx) (_, _ []sqldb.Statement, _ error) {
							return s.leaseSteps(fmt.Sprint(n), time.Hour, step), nil, nil
						}}
					}
					tries := 0
					together := func(t *sqldb.Tx) error { tries++; return t.Together(writes...) }
					if err := s.sql.Change(t.Context(), "leasing", sqldb.Again, sqldb.Light, together); err != nil || tries != 1 {
						t.Errorf("made after %d tries: %v", tries, err)
					}
				})
			}
			both.Wait()
		}
	})
}
