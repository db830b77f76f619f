package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// sendPostgres sends the statements in a pipeline, with one Sync behind them. A statement
// that this connection has not had yet is prepared before, in a turnaround more; behind a
// pooler none is prepared.
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
				if _, err := results.Exec(); err != nil {
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

// longIdle is for how long a connection may be idle before the server is asked whether it
// still has it: a firewall may have dropped it without a word.
const longIdle = time.Minute

// shouldPing decides that before a connection is used again. A server that has closed it,
// or said so, is seen here without asking.
func shouldPing(_ context.Context, p stdlib.ShouldPingParams) bool {
	return p.IdleDuration > longIdle || hasInput(p.Conn.PgConn().Conn())
}
