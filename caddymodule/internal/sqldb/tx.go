package sqldb

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

// Tx runs statements, in a transaction or without one. Its methods take SQL in the form that
// [Dialect] describes.
type Tx struct {
	ctx context.Context
	db  *DB
	q   Querier

	// What the guard has answered, and whether it was asked.
	shut    error
	checked bool

	// The other fields are for servers that accept several statements at once, see batch.go. With
	// other databases conn is nil.
	conn       *sql.Conn
	how        Durability
	reads      bool        // each query has its own transaction
	guarded    bool        // the transaction begins with the guard's statements
	shared     bool        // the writes are those of several callers
	lags       bool        // queries need no transaction, see ReadLate
	behind     []Statement // statements to send after the COMMIT
	begun      bool        // a statement was sent
	committing bool        // the last send contained the COMMIT
	done       bool        // the COMMIT was answered
	failed     bool        // the last query failed
}

// Querier runs the SQL of the database itself. *sql.DB, *sql.Conn and *sql.Tx are queriers.
type Querier interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

// Asking returns a Tx that runs each statement on its own.
func (db *DB) Asking(ctx context.Context, q Querier) *Tx { return &Tx{ctx: ctx, db: db, q: q} }

// DB returns the database.
func (t *Tx) DB() *DB { return t.db }

// Context returns the context of the statements.
func (t *Tx) Context() context.Context { return t.ctx }

// Raw returns what runs the statements, for SQL that is not in the form that [Dialect] describes.
// On a server, a transaction of a [Client] begins with the first statement of the Tx. What Raw runs
// before that is outside the transaction.
func (t *Tx) Raw() Querier { return t.q }

// Shared reports whether the transaction has writes of several callers.
func (t *Tx) Shared() bool { return t.shared }

// check asks SQLite's guard.
func (t *Tx) check() error {
	if !t.checked && t.db.opts.Guard.Check != nil {
		t.checked, t.shut = true, t.db.opts.Guard.Check(t)
	}
	return t.shut
}

// PreferIndex makes the rest of the transaction look rows up by their indexes, see
// [Dialect].ByIndex.
func (t *Tx) PreferIndex() error {
	if t.db.Dialect.ByIndex == "" {
		return nil
	}
	return t.One(Say(t.db.Dialect.ByIndex))
}

const insertOrIgnore = "INSERT OR IGNORE "

// Exec runs a statement and returns the number of rows that it found.
func (t *Tx) Exec(query string, args ...any) (int64, error) {
	if err := t.begin(); err != nil {
		return 0, err
	}
	r, err := t.q.ExecContext(t.ctx, t.db.SQL(query), args...)
	if err != nil {
		if strings.HasPrefix(query, insertOrIgnore) && t.db.Dialect.Duplicate(err) {
			return 0, nil // this dialect has no INSERT OR IGNORE, see mysql.go
		}
		return 0, err
	}
	return r.RowsAffected()
}

// Run runs a statement that returns no rows, like Exec.
func (t *Tx) Run(st Statement) (int64, error) { return t.Exec(st.query, st.args...) }

// Row returns a query for one row. If there is none, Scan returns sql.ErrNoRows.
func (t *Tx) Row(query string, args ...any) Row { return theRow{t, query, args} }

// Each calls scan for every row.
func (t *Tx) Each(scan func(Row) error, query string, args ...any) error {
	return t.Questions(Ask(scan, query, args...))
}

// Strings returns the values of a text column.
func (t *Tx) Strings(query string, args ...any) ([]string, error) {
	var out []string
	err := t.Each(func(r Row) error {
		var s string
		if err := r.Scan(&s); err != nil {
			return err
		}
		out = append(out, s)
		return nil
	}, query, args...)
	return out, err
}

// Repeat states whether a transaction may be run again (Again) or not (Once) when it is unknown
// whether it was committed.
type Repeat bool

const (
	Once  Repeat = false
	Again Repeat = true
)

// transactionTries bounds how often a transaction is run, if another one was in its way or the
// connection was lost.
const transactionTries = 4

// Transaction runs change in a transaction of the pool, and sends each statement by itself. It has
// no guard and no time limit, and returns errors as they are.
func (db *DB) Transaction(ctx context.Context, pool *sql.DB, may Repeat, change func(*Tx) error) error {
	return db.tries(ctx, pool, may, func() error { return db.transactionOnce(ctx, pool, change) })
}

// tries runs a transaction again while another one was in its way or the connection was lost.
func (db *DB) tries(ctx context.Context, pool *sql.DB, may Repeat, run func() error) (err error) {
	for try := range transactionTries {
		if try > 0 && !db.Dialect.OneWriter && !pause(ctx, try) {
			return err
		}
		err = run()
		if err == nil || ctx.Err() != nil {
			return err
		}
		var u unknown
		switch {
		case errors.As(err, &u):
			if may != Again {
				return fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
		case db.Dialect.conflict(err), db.Dialect.lost(err):
			// The transaction was undone as a whole.
		default:
			return err
		}
		if db.Dialect.lost(err) {
			// If the server was restarted, or is no longer the primary, its idle connections are
			// useless, too.
			dropIdle(pool)
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func (db *DB) transactionOnce(ctx context.Context, pool *sql.DB, change func(*Tx) error) error {
	t, err := pool.BeginTx(ctx, db.Dialect.options)
	if err != nil {
		return err
	}
	defer t.Rollback()
	if err := change(&Tx{ctx: ctx, db: db, q: t}); err != nil {
		return err
	}
	err = t.Commit()
	if err != nil && db.Dialect.lost(err) {
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
