package store

import (
	"context"
	"database/sql"
	"fmt"
)

// tx asks the database, within a transaction or without. Its methods take SQL
// as [dialect] describes it.
type tx struct {
	ctx context.Context
	db  *DB
	q   interface {
		ExecContext(context.Context, string, ...any) (sql.Result, error)
		QueryContext(context.Context, string, ...any) (*sql.Rows, error)
		QueryRowContext(context.Context, string, ...any) *sql.Row
	}
}

// exec runs a statement and tells how many rows it found.
func (t *tx) exec(query string, args ...any) (int64, error) {
	r, err := t.q.ExecContext(t.ctx, t.db.sql(query), args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// row asks for one row. No row is sql.ErrNoRows at Scan.
func (t *tx) row(query string, args ...any) *sql.Row {
	return t.q.QueryRowContext(t.ctx, t.db.sql(query), args...)
}

// each calls scan for every row.
func (t *tx) each(scan func(*sql.Rows) error, query string, args ...any) error {
	rows, err := t.q.QueryContext(t.ctx, t.db.sql(query), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// strings collects a column of text.
func (t *tx) strings(query string, args ...any) ([]string, error) {
	var out []string
	err := t.each(func(r *sql.Rows) error {
		var s string
		if err := r.Scan(&s); err != nil {
			return err
		}
		out = append(out, s)
		return nil
	}, query, args...)
	return out, err
}

// read asks without a transaction. doing is for the error: "reading a session".
func (s *Store) read(ctx context.Context, doing string, ask func(*tx) error) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	p, err := s.use(ctx)
	if err != nil {
		return err
	}
	return s.db.wrap(ctx, doing+" in", ask(&tx{ctx: ctx, db: s.db, q: p.read}))
}

// write runs change in one transaction: all of it happens, or nothing. change
// may be run again from its start when another transaction got in its way, and
// on another goroutine than the caller's.
func (s *Store) write(ctx context.Context, doing string, change func(*tx) error) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	p, err := s.use(ctx)
	if err != nil {
		return err
	}
	if p.queue != nil {
		err = p.queue.write(ctx, s.db, change)
	} else {
		err = s.db.transaction(ctx, p.write, change)
	}
	return s.db.wrap(ctx, doing+" in", err)
}

// transactionTries bounds how often a transaction that lost against another
// one is run.
const transactionTries = 4

// transaction runs change in a transaction of its own.
func (db *DB) transaction(ctx context.Context, pool *sql.DB, change func(*tx) error) (err error) {
	for range transactionTries {
		if err = db.transactionOnce(ctx, pool, change); err == nil || ctx.Err() != nil || !db.dialect.conflict(err) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func (db *DB) transactionOnce(ctx context.Context, pool *sql.DB, change func(*tx) error) error {
	t, err := pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer t.Rollback()
	if err := change(&tx{ctx: ctx, db: db, q: t}); err != nil {
		return err
	}
	return t.Commit()
}
