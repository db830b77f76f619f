package store

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Housekeeping deletes expired rows in small batches, and nothing else.
func TestPurgeDeletesOnlyExpiredRows(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		now := time.Now().UTC().Truncate(time.Millisecond) // the database's clock decides
		for i := range 5 {
			at := now.Add(-400*24*time.Hour + time.Duration(i)*time.Second)
			opened, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: fmt.Sprint("o", i), UserID: "u"}, user.Keep, at)
			if _, err := s.End(t.Context(), opened.ID, ending(at, at.Add(time.Hour))); err != nil {
				t.Fatal(err)
			}
			if err := s.Keep(t.Context(), [32]byte{byte(i)}, nil, at); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Lease(t.Context(), "me", at, time.Until(at), [32]byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
		alive, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o", UserID: "u"}, user.Keep, now)
		if err := s.Keep(t.Context(), [32]byte{99}, []byte("new"), now.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		var each []int
		for {
			n, err := s.Purge(t.Context(), 2)
			if err != nil {
				t.Fatal(err)
			}
			each = append(each, n)
			if n == 0 {
				break
			}
		}
		// The newest of five revocations stays. A login leaves two steps.
		if want := []int{8, 8, 4, 2, 2, 2, 2, 1, 0}; !slices.Equal(each, want) {
			t.Errorf("purged %v; want %v", each, want)
		}
		if _, err := s.Session(t.Context(), alive.ID); err != nil {
			t.Errorf("a live session was purged: %v", err)
		}
		if _, ok, err := s.Kept(t.Context(), [32]byte{99}, now); !ok || err != nil {
			t.Errorf("a kept step was purged: %v", err)
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {bindings}`); n != 6 {
			t.Errorf("%d bindings left of 6", n)
		}
	})
}

// The first replica that asks does the housekeeping, until it stops or gives the role up.
func TestOneReplicaDoesTheHousekeeping(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a := started(t, open)
		b := open(defaults).With(testKeys(t, 1))
		keeps := func(s *Store, name string) bool {
			t.Helper()
			if err := s.Keep(t.Context(), [32]byte{1}, []byte("over"), now.Add(-time.Minute)); err != nil {
				t.Fatal(err)
			}
			n, ours, err := s.Housekeep(t.Context(), name, 10)
			if err != nil || ours != (n == 1) {
				t.Fatalf("%s deleted %d: %v, %v", name, n, ours, err)
			}
			return ours
		}
		for range 3 {
			if !keeps(a, "a") || keeps(b, "b") {
				t.Error("not a alone")
			}
		}
		left := func() time.Duration {
			return time.Duration(count(t, a, `SELECT lease_until - {now} FROM {claimed_steps}`)) * time.Millisecond
		}
		if d := left(); d < housekeepingLease-time.Minute || d > housekeepingLease {
			t.Errorf("a is not asked again for %v", d)
		}
		// Replica a stopped five minutes ago.
		execute(t, a, `UPDATE {claimed_steps} SET lease_until = {now} - 1`)
		if !keeps(b, "b") || keeps(a, "a") {
			t.Error("b did not take over")
		}
		if err := a.LeaveHousekeeping(t.Context(), "a"); err != nil || keeps(a, "a") {
			t.Errorf("a gave b's role up: %v", err)
		}
		if err := b.LeaveHousekeeping(t.Context(), "b"); err != nil || !keeps(a, "a") {
			t.Errorf("b gave the role up, and a did not take it: %v", err)
		}
	})
}

// Housekeeping deletes a few hundred rows at a time. PostgreSQL must find them by their keys, even
// where a plan that reads all of a table seems to be the cheaper one.
func TestPurgeReadsNoWholeTable(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		if kind != "postgres" {
			return // MySQL deletes along the index on the time
		}
		s := started(t, handles(t, address))
		execute(t, s, `INSERT INTO {sessions} (id, user_id, issuer, appid, openid, unionid, created_at, refreshed_at, counter, advanced_at, expires_at, ended_at, user_agent, address)
			SELECT 's' || n, 'u', 'i', 'a', 'o', '', 0, 0, 0, 0, n, 1, '', '' FROM generate_series(1, 50000) n`)
		execute(t, s, `ANALYZE {sessions}`)
		counted := func(column string) int {
			return count(t, s, `SELECT `+column+` FROM pg_stat_user_tables WHERE relid = '{sessions}'::regclass`)
		}
		await := func(column string, n int) { // the server counts with a delay
			for range 1000 {
				if counted(column) == n {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Fatalf("%s is %d, want %d", column, counted(column), n)
		}
		await("n_tup_ins", 50_000)
		before := counted("seq_scan")
		if n, err := s.Purge(t.Context(), 500); n != 500 || err != nil {
			t.Fatal(n, err)
		}
		await("n_tup_del", 500)
		if after := counted("seq_scan"); after != before {
			t.Errorf("the table was read %d times", after-before)
		}
	})
}
