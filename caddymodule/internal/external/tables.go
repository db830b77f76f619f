// Package external runs the operator's queries on the operator's own tables of users, for package
// sqldir. It knows nothing about the store's tables.
package external

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user/sqldir"
)

// Tables is a database with the operator's own tables of users. It runs the queries in the
// configuration, and creates, locks and migrates nothing. It implements [sqldir.Database].
type Tables struct {
	db      *sqldb.DB
	dialect *dialect
}

// New parses the address of a database server, postgres://… or mysql://…. It does no I/O.
func New(address string) (*Tables, error) {
	d := dialects[sqldb.KindOf(address).Name]
	if d == nil {
		return nil, errors.New("your own table of users must be in PostgreSQL, MySQL or MariaDB: write postgres://user:password@host/database or mysql://user:password@host/database")
	}
	db, err := sqldb.New(address, sqldb.Options{Wrap: d.wrap})
	if err != nil {
		return nil, err
	}
	return &Tables{db, d}, nil
}

// MySQL reports whether the database parses SQL as MySQL does.
func (f *Tables) MySQL() bool { return f.dialect.mysql }

// String names the database, without credentials.
func (f *Tables) String() string { return f.db.String() }

// Close closes the connections for good.
func (f *Tables) Close() error { return f.db.Close() }

// Placeholder implements [sqldir.Database].
func (f *Tables) Placeholder(n int) string { return f.dialect.placeholder(n) }

// Do implements [sqldir.Database]. Its first call opens the connections.
func (f *Tables) Do(ctx context.Context, do func(sqldir.Tx) error) error {
	p := f.db.Pools()
	if p == nil {
		err := f.db.Open(ctx, false, func(_ context.Context, opened *sqldb.Pools) error {
			p = opened
			return nil
		})
		if err != nil {
			return f.redacted(ctx, err, nil)
		}
	}
	var failed error // the error of do
	var values []string
	err := f.db.Transaction(ctx, p.Write, sqldb.Once, func(t *sqldb.Tx) error {
		failed = do(tx{t, f.dialect, &values})
		return failed
	})
	if err == nil || err == failed && !errors.As(err, new(refused)) {
		return err
	}
	return f.redacted(ctx, err, values)
}

// dialect describes how one kind of database reads external tables.
type dialect struct {
	// wrap is [sqldb.Options].Wrap.
	wrap func(driver.Connector) driver.Connector
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
	column func(t *sqldb.Tx, name, kind string) (sqldir.Column, error)
	// values converts the values of rows to the Go types that sqldir expects.
	values func(t *sqldb.Tx, columns []*sql.ColumnType, rows [][]any) error
	// badValue reports whether the error means that a column's type cannot hold a value.
	badValue func(error) bool
}

// dialects holds the kinds of databases that may hold external tables.
var dialects = map[string]*dialect{"postgres": &postgres, "mysql": &mysql}

// refused marks a driver's error.
type refused struct{ error }

func (e refused) Unwrap() error { return e.error }

// tx implements [sqldir.Tx]. It collects the values of the queries, so that they can be
// removed from errors.
type tx struct {
	t       *sqldb.Tx
	dialect *dialect
	values  *[]string
}

func (f tx) Select(limit int, query string, args ...any) (columns []string, rows [][]any, err error) {
	types, rows, err := f.query(limit, query, args...)
	if err != nil {
		return nil, nil, err
	}
	columns = make([]string, len(types))
	for i, t := range types {
		columns[i] = t.Name()
	}
	if err := f.dialect.values(f.t, types, rows); err != nil {
		return nil, nil, err
	}
	return columns, rows, nil
}

func (f tx) Describe(query string, args ...any) ([]sqldir.Column, error) {
	if sample := f.dialect.sample; sample != nil {
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
		if columns[i], err = f.dialect.column(f.t, t.Name(), t.DatabaseTypeName()); err != nil {
			return nil, err
		}
	}
	return columns, nil
}

// query returns rows as the driver returns them.
func (f tx) query(limit int, query string, args ...any) (types []*sql.ColumnType, rows [][]any, err error) {
	r, err := f.t.Raw().QueryContext(f.t.Context(), query, f.args(args)...)
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

func (f tx) Exec(query string, args ...any) (int64, error) {
	r, err := f.t.Raw().ExecContext(f.t.Context(), query, f.args(args)...)
	if err != nil {
		return 0, refused{err}
	}
	n, err := r.RowsAffected()
	if err != nil {
		return 0, refused{err}
	}
	return n, nil
}

func (f tx) Prepare(query string) error {
	s, err := f.t.Raw().(*sql.Tx).PrepareContext(f.t.Context(), query)
	if err != nil {
		return refused{err}
	}
	if err := s.Close(); err != nil {
		return refused{err}
	}
	return nil
}

// args returns a query's arguments for the driver, and collects their values.
func (f tx) args(args []any) []any {
	for _, a := range args {
		if s, ok := a.(string); ok {
			*f.values = append(*f.values, s)
		}
	}
	if before := f.dialect.before; before != nil {
		return append([]any{before}, args...)
	}
	return args
}

// longNumber matches digits that could be a phone number.
var longNumber = regexp.MustCompile(`[0-9]{7,}`)

// redacted returns a driver's error without the query's values. Databases repeat values that they
// refuse.
func (f *Tables) redacted(ctx context.Context, err error, values []string) error {
	text := strings.TrimPrefix(f.db.Redacted(err).Error(), "opening the store: "+f.db.String()+": ")
	text = strings.ReplaceAll(text, sqldb.ErrUnavailable.Error()+": ", "")
	for _, v := range values {
		if len(v) > 2 {
			text = strings.ReplaceAll(text, v, "*****")
		}
	}
	text = longNumber.ReplaceAllString(text, "*****")
	return failure{fmt.Sprintf("%s: %s", f.db.String(), text), f.kind(ctx, err)}
}

// kind returns the error of sqldir or context that classifies err. It returns nil if only the
// operator can fix the cause.
func (f *Tables) kind(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Canceled
	case f.db.Dialect.Duplicate(err):
		return sqldir.ErrDuplicate
	case f.dialect.badValue(err):
		return sqldir.ErrValue
	case sqldb.IsPermanent(err):
		return nil
	case ctx.Err() != nil, errors.Is(err, sqldb.ErrUnavailable), f.db.Dialect.Temporary(err):
		return sqldir.ErrUnavailable
	}
	return nil
}

// failure is a driver's error with its redacted text and its kind.
type failure struct {
	text string
	kind error
}

func (e failure) Error() string { return e.text }
func (e failure) Unwrap() error { return e.kind }

// Interface guards
var (
	_ sqldir.Database = (*Tables)(nil)
	_ sqldir.Tx       = tx{}
)
