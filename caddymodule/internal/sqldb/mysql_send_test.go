package sqldb

import (
	"database/sql"
	"errors"
	"testing"

	client "github.com/go-sql-driver/mysql"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
)

// Some proxies accept only one statement at a time. Such a connection is refused with the remedy
// when the store is opened. It must not fail only at the first login.
func TestMySQLTakesStatementsTogether(t *testing.T) {
	if dbtest.Without("mysql") {
		return
	}
	db, err := New(dbtest.Address("mysql"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for together, want := range map[bool]error{true: nil, false: errApart} {
		config := db.server.(*mysqlAddress).config.Clone()
		config.MultiStatements = together
		connector, err := client.NewConnector(config)
		if err != nil {
			t.Fatal(err)
		}
		pool := sql.OpenDB(connector)
		defer pool.Close()
		if err := checkTogether(t.Context(), pool); !errors.Is(err, want) || (err == nil) != together {
			t.Errorf("together %v: %v", together, err)
		}
	}
}
