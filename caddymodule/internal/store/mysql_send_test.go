package store

import (
	"database/sql"
	"errors"
	"testing"

	client "github.com/go-sql-driver/mysql"
)

// Some proxies accept only one statement at a time. Such a connection is refused with the remedy
// when the store is opened. It must not fail only at the first login.
func TestMySQLTakesStatementsTogether(t *testing.T) {
	if without("mysql") {
		return
	}
	for together, want := range map[bool]error{true: nil, false: errApart} {
		config := servers["mysql"].admin.server.(*mysqlAddress).config.Clone()
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
