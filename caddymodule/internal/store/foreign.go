package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user/sqldir"
)

// Foreign is a database with a team's own tables: it runs the team's queries, and
// creates, locks and migrates nothing. It implements [sqldir.Database].
type Foreign struct{ db *DB }

// NewForeign parses the address of a database server, postgres://… or mysql://…,
// and does no more.
func NewForeign(address string) (*Foreign, error) {
	if kind, _, _ := strings.Cut(address, ":"); dialects[kind] == nil || dialects[kind] == sqlite {
		return nil, errors.New("a table of your own is in PostgreSQL, MySQL or MariaDB: write postgres://user:password@host/database or mysql://user:password@host/database")
	}
	db, err := New(address, Options{})
	if err != nil {
		return nil, err
	}
	db.foreign = true
	return &Foreign{db}, nil
}

// MySQL reports whether the database reads SQL as MySQL does.
func (f *Foreign) MySQL() bool { return f.db.dialect == mysql }

// String names the database, without credentials.
func (f *Foreign) String() string { return f.db.url }

// Close closes the connections for good.
func (f *Foreign) Close() error { return f.db.Close() }

// Placeholder implements [sqldir.Database].
func (f *Foreign) Placeholder(n int) string {
	if f.MySQL() {
		return "?"
	}
	return "$" + strconv.Itoa(n)
}

// Do implements [sqldir.Database]. The connections are opened when they are first
// needed.
func (f *Foreign) Do(ctx context.Context, do func(sqldir.Tx) error) error {
	p := f.db.pools.Load()
	if p == nil {
		err := f.db.opened(ctx, false, func(_ context.Context, opened *pools) error {
			p = opened
			return nil
		})
		if err != nil {
			return f.told(ctx, err, nil)
		}
	}
	var said error
	var values []string
	err := f.db.transaction(ctx, p.write, once, func(t *tx) error {
		said = do(foreignTx{t, &values})
		return said
	})
	if err == nil || err == said && !errors.As(err, new(refused)) {
		return err
	}
	return f.told(ctx, err, values)
}

// refused marks an error of the driver's.
type refused struct{ error }

func (e refused) Unwrap() error { return e.error }

// foreignTx implements [sqldir.Tx]. It keeps the values that it was given, to keep
// them out of errors.
type foreignTx struct {
	t      *tx
	values *[]string
}

func (f foreignTx) Select(limit int, query string, args ...any) (columns []string, rows [][]any, err error) {
	types, rows, err := f.query(limit, query, args...)
	if err != nil {
		return nil, nil, err
	}
	columns = make([]string, len(types))
	for i, t := range types {
		columns[i] = t.Name()
	}
	if f.t.db.dialect == mysql {
		for _, row := range rows {
			for i := range row {
				if row[i], err = mysqlValue(types[i].DatabaseTypeName(), row[i]); err != nil {
					return nil, nil, fmt.Errorf("the column %q: %w", columns[i], err)
				}
			}
		}
		if err := moments(f.t, rows); err != nil {
			return nil, nil, refused{err}
		}
	}
	return columns, rows, nil
}

func (f foreignTx) Describe(query string, args ...any) ([]sqldir.Column, error) {
	if f.t.db.dialect == mysql {
		// Of NULL it makes bytes: CONCAT(NULL, NULL) would be VARBINARY. No user has
		// the number, or the id, -1.
		for i := range args {
			args[i] = "-1"
		}
	}
	types, _, err := f.query(0, query, args...)
	if err != nil {
		return nil, err
	}
	columns := make([]sqldir.Column, len(types))
	for i, t := range types {
		if f.t.db.dialect == mysql {
			columns[i] = mysqlColumn(t.Name(), t.DatabaseTypeName())
		} else if columns[i], err = postgresColumn(f.t, t.Name(), t.DatabaseTypeName()); err != nil {
			return nil, err
		}
	}
	return columns, nil
}

