package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// MySQL commits each schema change immediately. A migration that was interrupted at any point is
// continued by the next start.
func TestInterruptedMigrationContinues(t *testing.T) {
	if dbtest.Without("mysql") {
		return
	}
	total := 0
	for _, statements := range migrations {
		total += len(statements)
	}
	for _, broken := range []int{0, 1, 2, 4, 7, total} {
		open := newMySQL(t)
		db := open(defaults)
		if err := db.sql.Open(t.Context(), true, func(ctx context.Context, p *sqldb.Pools) error {
			asking := db.sql.Asking(t.Context(), p.Write)
			for i, statement := range flat(migrations)[:broken] {
				if _, err := asking.Exec(statement); err != nil {
					return fmt.Errorf("statement %d: %w", i, err)
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		s := db.With(testKeys(t, 1))
		if err := s.Open(patient(t)); err != nil {
			t.Errorf("broken off after %d statements: %v", broken, err)
		}
		logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u1"}, user.Keep, now)
	}
	// The database has another program's table with the name of one of our tables. The migration
	// must not use it.
	db := newMySQL(t)(defaults)
	if err := db.sql.Open(t.Context(), true, func(ctx context.Context, p *sqldb.Pools) error {
		_, err := p.Write.ExecContext(ctx, db.sql.SQL("CREATE TABLE {sessions} (x INT)"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.With(testKeys(t, 1)).Open(t.Context()); err == nil || errors.Is(err, ErrUnavailable) {
		t.Errorf("another table of that name: %v", err)
	}
}

func flat(lists [][]string) (all []string) {
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// The tables must not get the server's default character set or engine.
func TestMySQLTablesAreUTF8AndInnoDB(t *testing.T) {
	if dbtest.Without("mysql") {
		return
	}
	s := started(t, newMySQL(t))
	if n := count(t, s, `SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = DATABASE() AND collation_name IS NOT NULL AND collation_name <> 'utf8mb4_bin'`); n != 0 {
		t.Errorf("%d columns of another collation", n)
	}
	if n := count(t, s, `SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND engine = 'InnoDB'`); n != len(tableNames) {
		t.Errorf("%d tables of InnoDB", n)
	}
	var level string
	if err := s.db.sql.Pools().Write.QueryRow(`SELECT @@sql_mode`).Scan(&level); err != nil || !strings.Contains(level, "STRICT_ALL_TABLES") {
		t.Error(level, err)
	}
	long := newSession(strings.Repeat("u", 200), "wx1", "o1", now)
	if _, err := commit(t, s, loginCommit(user.Binding{AppID: "wx1", OpenID: "o1", UserID: long.UserID}, user.Keep, long)); err == nil {
		t.Error("a value that does not fit was cut")
	}
}
