package sqldb

import (
	"context"
	"database/sql/driver"
	"testing"

	client "github.com/go-sql-driver/mysql"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
)

// Preparing a statement each time would cost one more turnaround.
func TestMySQLStatementsArePreparedOnce(t *testing.T) {
	if dbtest.Without("mysql") {
		return
	}
	c := withRows(t, dbtest.Fresh(t, "mysql"))
	pool := c.DB.Pools().Write
	pool.SetMaxOpenConns(1)
	prepared := func() (n int) {
		var name string
		if err := pool.QueryRow(`SHOW SESSION STATUS LIKE 'Com_stmt_prepare'`).Scan(&name, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	drop := func() {
		t.Helper()
		if err := c.Write(t.Context(), "deleting", func(t *Tx) error {
			_, err := t.Exec(`DELETE FROM {rows} WHERE name = ?`, "x")
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	before := prepared()
	for range 20 {
		drop()
	}
	if n := prepared() - before; n != 1 {
		t.Errorf("prepared %d times", n)
	}
	// A statement that the server has forgotten causes no error.
	conn, err := pool.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Raw(func(c any) error {
		m := c.(*mysqlConn)
		for query, stmt := range m.prepared {
			m.prepared[query] = forgotten{stmt}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	drop()
}

// forgotten is a statement that the server no longer knows.
type forgotten struct{ preparedStmt }

func (forgotten) ExecContext(context.Context, []driver.NamedValue) (driver.Result, error) {
	return nil, &client.MySQLError{Number: 1243}
}