// query reads rows as the driver gives them.
func (f foreignTx) query(limit int, query string, args ...any) (types []*sql.ColumnType, rows [][]any, err error) {
	r, err := f.t.q.QueryContext(f.t.ctx, query, f.args(args)...)
	if err != nil {
		return nil, nil, refused{err}
	}
	defer r.Close()
	if types, err = r.ColumnTypes(); err != nil {
		return nil, nil, refused{err}
	}
	for len(rows) < limit && r.Next() {
		row, into := make([]any, len(types)), make([]any, len(types))
		for i := range row {
			into[i] = &row[i]
		}
		if err := r.Scan(into...); err != nil {
			return nil, nil, refused{err}
		}
		rows = append(rows, row)
	}
	if err := errors.Join(r.Close(), r.Err()); err != nil {
		return nil, nil, refused{err}
	}
	return types, rows, nil
}

func (f foreignTx) Exec(query string, args ...any) (int64, error) {
	r, err := f.t.q.ExecContext(f.t.ctx, query, f.args(args)...)
	if err != nil {
		return 0, refused{err}
	}
	n, err := r.RowsAffected()
	if err != nil {
		return 0, refused{err}
	}
	return n, nil
}

func (f foreignTx) Prepare(query string) error {
	s, err := f.t.q.(*sql.Tx).PrepareContext(f.t.ctx, query)
	if err != nil {
		return refused{err}
	}
	if err := s.Close(); err != nil {
		return refused{err}
	}
	return nil
}

// args are those of a query, as the driver takes them. PostgreSQL is asked for
// their types each time: a column's may have changed since, and behind a pooler
// nothing stays prepared.
func (f foreignTx) args(args []any) []any {
	for _, a := range args {
		if s, ok := a.(string); ok {
			*f.values = append(*f.values, s)
		}
	}
	if f.t.db.dialect == postgres {
		return append([]any{pgx.QueryExecModeDescribeExec}, args...)
	}
	return args
}

// longNumber is what could be a phone number.
var longNumber = regexp.MustCompile(`[0-9]{7,}`)

// told is an error of the driver's as it may be told: databases repeat the values
// that they refuse.
func (f *Foreign) told(ctx context.Context, err error, values []string) error {
	text := strings.TrimPrefix(f.db.redacted(err).Error(), "opening the store: "+f.db.url+": ")
	text = strings.ReplaceAll(text, ErrUnavailable.Error()+": ", "")
	for _, v := range values {
		if len(v) > 2 {
			text = strings.ReplaceAll(text, v, "*****")
		}
	}
	text = longNumber.ReplaceAllString(text, "*****")
	return foreignError{fmt.Sprintf("%s: %s", f.db.url, text), f.kind(ctx, err)}
}

// kind is the error that says what sort err is of; nil if it is the operator's.
func (f *Foreign) kind(ctx context.Context, err error) error {
	var p permanent
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Canceled
	case f.db.dialect.duplicate(err):
		return sqldir.ErrDuplicate
	case badValue(err):
		return sqldir.ErrValue
	case errors.As(err, &p):
		return nil
	case ctx.Err() != nil, errors.Is(err, ErrUnavailable), f.db.dialect.temporary(err):
		return sqldir.ErrUnavailable
	}
	return nil
}

// badValue reports whether a value cannot be of a column's type.
func badValue(err error) bool {
	switch postgresCode(err) {
	case "22P02", "22003", "22007", "22008": // no such text, out of range, no date
		return true
	}
	switch mysqlNumber(err) {
	case 1292, 1366, 1264:
		return true
	}
	return false
}

// foreignError is a driver's error: its text, and its kind.
type foreignError struct {
	text string
	kind error
}

func (e foreignError) Error() string { return e.text }
func (e foreignError) Unwrap() error { return e.kind }

// Interface guards
var (
	_ sqldir.Database = (*Foreign)(nil)
	_ sqldir.Tx       = foreignTx{}
)
