package store

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
func sendPostgres(ctx context.Context, db *DB, conn *sql.Conn, statements []statement) error {
	return conn.Raw(func(c any) (err error) {
		var batch pgx.Batch
		for _, st := range statements {
			batch.Queue(db.sql(st.query), st.args...)
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
					err = pgx.ErrTxCommitRollback // a statement failed before, and that was overlooked
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

// longIdle is the time after which an idle connection is checked with the server: a firewall may
// have dropped it silently.
const longIdle = time.Minute

// shouldPing reports whether a connection must be checked before its next use. Without a question
// it detects a server that has closed the connection or announced its shutdown.
func shouldPing(_ context.Context, p stdlib.ShouldPingParams) bool {
	return p.IdleDuration > longIdle || hasInput(p.Conn.PgConn().Conn())
}
