package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"time"
)

// What a database costs over a network is turnarounds: the client asks, and waits for the
// answer. So a transaction sends as many statements at once as it can say at once, and
// its BEGIN and COMMIT go along with them:
//
//	read    each question is a turnaround: BEGIN, the question, COMMIT
//	change  the first send carries the BEGIN, the last one the COMMIT
//
// PostgreSQL takes them pipelined, MySQL as one text of several statements. SQLite has
// nothing to wait for, and gets them one by one.

// row is a row of an answer.
type row interface{ Scan(into ...any) error }

// statement is one of those that are sent together.
type statement struct {
	query string
	args  []any
	scan  func(row) error // called for each row; nil: there are no rows to read
}

// say is a statement without an answer, ask one with rows.
func say(query string, args ...any) statement { return statement{query: query, args: args} }

func ask(scan func(row) error, query string, args ...any) statement {
	return statement{query: query, args: args, scan: scan}
}

const commitWork = "COMMIT"

// send runs the statements in their order, in as few turnarounds as the database can. With
// last, the transaction is committed behind them.
func (t *tx) send(last bool, statements ...statement) error {
	if t.conn == nil {
		for _, st := range statements {
			if err := t.one(st); err != nil {
				return err
			}
		}
		return nil
	}
	var all []statement
	if !t.begun {
		all = t.opening()
	}
	all = append(all, statements...)
	if last {
		all = append(all, say(commitWork))
		all = append(all, t.behind...)
	}
	t.begun, t.committing = true, last
	err := t.db.dialect.send(t.ctx, t.db, t.conn, all)
	t.done = last && err == nil
	return err
}

// opening is what a transaction begins with.
func (t *tx) opening() []statement {
	if t.how == light && t.db.dialect.light != "" {
		return []statement{say(t.db.dialect.begin), say(t.db.dialect.light)}
	}
	return []statement{say(t.db.dialect.begin)}
}

// one runs a statement by itself.
func (t *tx) one(st statement) error {
	if st.scan == nil {
		_, err := t.exec(st.query, st.args...)
		return err
	}
	rows, err := t.q.QueryContext(t.ctx, t.db.sql(st.query), st.args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := st.scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// begin begins the transaction, if nothing was sent yet. A read that sets something for
// its questions first is one transaction.
func (t *tx) begin() error {
	if t.conn == nil || t.begun {
		return nil
	}
	t.reads = false
	return t.send(false)
}

// changing runs change in a transaction on a connection of its own.
func (db *DB) changing(ctx context.Context, pool *sql.DB, how durability, change func(*tx) error) error {
	conn, err := pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	t := &tx{ctx: ctx, db: db, q: conn, conn: conn, how: how}
	defer func() {
		if t.begun && !t.done { // also after a panic
			undo(ctx, conn)
		}
	}()
	err = change(t)
	if err == nil && t.begun && !t.done {
		err = t.send(true)
	}
	if err != nil && t.committing && db.dialect.lost(err) && !errors.Is(err, driver.ErrBadConn) {
		// Also when the driver says that it is safe to try again ("conn closed"):
		// restarts under load showed commits that were done among these.
		err = unknown{err}
	}
	return err
}

// undo ends a transaction that is not to be committed, or else the connection.
func undo(ctx context.Context, conn *sql.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, err := conn.ExecContext(ctx, "ROLLBACK"); err != nil {
		_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // closes it
	}
}

// reading runs questions, each as a transaction of its own: proxies that split reads from
// writes send transactions to the primary, and what is read here must not lag behind.
func (db *DB) reading(ctx context.Context, pool *sql.DB, lags bool, read func(*tx) error) error {
	conn, err := pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	t := &tx{ctx: ctx, db: db, q: conn, conn: conn, reads: true, lags: lags}
	if err = read(t); t.begun || t.failed {
		undo(ctx, conn) // nothing was written
	}
	return err
}

// questions runs statements that only read, in one turnaround.
func (t *tx) questions(statements ...statement) error {
	if t.conn == nil || !t.reads {
		return t.send(false, statements...)
	}
	if !t.lags {
		statements = t.db.transacted(statements)
	}
	err := t.db.dialect.send(t.ctx, t.db, t.conn, statements)
	t.failed = err != nil
	return err
}

// transacted makes a transaction of questions.
func (db *DB) transacted(questions []statement) []statement {
	return append(append([]statement{say(db.dialect.begin)}, questions...), say(commitWork))
}

// theRow is a question for one row, which is asked when it is scanned.
type theRow struct {
	t     *tx
	query string
	args  []any
}

func (r theRow) Scan(into ...any) error {
	found := false
	err := r.t.questions(ask(func(row row) error {
		if found {
			return nil
		}
		found = true
		return row.Scan(into...)
	}, r.query, r.args...))
	if err == nil && !found {
		err = sql.ErrNoRows
	}
	return err
}
