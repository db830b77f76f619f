// Package sqldir is a directory of users in the operator's own table. It uses the queries that the
// operator has configured. It knows no driver, and nothing of Caddy, of tokens or of WeChat's API.
package sqldir

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Timeout bounds one transaction, with all its queries.
const Timeout = 3 * time.Second

var (
	// ErrUnavailable means that the Database cannot be reached at the moment.
	ErrUnavailable = errors.New("the users' database does not answer")
	// ErrDuplicate means that a unique index of the Database refused a row.
	ErrDuplicate = errors.New("the row already exists")
	// ErrValue means that a value does not have the type of its column: letters in place of a
	// number, for example.
	ErrValue = errors.New("the value is not of the column's type")
)

// Database holds the table. Only the operator can fix the cause of an error that is not one of
// those above. No error contains a value of a query's parameters.
type Database interface {
	// Do runs do in one transaction at READ COMMITTED, and rolls it back if do returns
	// an error. It may run do again from its start.
	Do(ctx context.Context, do func(Tx) error) error
	// Placeholder returns the database's placeholder for parameter n, counted from 1.
	Placeholder(n int) string
}

// Tx runs queries within a transaction.
type Tx interface {
	// Select reads the first rows, at most limit of them. A value is nil, bool, int64,
	// uint64, float32, float64, json.Number, string, time.Time, the content of a JSON
	// column, or [Unfit].
	Select(limit int, query string, args ...any) (columns []string, rows [][]any, err error)
	// Describe returns the columns of a query without reading a row.
	Describe(query string, args ...any) ([]Column, error)
	// Exec runs a statement and returns how many rows it matched or inserted.
	Exec(query string, args ...any) (int64, error)
	// Prepare checks a query in the database without running it.
	Prepare(query string) error
}

// Directory reads users from the table. It implements [user.Directory].
//
// The column id identifies the user. The column disabled, if it exists and is true,
// keeps the user out. A column claims.<name> becomes a claim, and every other column
// goes into userInfo.
type Directory struct {
	DB      Database
	Queries Queries

	unseen atomic.Bool // Open was called, but has not succeeded yet
}

// Login finds the user who logs in, or creates them. A silent login is a login of the user to whom
// the caller is bound. If the caller is bound to no user, Login runs Find only if Find uses :openid
// or :unionid. The parameters of the phone number are NULL then.
func (d *Directory) Login(ctx context.Context, l user.Login) (user.User, error) {
	if l.Silent() && l.UserID != "" {
		return d.Check(ctx, l.UserID)
	}
	if err := d.opened(ctx); err != nil {
		return user.User{}, err
	}
	if l.Silent() && !d.Queries.Find.Uses("openid") && !d.Queries.Find.Uses("unionid") {
		return user.User{}, user.ErrUnknown
	}
	values := map[string]string{
		"phone": l.Phone.E164(), "country": l.Phone.Country, "national": l.Phone.National,
		"openid": l.OpenID, "unionid": l.UnionID, "appid": l.AppID, "id": l.UserID,
	}
	var u user.User
	find := func(tx Tx) (err error) {
		u, err = d.one(tx, "find", d.Queries.Find, values)
		return err
	}
	err := d.do(ctx, func(tx Tx) error {
		err := find(tx)
		if !errors.Is(err, user.ErrUnknown) || l.Silent() {
			return err
		}
		if d.Queries.Create.IsZero() {
			return user.ErrRegistrationClosed
		}
		query, args := d.Queries.Create.on(d.DB, values)
		made, err := tx.Exec(query, args...)
		if err != nil {
			return named("create", err)
		}
		if err = find(tx); errors.Is(err, user.ErrUnknown) {
			if made == 0 { // the query create has decided not to create a user
				return user.ErrRegistrationClosed
			}
			return misconfigured("find does not find the row that create has inserted, so the row was rolled back")
		}
		u.New = made > 0
		return err
	})
	if errors.Is(err, ErrDuplicate) {
		// Either a concurrent first login with this number was faster, or the row that the index
		// has found has another number.
		if err = d.do(ctx, find); errors.Is(err, user.ErrUnknown) {
			err = misconfigured("a unique index refuses the row that create inserts, but find does not find the existing row")
		}
	}
	if err != nil {
		return user.User{}, err
	}
	return u, nil
}

