package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"time"
)

// Over a network, the cost of a transaction is its turnarounds: the client sends statements, then
// waits for the answer. So a transaction sends as many statements as possible at once, and sends
// BEGIN and COMMIT along with them:
//
//	read    each question is a turnaround: BEGIN, the question, COMMIT
//	change  the first send carries the BEGIN, the last one the COMMIT
//
// PostgreSQL receives the statements in a pipeline, MySQL in one text. With SQLite there is no
// network to wait for, so it receives them one by one.

// Row is one row of a result.
type Row interface{ Scan(into ...any) error }

// Statement is an SQL statement with its parameters. Several are sent together.
type Statement struct {
	query string
	args  []any
	scan  func(Row) error // called for each row; nil for statements that return no rows
	locks []byte          // the key of the row that it locks, see together.go
	rows  string          // see OnRow
	last  bool            // see Last
}

// Say makes a statement that returns no rows.
func Say(query string, args ...any) Statement { return Statement{query: query, args: args} }

// Ask makes a query. It calls scan for each row.
func Ask(scan func(Row) error, query string, args ...any) Statement {
	return Statement{query: query, args: args, scan: scan}
}

const commitWork = "COMMIT"

// Send runs the statements in their order, in as few turnarounds as the database allows. If last is
// set, it commits the transaction after them.
func (t *Tx) Send(last bool, statements ...Statement) error {
	if t.conn == nil {
		for _, st := range statements {
			if err := t.One(st); err != nil {
				return err
			}
		}
		return nil
	}
	var all []Statement
	if !t.begun {
		all = t.opening()
	}
	all = append(all, statements...)
	if last {
		all = append(all, Say(commitWork))
		if t.impatient() {
			all = append(all, Say(t.db.Dialect.patient))
		}
		all = append(all, t.behind...)
	}
	t.begun, t.committing = true, last
	err := t.db.Dialect.send(t.ctx, t.db, t.conn, all)
	t.done = last && err == nil
	return err
}

// opening returns the statements that begin a transaction.
func (t *Tx) opening() []Statement {
	list := []Statement{Say(t.db.Dialect.begin)}
	if t.how == Light && t.db.Dialect.light != "" {
		list = append(list, Say(t.db.Dialect.light))
	}
	if t.impatient() {
		list = append(list, Say(t.db.Dialect.impatient))
	}
	if t.guarded {
		for _, query := range t.db.opts.Guard.Statements {
			list = append(list, Ask(func(Row) error { return nil }, query))
		}
	}
	return list
}

func (t *Tx) impatient() bool { return t.shared && t.db.Dialect.impatient != "" }

// One runs a statement on its own.
func (t *Tx) One(st Statement) error {
	if st.scan == nil {
		_, err := t.Exec(st.query, st.args...)
		return err
	}
	rows, err := t.q.QueryContext(t.ctx, t.db.SQL(st.query), st.args...)
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

// begin begins the transaction, unless a statement was sent already. A read that changes a setting
// for its queries becomes one transaction with them.
func (t *Tx) begin() error {
	if t.conn == nil || t.begun {
		return nil
	}
	t.reads = false
	return t.Send(false)
}

// changing runs change in a transaction on its own connection.
func (db *DB) changing(ctx context.Context, pool *sql.DB, how Durability, change func(*Tx) error) error {
	conn, err := pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	t := &Tx{ctx: ctx, db: db, q: conn, conn: conn, how: how, guarded: Guarded(ctx)}
	defer func() {
		if t.begun && !t.done { // a panic gets here, too
			undo(ctx, conn)
			if t.impatient() {
				discard(conn)
			}
		}
	}()
	err = change(t)
	if err == nil && t.begun && !t.done {
		err = t.Send(true)
	}
	if err != nil && t.committing && db.Dialect.lost(err) && !errors.Is(err, driver.ErrBadConn) {
		// The outcome is unknown even if the driver says that a retry is safe ("conn closed"). When
		// servers were restarted under load, some commits with that error had succeeded.
		err = unknown{err}
	}
	return err
}

// undo rolls a transaction back. If that fails, it closes the connection.
func undo(ctx context.Context, conn *sql.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, err := conn.ExecContext(ctx, "ROLLBACK"); err != nil {
		discard(conn)
	}
}

// discard closes a connection, so that it is not used again.
func discard(conn *sql.Conn) { _ = conn.Raw(func(any) error { return driver.ErrBadConn }) }

// reading runs queries, each in its own transaction. Proxies that split reads from writes send
// transactions to the primary, so the results do not come from a database replica that lags.
func (db *DB) reading(ctx context.Context, pool *sql.DB, lags bool, read func(*Tx) error) error {
	conn, err := pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	t := &Tx{ctx: ctx, db: db, q: conn, conn: conn, reads: true, lags: lags}
	if err = read(t); t.begun || t.failed {
		undo(ctx, conn) // nothing was written
	}
	return err
}

// Questions runs queries in one turnaround.
func (t *Tx) Questions(statements ...Statement) error {
	if t.conn == nil || !t.reads {
		return t.Send(false, statements...)
	}
	if !t.lags {
		statements = t.db.transacted(statements)
	}
	err := t.db.Dialect.send(t.ctx, t.db, t.conn, statements)
	t.failed = err != nil
	return err
}

// transacted wraps queries in a transaction.
func (db *DB) transacted(questions []Statement) []Statement {
	return append(append([]Statement{Say(db.Dialect.begin)}, questions...), Say(commitWork))
}

// theRow is a query for one row. It is sent when the row is scanned.
type theRow struct {
	t     *Tx
	query string
	args  []any
}

func (r theRow) Scan(into ...any) error {
	found := false
	err := r.t.Questions(Ask(func(row Row) error {
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
