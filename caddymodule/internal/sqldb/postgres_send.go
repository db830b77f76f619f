package sqldb

import (
	"context"
	"database/sql"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// sendPostgres sends the statements in a pipeline that ends with one Sync. A statement that is new
// to this connection is prepared first, in a further turnaround. Behind a pooler no statement is
// prepared.
func sendPostgres(ctx context.Context, db *DB, conn *sql.Conn, statements []Statement) error {
	return conn.Raw(func(c any) (err error) {
		var batch pgx.Batch
		for _, st := range statements {
			batch.Queue(db.SQL(st.query), st.args...)
		}
		results := c.(*stdlib.Conn).Conn().SendBatch(ctx, &batch)
		defer func() {
			if e := results.Close(); err == nil {
				err = e
			}
		}()
		for _, st := range statements {
			if st.scan == nil {
				tag, err := results.Exec()
				if err == nil && st.query == commitWork && tag.String() == "ROLLBACK" {
					err = pgx.ErrTxCommitRollback // an earlier statement failed, but its error was not seen
				}
				if err != nil {
					return err
				}
				continue
			}
			rows, err := results.Query()
			if err != nil {
				return err
			}
			for rows.Next() {
				if err := st.scan(rows); err != nil {
					rows.Close()
					return err
				}
			}
			rows.Close()
			if err := rows.Err(); err != nil {
				return err
			}
		}
		return nil
	})
}

// longIdle is the time after which an idle connection is checked by a query, because a firewall may
// have dropped it silently.
const longIdle = time.Minute

// shouldPing reports whether a connection must be checked by a query before its next use. Without a
// query, hasInput detects that the server has closed the connection or has announced a shutdown.
func shouldPing(_ context.Context, p stdlib.ShouldPingParams) bool {
	return p.IdleDuration > longIdle || hasInput(p.Conn.PgConn().Conn())
}
