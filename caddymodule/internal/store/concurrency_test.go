package store

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Ten replicas start at once on an empty database. They must end up with one schema
// and one key check.
func TestTenReplicasMakeOneSchema(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		const replicas = 10
		var stores []*Store
		for range replicas {
			stores = append(stores, open(defaults).With(testKeys(t, 1)))
		}
		start := make(chan struct{})
		var wg sync.WaitGroup
		for _, s := range stores {
			wg.Go(func() {
				<-start
				if err := s.Open(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		if n := count(t, stores[0], `SELECT COUNT(*) FROM {meta}`); n != 2 {
			t.Errorf("%d rows in meta; want the version and one key check", n)
		}
		for _, s := range stores {
			if err := s.Keep(t.Context(), [32]byte{1}, []byte("x"), now.Add(time.Hour)); err != nil {
				t.Error(err)
			}
		}
	})
}

// Replicas with two different keys start at once. Only those with the key that came
// first may open the store.
func TestReplicasWithTwoKeysDoNotMix(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		var opened [2]atomic.Int32
		var wg sync.WaitGroup
		for i := range 10 {
			s := open(defaults).With(testKeys(t, byte(1+i%2)))
			wg.Go(func() {
				switch err := s.Open(context.Background()); {
				case err == nil:
					opened[i%2].Add(1)
				case !isPermanent(err, ErrKey):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if a, b := opened[0].Load(), opened[1].Load(); a+b != 5 || a*b != 0 {
			t.Errorf("%d opened with one key, %d with the other", a, b)
		}
	})
}

// In a deadlock, the database aborts one of the two transactions. The store runs it again, so that
// the caller does not notice.
func TestDeadlockIsRunAgain(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		open := handles(t, address)
		a, b := started(t, open), started(t, open)
		execute(t, a, `INSERT INTO {user_locks} (stripe) VALUES (1001), (1002)`)
		both := func(s *Store, first, second int, met *sync.WaitGroup) (runs int, err error) {
			err = s.sql.Write(t.Context(), "testing", func(tx *sqldb.Tx) error {
				runs++
				var n int
				if err := tx.Row(`SELECT stripe FROM {user_locks} WHERE stripe = ? {lock}`, first).Scan(&n); err != nil {
					return err
				}
				if runs == 1 {
					met.Done()
					met.Wait()
				}
				return tx.Row(`SELECT stripe FROM {user_locks} WHERE stripe = ? {lock}`, second).Scan(&n)
			})
			return runs, err
		}
		var met, done sync.WaitGroup
		met.Add(2)
		var runs atomic.Int32
		for s, order := range map[*Store][2]int{a: {1001, 1002}, b: {1002, 1001}} {
			done.Go(func() {
				n, err := both(s, order[0], order[1], &met)
				if err != nil {
					t.Error(err)
				}
				runs.Add(int32(n))
			})
		}
		done.Wait()
		if runs.Load() != 3 {
			t.Errorf("two transactions ran %d times", runs.Load())
		}
	})
}

// Two WeChat accounts log in with one number at once. Under `replace` only one of them
// may keep the account.
func TestTwoLoginsAtOnceLeaveOneOpenID(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a, b := started(t, open), started(t, open)
		for round := range 10 {
			who := fmt.Sprint("u", round)
			var wg sync.WaitGroup
			for i, s := range []*Store{a, b, a, b} {
				wg.Go(func() {
					openid := fmt.Sprint("o", i, "-", round)
					opened := newSession(who, "wx1", openid, now)
					if _, err := commit(t, s, loginCommit(user.Binding{AppID: "wx1", OpenID: openid, UserID: who}, user.Replace, opened)); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if n := count(t, a, `SELECT COUNT(*) FROM {bindings} WHERE user_id = ?`, who); n != 1 {
				t.Errorf("%d openids bound", n)
			}
			if n := count(t, a, `SELECT COUNT(*) FROM {sessions} WHERE user_id = ? AND ended_at = 0`, who); n != 1 {
				t.Errorf("%d sessions live", n)
			}
		}
	})
}

// Transactions run at READ COMMITTED whatever the server's default is, since the feed
// depends on it.
func TestTransactionsReadWhatIsCommitted(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		s := started(t, handles(t, address))
		other := started(t, handles(t, address))
		err := s.sql.Write(t.Context(), "testing", func(tx *sqldb.Tx) error {
			var before, after int
			if err := tx.Row(`SELECT COUNT(*) FROM {kept_steps}`).Scan(&before); err != nil {
				return err
			}
			if err := other.Keep(context.Background(), [32]byte{1}, nil, now); err != nil {
				return err
			}
			if err := tx.Row(`SELECT COUNT(*) FROM {kept_steps}`).Scan(&after); err != nil {
				return err
			}
			if after != before+1 {
				t.Errorf("%s reads a snapshot", kind)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