// Check reads the user's row.
func (d *Directory) Check(ctx context.Context, id string) (u user.User, err error) {
	if id == "" {
		return u, user.ErrUnknown
	}
	if err = d.opened(ctx); err != nil {
		return u, err
	}
	err = d.do(ctx, func(tx Tx) (err error) {
		u, err = d.one(tx, "check", d.Queries.Check, map[string]string{"id": id})
		return err
	})
	if errors.Is(err, ErrValue) || err == nil && u.ID != id {
		// The id comes from another directory that was used before. MySQL would find a row for it
		// all the same: it converts text to the number at its beginning, and treats "a" and "A" as
		// equal.
		err = user.ErrUnknown
	}
	if err != nil {
		return user.User{}, err
	}
	return u, nil
}

// Erase runs the erase query, if there is one.
func (d *Directory) Erase(ctx context.Context, id string) error {
	if d.Queries.Erase.IsZero() || id == "" {
		return nil
	}
	err := d.do(ctx, func(tx Tx) error {
		query, args := d.Queries.Erase.on(d.DB, map[string]string{"id": id})
		_, err := tx.Exec(query, args...)
		return named("erase", err)
	})
	if errors.Is(err, ErrValue) {
		return nil // no user can have such an id
	}
	return err
}

// errLooked rolls back the transaction of Open, in case a query has changed data.
var errLooked = errors.New("looked at")

// Open checks each query in the database without reading a row, so that a mistake is
// found before the first login. It changes nothing. If the database is down, the first
// login after it is back calls Open again.
func (d *Directory) Open(ctx context.Context) error {
	err := d.do(ctx, func(tx Tx) error {
		for _, q := range []struct {
			name  string
			query Query
		}{{"find", d.Queries.Find}, {"check", d.Queries.Check}} {
			query, args := q.query.on(d.DB, nil)
			columns, err := tx.Describe(query, args...)
			if err != nil {
				return named(q.name, err)
			}
			if err := fit(q.name, columns); err != nil {
				return err
			}
		}
		for _, q := range []struct {
			name  string
			query Query
		}{{"create", d.Queries.Create}, {"erase", d.Queries.Erase}, {"phone", d.Queries.Phone}} {
			if q.query.IsZero() {
				continue
			}
			query, _ := q.query.on(d.DB, nil)
			if err := tx.Prepare(query); err != nil {
				return named(q.name, err)
			}
		}
		return errLooked
	})
	if errors.Is(err, errLooked) {
		err = nil
	}
	d.unseen.Store(err != nil)
	return err
}

// opened calls Open if that has not succeeded yet, because the database was down. Otherwise the
// first login would use columns that the load of the configuration refuses.
func (d *Directory) opened(ctx context.Context) error {
	if !d.unseen.Load() {
		return nil
	}
	return d.Open(ctx)
}

// do runs a transaction within Timeout. It marks errors that no caller handles as ErrMisconfigured.
func (d *Directory) do(ctx context.Context, do func(Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	err := d.DB.Do(ctx, do)
	for _, known := range []error{
		nil, user.ErrUnknown, user.ErrRegistrationClosed, user.ErrMisconfigured,
		ErrUnavailable, ErrDuplicate, errLooked, context.Canceled,
	} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fmt.Errorf("the users' database: %w: %w", user.ErrMisconfigured, err)
}

// one reads the row of one user. More than one row is an error, because chance must not decide
// which user logs in.
func (d *Directory) one(tx Tx, name string, q Query, values map[string]string) (user.User, error) {
	query, args := q.on(d.DB, values)
	columns, rows, err := tx.Select(2, query, args...)
	switch {
	case err != nil:
		return user.User{}, named(name, err)
	case len(rows) == 0:
		return user.User{}, user.ErrUnknown
	case len(rows) > 1:
		return user.User{}, misconfigured("%s finds more than one row, but a number or an id must belong to one user", name)
	}
	l, err := layoutOf(name, columns)
	if err != nil {
		return user.User{}, err
	}
	return l.user(rows[0])
}

// named adds the name of the query to an error.
func named(query string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("query %s: %w", query, err)
}

func misconfigured(format string, args ...any) error {
	return fmt.Errorf("the users' table: "+format+": %w", append(args, user.ErrMisconfigured)...)
}

// Interface guard
var _ user.Directory = (*Directory)(nil)
