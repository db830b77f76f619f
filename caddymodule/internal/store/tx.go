package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
)

// tx runs statements, in a transaction or without one. Its methods take SQL in the form that
// [dialect] describes.
type tx struct {
	ctx context.Context
	db  *DB
	q   interface {
		ExecContext(context.Context, string, ...any) (sql.Result, error)
		QueryContext(context.Context, string, ...any) (*sql.Rows, error)
		QueryRowContext(context.Context, string, ...any) *sql.Row
	}

	// Whether the store is closed, and whether that was asked, see checkOpen.
	closed  error
	checked bool

	// The other fields are for servers that accept several statements at once, see batch.go. With
	// other databases conn is nil.
	conn       *sql.Conn
	how        durability
	reads      bool        // each query has its own transaction
	guarded    bool        // the transaction first checks that the store is not closed
	shared     bool        // the writes are those of several callers
	lags       bool        // queries need no transaction, see readLate
	behind     []statement // statements to send after the COMMIT
	begun      bool        // a statement was sent
	committing bool        // the last send contained the COMMIT
	done       bool        // the COMMIT was answered
	failed     bool        // the last query failed
}

const insertOrIgnore = "INSERT OR IGNORE "

// exec runs a statement and returns the number of rows that it found.
func (t *tx) exec(query string, args ...any) (int64, error) {
	if err := t.begin(); err != nil {
		return 0, err
	}
	r, err := t.q.ExecContext(t.ctx, t.db.sql(query), args...)
	if err != nil {
		if strings.HasPrefix(query, insertOrIgnore) && t.db.dialect.duplicate(err) {
			return 0, nil // this dialect has no INSERT OR IGNORE, see mysql.go
		}
		return 0, err
	}
	return r.RowsAffected()
}

// row returns a query for one row. If there is none, Scan returns sql.ErrNoRows.
func (t *tx) row(query string, args ...any) row { return theRow{t, query, args} }

// each calls scan for every row.
func (t *tx) each(scan func(row) error, query string, args ...any) error {
	return t.questions(ask(scan, query, args...))
}

// strings returns the values of a text column.
func (t *tx) strings(query string, args ...any) ([]string, error) {
	var out []string
	err := t.each(func(r row) error {
		var s string
		if err := r.Scan(&s); err != nil {
			return err
		}
		out = append(out, s)
		return nil
	}, query, args...)
	return out, err
}

// read runs ask, which only reads. Errors contain doing, such as "reading a session". ask may be
// run again from its start.
func (s *Store) read(ctx context.Context, doing string, ask func(*tx) error) error {
	return s.reading(ctx, doing, false, ask)
}

// readLate is like read, for queries whose results may lag behind. They run without a transaction,
// so a proxy may send them to a database replica.
func (s *Store) readLate(ctx context.Context, doing string, ask func(*tx) error) error {
	return s.reading(ctx, doing, true, ask)
}

func (s *Store) reading(ctx context.Context, doing string, lags bool, ask func(*tx) error) (err error) {
	ctx, end := s.db.begin(ctx, doing)
	defer func() { end(false, err) }()
	p, err := s.use(ctx)
	if err != nil {
		return err
	}
	if p.queue != nil {
		err = ask(&tx{ctx: ctx, db: s.db, q: p.read})
	} else {
		err = s.db.tries(ctx, p.read, again, func() error { return s.db.reading(ctx, p.read, lags, ask) })
	}
	return s.db.wrap(ctx, doing+" in", err)
}

// write runs change in one durable transaction, which happens completely or not at all. If another
// transaction was in its way, change is run again from its start. It may run on another goroutine
// than the caller's. If the connection breaks during the commit, the outcome is unknown, and the
// error is [ErrUnavailable].
func (s *Store) write(ctx context.Context, doing string, change func(*tx) error) error {
	return s.change(ctx, doing, once, durable, change)
}

// rewrite is like write, for changes that have the same result if they are made twice. If the
// commit was not answered, the change is made again.
func (s *Store) rewrite(ctx context.Context, doing string, change func(*tx) error) error {
	return s.change(ctx, doing, again, durable, change)
}

// durability states whether a write survives a power cut by itself, or only after a later durable
// write. All writes survive the end of this process.
type durability bool

const (
	durable durability = false
	light   durability = true
)

func (s *Store) change(ctx context.Context, doing string, may repeat, how durability, change func(*tx) error) error {
	return s.making(ctx, doing, s.db.proves(ctx), func(ctx context.Context, p *pools) error {
		if p.queue != nil {
			return p.queue.write(ctx, s.db, &pendingWrite{change: change, guarded: guarded(ctx), how: how})
		}
		return s.db.tries(ctx, p.write, may, func() error { return s.db.changing(ctx, p.write, how, change) })
	})
}

// making makes a write, and describes its error. proves states whether its success proves that the
// store can be written.
func (s *Store) making(ctx context.Context, doing string, proves bool, write func(context.Context, *pools) error) (err error) {
	ctx, end := s.db.begin(ctx, doing)
	defer func() { end(proves, err) }()
	p, err := s.use(ctx)
	if err != nil {
		return err
	}
	return s.db.wrap(ctx, doing+" in", s.explainMoved(ctx, write(ctx, p)))
}

// repeat states whether a transaction may be run again when it is unknown whether it was committed.
type repeat bool

const (
	once  repeat = false
	again repeat = true
)

// transactionTries bounds how often a transaction is run, if another one was in its way or the
// connection was lost.
const transactionTries = 4

// transaction runs change in its own transaction.
func (db *DB) transaction(ctx context.Context, pool *sql.DB, may repeat, change func(*tx) error) error {
	return db.tries(ctx, pool, may, func() error { return db.transactionOnce(ctx, pool, change) })
}

// tries runs a transaction again while another one was in its way or the connection was lost.
func (db *DB) tries(ctx context.Context, pool *sql.DB, may repeat, run func() error) (err error) {
	for try := range transactionTries {
		if try > 0 && !db.dialect.oneWriter && !pause(ctx, try) {
			return err
		}
		err = run()
		if err == nil || ctx.Err() != nil {
			return err
		}
		var u unknown
		switch {
		case errors.As(err, &u):
			if may != again {
				return fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
		case db.dialect.conflict(err), db.dialect.lost(err):
			// The transaction was undone as a whole.
		default:
			return err
		}
		if db.dialect.lost(err) {
			// If the server was restarted, or is no longer the primary, its idle connections are
			// useless, too.
			dropIdle(pool)
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func (db *DB) transactionOnce(ctx context.Context, pool *sql.DB, change func(*tx) error) error {
	t, err := pool.BeginTx(ctx, db.dialect.options)
	if err != nil {
		return err
	}
	defer t.Rollback()
	if err := change(&tx{ctx: ctx, db: db, q: t}); err != nil {
		return err
	}
	err = t.Commit()
	if err != nil && db.dialect.lost(err) {
		// The outcome is unknown even if the driver says that a retry is safe ("conn closed"). When
		// servers were restarted under load, some commits with that error had succeeded.
		return unknown{err}
	}
	return err
}

// pause waits before a further try. The wait is longer for each try, and random, so that two
// transactions do not meet again. It returns false if ctx ended first.
func pause(ctx context.Context, try int) bool {
	longest := 5 * time.Millisecond << (2 * try) // 20, 80, 320 ms
	return clock.Sleep(ctx, longest/4+rand.N(longest*3/4))
}

// dropIdle closes the connections that are not in use.
func dropIdle(pool *sql.DB) {
	pool.SetMaxIdleConns(-1)
	pool.SetMaxIdleConns(maxConnections)
}
