package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user/sqldir"
)

// ExternalTables is a database with the operator's own tables of users. It runs the queries in the
// configuration, and creates, locks and migrates nothing. It implements [sqldir.Database].
type ExternalTables struct{ db *DB }

// NewExternalTables parses the address of a database server, postgres://… or mysql://…. It does no
// I/O.
func NewExternalTables(address string) (*ExternalTables, error) {
	if d := dialectOf(address); d == nil || d.external == nil {
		return nil, errors.New("your own table of users must be in PostgreSQL, MySQL or MariaDB: write postgres://user:password@host/database or mysql://user:password@host/database")
	}
	db, err := New(address, Options{})
	if err != nil {
		return nil, err
	}
	db.external = true
	return &ExternalTables{db}, nil
}

// MySQL reports whether the database parses SQL as MySQL does.
func (f *ExternalTables) MySQL() bool { return f.db.dialect.external.mysql }

// String names the database, without credentials.
func (f *ExternalTables) String() string { return f.db.url }

// Close closes the connections for good.
func (f *ExternalTables) Close() error { return f.db.Close() }

// Placeholder implements [sqldir.Database].
func (f *ExternalTables) Placeholder(n int) string { return f.db.dialect.external.placeholder(n) }

// Do implements [sqldir.Database]. Its first call opens the connections.
func (f *ExternalTables) Do(ctx context.Context, do func(sqldir.Tx) error) error {
	p := f.db.pools.Load()
	if p == nil {
		err := f.db.opened(ctx, false, func(_ context.Context, opened *pools) error {
			p = opened
			return nil
		})
		if err != nil {
			return f.redacted(ctx, err, nil)
		}
	}
	var failed error // the error of do
	var values []string
	err := f.db.transaction(ctx, p.write, once, func(t *tx) error {
		failed = do(externalTx{t, &values})
		return failed
	})
	if err == nil || err == failed && !errors.As(err, new(refused)) {
		return err
	}
	return f.redacted(ctx, err, values)
}

// externalDialect describes how one kind of database reads external tables.
type externalDialect struct {
	// mysql is set if queries are parsed as MySQL parses them, see [sqldir.ParseQueries].
	mysql bool
	// placeholder returns the n-th parameter of a query, counted from 1.
	placeholder func(n int) string
	// before is an argument for the driver itself, which goes before a query's arguments. It may be
	// nil.
	before any
	// sample is the value of every parameter while a query is only described. nil means NULL.
	sample any
	// column describes a column, given the driver's name of its type.
	column func(t *tx, name, kind string) (sqldir.Column, error)
	// values converts the values of rows to the Go types that sqldir expects.
	values func(t *tx, columns []*sql.ColumnType, rows [][]any) error
	// badValue reports whether the error means that a column's type cannot hold a value.
	badValue func(error) bool
}

// refused marks a driver's error.
type refused struct{ error }

func (e refused) Unwrap() error { return e.error }

// externalTx implements [sqldir.Tx]. It collects the values of the queries, so that they can be
// removed from errors.
type externalTx struct {
	t      *tx
	values *[]string
}

func (f externalTx) Select(limit int, query string, args ...any) (columns []string, rows [][]any, err error) {
	types, rows, err := f.query(limit, query, args...)
	if err != nil {
		return nil, nil, err
	}
	columns = make([]string, len(types))
	for i, t := range types {
		columns[i] = t.Name()
	}
	if err := f.dialect().values(f.t, types, rows); err != nil {
		return nil, nil, err
	}
	return columns, rows, nil
}

func (f externalTx) Describe(query string, args ...any) ([]sqldir.Column, error) {
	if sample := f.dialect().sample; sample != nil {
		for i := range args {
			args[i] = sample
		}
	}
	types, _, err := f.query(0, query, args...)
	if err != nil {
		return nil, err
	}
	columns := make([]sqldir.Column, len(types))
	for i, t := range types {
		if columns[i], err = f.dialect().column(f.t, t.Name(), t.DatabaseTypeName()); err != nil {
			return nil, err
		}
	}
	return columns, nil
}

// query returns rows as the driver returns them.
func (f externalTx) query(limit int, query string, args ...any) (types []*sql.ColumnType, rows [][]any, err error) {
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

func (f externalTx) Exec(query string, args ...any) (int64, error) {
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

func (f externalTx) Prepare(query string) error {
	s, err := f.t.q.(*sql.Tx).PrepareContext(f.t.ctx, query)
	if err != nil {
		return refused{err}
	}
	if err := s.Close(); err != nil {
		return refused{err}
	}
	return nil
}

// args returns a query's arguments for the driver, and collects their values.
func (f externalTx) args(args []any) []any {
	for _, a := range args {
		if s, ok := a.(string); ok {
			*f.values = append(*f.values, s)
		}
	}
	if before := f.dialect().before; before != nil {
		return append([]any{before}, args...)
	}
	return args
}

func (f externalTx) dialect() *externalDialect { return f.t.db.dialect.external }

// longNumber matches digits that could be a phone number.
var longNumber = regexp.MustCompile(`[0-9]{7,}`)

// redacted returns a driver's error without the query's values. Databases repeat values that they
// refuse.
func (f *ExternalTables) redacted(ctx context.Context, err error, values []string) error {
	text := strings.TrimPrefix(f.db.redacted(err).Error(), "opening the store: "+f.db.url+": ")
	text = strings.ReplaceAll(text, ErrUnavailable.Error()+": ", "")
	for _, v := range values {
		if len(v) > 2 {
			text = strings.ReplaceAll(text, v, "*****")
		}
	}
	text = longNumber.ReplaceAllString(text, "*****")
	return externalError{fmt.Sprintf("%s: %s", f.db.url, text), f.kind(ctx, err)}
}

// kind returns the error of sqldir or context that classifies err. It returns nil if only the
// operator can fix the cause.
func (f *ExternalTables) kind(ctx context.Context, err error) error {
	var p permanent
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Canceled
	case f.db.dialect.duplicate(err):
		return sqldir.ErrDuplicate
	case f.db.dialect.external.badValue(err):
		return sqldir.ErrValue
	case errors.As(err, &p):
		return nil
	case ctx.Err() != nil, errors.Is(err, ErrUnavailable), f.db.dialect.temporary(err):
		return sqldir.ErrUnavailable
	}
	return nil
}

// externalError is a driver's error with its redacted text and its kind.
type externalError struct {
	text string
	kind error
}

func (e externalError) Error() string { return e.text }
func (e externalError) Unwrap() error { return e.kind }

// Interface guards
var (
	_ sqldir.Database = (*ExternalTables)(nil)
	_ sqldir.Tx       = externalTx{}
)
