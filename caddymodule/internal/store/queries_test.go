package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// maxConnections is the bound of package sqldb.
const maxConnections = 20

// A flood of logins must not open more connections than the server allows.
func TestPoolsAreBounded(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, _, address string) {
		s := started(t, handles(t, address))
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if err := ping(t.Context(), s); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if stats := s.db.sql.Pools().Write.Stats(); stats.MaxOpenConnections != maxConnections || stats.OpenConnections > maxConnections {
			t.Errorf("%+v", stats)
		}
	})
}

// Queries on tables that are large in production must use an index. The tables are small here, so
// the planner is set to avoid scans.
func TestServersReadLargeTablesByIndex(t *testing.T) {
	queries := []string{
		`SELECT ` + sessionColumns + ` FROM {sessions} WHERE id = 'x'`,
		`SELECT id FROM {sessions} WHERE ended_at = 0 AND user_id = 'x' {lock}`,
		`UPDATE {sessions} SET counter = 1 WHERE id = 'x' AND counter = 0 AND ended_at = 0`,
		`SELECT seq, session_id, until_at FROM {revocations} WHERE seq > 1990 UNION ALL SELECT seq, session_id, until_at FROM {revocations} WHERE recorded_at >= {now} - 1000`,
		`SELECT ` + bindingColumns + ` FROM {bindings} WHERE appid = 'wx1' AND openid = 'x'`,
		`SELECT ` + bindingColumns + ` FROM {bindings} WHERE unionid = 'x' ORDER BY phone_at DESC, bound_at DESC, appid LIMIT 1`,
		`SELECT ` + bindingColumns + ` FROM {bindings} WHERE user_id = 'x' AND appid = 'wx1'`,
		`SELECT user_id FROM {user_phones} WHERE user_id = 'x'`,
		`SELECT id FROM {sessions} WHERE expires_at < 5 ORDER BY expires_at LIMIT 3`,
	}
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		s := started(t, handles(t, address))
		// The numbers from 1 to 2000, joined from digits.
		digits := `(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)`
		numbers := `(SELECT a.d + 10 * b.d + 100 * c.d + 1000 * e.d AS n FROM ` + digits + ` a, ` + digits + ` b, ` + digits + ` c, (SELECT 0 AS d UNION ALL SELECT 1) e) AS numbers`
		text := `CAST(n AS CHAR(9))`
		execute(t, s, `INSERT INTO {sessions} (`+sessionColumns+`) SELECT `+text+`, `+text+`, 'i', 'wx1', `+text+`, '', n, n, 0, n, n, 0, '', '', '', '', 0, 0, '' FROM `+numbers)
		execute(t, s, `INSERT INTO {bindings} (appid, openid, unionid, user_id, phone_at, bound_at) SELECT 'wx1', `+text+`, `+text+`, `+text+`, n, n FROM `+numbers)
		execute(t, s, `INSERT INTO {revocations} (session_id, until_at, recorded_at) SELECT `+text+`, n, n FROM `+numbers)
		for _, table := range []string{"{sessions}", "{bindings}", "{revocations}"} {
			if kind == "mysql" {
				table = "TABLE " + table
			}
			if err := s.sql.Read(t.Context(), "analyzing", func(t *sqldb.Tx) error { return t.Each(func(sqldb.Row) error { return nil }, `ANALYZE `+table) }); err != nil {
				t.Fatal(err)
			}
		}
		for _, query := range queries {
			plan := explain(t, s, query)
			if strings.Contains(plan, "Seq Scan") || strings.Contains(plan, "type=ALL") || strings.Contains(plan, "type=index ") {
				t.Errorf("%s\nreads a whole table:\n%s", query, plan)
			}
		}
	})
}

func explain(t *testing.T, s *Store, query string) string {
	t.Helper()
	var b strings.Builder
	err := s.sql.Write(t.Context(), "explaining", func(t *sqldb.Tx) error {
		b.Reset()
		if s.db.sql.Dialect.Name == "postgres" {
			if _, err := t.Exec(`SET LOCAL enable_seqscan = off`); err != nil {
				return err
			}
		}
		rows, err := t.Raw().QueryContext(t.Context(), t.DB().SQL(`EXPLAIN `+query))
		if err != nil {
			return err
		}
		defer rows.Close()
		names, err := rows.Columns()
		if err != nil {
			return err
		}
		for rows.Next() {
			values := make([]sql.NullString, len(names))
			into := make([]any, len(names))
			for i := range values {
				into[i] = &values[i]
			}
			if err := rows.Scan(into...); err != nil {
				return err
			}
			for i, name := range names {
				fmt.Fprintf(&b, "%s=%s ", name, values[i].String)
			}
			b.WriteString("\n")
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(query, err)
	}
	return b.String()
}

// A statement that waits for a lock ends with its deadline, and the database stays usable.
func TestQueriesEndAtTheirDeadline(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, _, address string) {
		open := handles(t, address)
		s := started(t, open)
		opened, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Keep, now)
		holder := started(t, open).db
		lock, err := holder.sql.Pools().Write.Begin()
		if err != nil {
			t.Fatal(err)
		}
		var id string
		if err := lock.QueryRow(holder.sql.SQL(`SELECT id FROM {sessions} WHERE ended_at = 0 {lock}`)).Scan(&id); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		begun := time.Now()
		if ok, err := s.Advance(ctx, opened.ID, advance(0, 1, now, now)); ok || !errors.Is(err, ErrUnavailable) || time.Since(begun) > 2*time.Second {
			t.Errorf("%v, %v after %v", ok, err, time.Since(begun))
		}
		lock.Rollback()
		// The server may still execute the statement on which we gave up, because it is a
		// transaction of its own.
		ok, err := s.Advance(t.Context(), opened.ID, advance(0, 1, now, now))
		if after, e := s.Session(t.Context(), opened.ID); err != nil || e != nil || after.Counter != 1 {
			t.Errorf("afterwards: %v, %v; %v, counter %d", ok, err, e, after.Counter)
		}
	})
}

// The feed uses the database's clock in UTC, whatever the session's time zone.
func TestDatabaseClockIsUTC(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		var ms int64
		ask := func(t *sqldb.Tx) error { return t.Row(`SELECT {now}`).Scan(&ms) }
		if err := s.sql.Read(t.Context(), "asking the clock", ask); err != nil {
			t.Fatal(err)
		}
		if off := time.Since(time.UnixMilli(ms)).Abs(); off > 5*time.Second {
			t.Errorf("off by %v", off)
		}
	})
}

// Behind a pooler such as PgBouncer, a statement that was prepared on one server connection is
// unknown on another. So none must be prepared there.
func TestPostgresModeSuitsThePooler(t *testing.T) {
	if dbtest.Without("postgres") {
		return
	}
	address := dbtest.Fresh(t, "postgres")
	for _, mode := range []string{"", "exec", "cache_describe", "describe_exec"} {
		if mode != "" {
			address = dbtest.WithParameter(strings.SplitN(address, "&default", 2)[0], "default_query_exec_mode", mode)
		}
		s := started(t, handles(t, address))
		opened, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Keep, now)
		if got, err := s.Session(t.Context(), opened.ID); err != nil || got != opened {
			t.Errorf("%s: %v", mode, err)
		}
		if _, err := s.End(t.Context(), opened.ID, ending(now, now)); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		if _, err := s.Revocations(t.Context(), 0, time.Minute); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		if _, err := s.Purge(t.Context(), 10); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		s.db.Close()
	}
}
