package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	client "github.com/go-sql-driver/mysql"
)

// together separates the statements that are sent in one text. No statement contains it.
const together = ";\n"

// sendMySQL sends the statements as one text. The driver escapes the parameters, as the
// connection's settings require (see parseMySQL), and writes them into the text. None of this SQL
// comes from a configuration. Connections to external tables accept one statement at a time.
func sendMySQL(ctx context.Context, db *DB, conn *sql.Conn, statements []Statement) error {
	var text strings.Builder
	var args []any
	var scans []func(Row) error
	for i, st := range statements {
		if i > 0 {
			text.WriteString(together)
		}
		text.WriteString(db.SQL(st.query))
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

// errApart reports that something between us and the server accepts only one statement at a time.
var errApart = errors.New("the server or a proxy does not execute several statements in one text: connect to the server itself, or allow multiple statements in the proxy")

// checkTogether checks that the server executes several statements in one text. If a proxy refused
// them, every login would fail. If a proxy dropped all but the first, writes would be lost.
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
