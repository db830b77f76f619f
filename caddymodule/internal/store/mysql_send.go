package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	client "github.com/go-sql-driver/mysql"
)

// together separates the statements of one text. No statement contains it.
const together = ";\n"

// sendMySQL sends the statements as one text. The driver writes the parameters into it, escaped as
// the connection's settings (openMySQL) require. All this SQL is in this package; connections to
// external tables accept one statement at a time.
func sendMySQL(ctx context.Context, db *DB, conn *sql.Conn, statements []statement) error {
	var text strings.Builder
	var args []any
	var scans []func(row) error
	for i, st := range statements {
		if i > 0 {
			text.WriteString(together)
		}
		text.WriteString(db.sql(st.query))
		args = append(args, st.args...)
		if st.scan != nil {
			scans = append(scans, st.scan)
		}
	}
	if len(scans) == 0 {
		_, err := conn.ExecContext(ctx, text.String(), args...)
		return err
	}
	rows, err := conn.QueryContext(ctx, text.String(), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for _, scan := range scans { // statements without rows have no result set
		for rows.Next() {
			if err := scan(rows); err != nil {
				return err
			}
		}
		if !rows.NextResultSet() {
			break
		}
	}
	return rows.Err()
}

// errApart says that something between us and the server takes one statement at a time.
var errApart = errors.New("several statements in one text do not arrive; connect to the server itself, or let the proxy in between pass them")

// checkTogether checks that the server executes several statements of one text. A proxy
// that refuses them would fail each login, and one that drops all but the first would
// lose writes.
func checkTogether(ctx context.Context, pool *sql.DB) error {
	rows, err := pool.QueryContext(ctx, `SELECT 1`+together+`SELECT 2`)
	if refused := new(client.MySQLError); errors.As(err, &refused) {
		return permanent{fmt.Errorf("%w: %w", errApart, err)}
	}
	if err != nil {
		return err
	}
	defer rows.Close()
	if second := rows.NextResultSet(); !second && rows.Err() == nil {
		return permanent{errApart}
	}
	return rows.Err()
}
