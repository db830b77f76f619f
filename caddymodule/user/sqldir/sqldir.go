// Package sqldir is a directory of users in a team's own table, which is asked by
// the team's own queries. It knows no driver, and nothing of Caddy, of tokens or
// of WeChat's API.
package sqldir

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Timeout bounds one question, with all its queries.
const Timeout = 3 * time.Second

var (
	// ErrUnavailable is a Database's error where it cannot be asked at the moment.
	ErrUnavailable = errors.New("the users' database does not answer")
	// ErrDuplicate is its error where a unique index refused a row.
	ErrDuplicate = errors.New("there is such a row already")
	// ErrValue is its error where a value cannot be of the type that is asked for:
	// letters where there is a number.
	ErrValue = errors.New("the value is not of the column's type")
)

// Database is where the table is. What is neither nil nor one of the errors above
// is for the operator to fix; it holds no value of a query's parameters.
type Database interface {
	// Do runs do in one transaction at READ COMMITTED, which an error undoes. do
	// may be run again from its start.
	Do(ctx context.Context, do func(Tx) error) error
	// Placeholder is how the database writes its parameter number n, from 1 on.
	Placeholder(n int) string
}

// Tx asks the database within a transaction.
type Tx interface {
	// Select reads the first rows, at most as many as limit. Values are nil, bool,
	// int64, uint64, float32, float64, json.Number, string, time.Time, what a column of JSON
	// holds, or [Unfit].
	Select(limit int, query string, args ...any) (columns []string, rows [][]any, err error)
	// Describe returns the columns of a query, of which no row is read.
	Describe(query string, args ...any) ([]Column, error)
	// Exec runs a statement and returns how many rows it found or made.
	Exec(query string, args ...any) (int64, error)
	// Prepare has the database look at a query, and runs nothing.
	Prepare(query string) error
}

// Directory asks the table. It implements [user.Directory].
//
// The column id names the user; disabled, if it is there and true, keeps them
// out; a column claims.<name> becomes a claim; all others become userInfo.
type Directory struct {
	DB      Database
	Queries Queries

	unseen atomic.Bool // Open was called, and did not succeed yet
}

// Login finds who logs in, or makes them. A login without a number is that of
// the user whom the caller is bound to; of somebody who is bound to nobody Find is
// asked if it uses :openid or :unionid, all else being NULL.
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
			if made == 0 { // it chose not to
				return user.ErrRegistrationClosed
			}
			return misconfigured("create has made a row that find does not find; it was undone")
		}
		u.New = made > 0
		return err
	})
	if errors.Is(err, ErrDuplicate) {
		// Another first login of this number was faster; or the row that is in the
		// way is not the number's.
		if err = d.do(ctx, find); errors.Is(err, user.ErrUnknown) {
			err = misconfigured("a unique index refuses the row that create makes, and find does not find the one that is there")
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
		// An id of another kind, from before the table was used; MySQL takes the
		// number at the beginning of one, and "a" for "A".
		err = user.ErrUnknown
	}
	if err != nil {
		return user.User{}, err
	}
	return u, nil
}

// Erase runs the query that erases, if there is one.
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
		return nil // nobody has such an id
	}
	return err
}

// errLooked undoes what Open did, if it did anything.
var errLooked = errors.New("looked at")

// Open has the database look at each query, and reads no row: what is wrong with one is
// found before the first login. It changes nothing. Where the database is away, the
// first login after it is back begins with this.
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
		}{{"create", d.Queries.Create}, {"erase", d.Queries.Erase}} {
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

// opened does what Open could not do while the database was away. Without it a column
// that is refused at load would be read, in some form, by whoever starts first.
func (d *Directory) opened(ctx context.Context) error {
	if !d.unseen.Load() {
		return nil
	}
	return d.Open(ctx)
}

// do runs a transaction within the time. What is none of the errors that somebody
// acts on is for the operator to fix.
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

// one reads the row of one user. More than one is nobody's: which of them it is
// must not depend on the weather.
func (d *Directory) one(tx Tx, name string, q Query, values map[string]string) (user.User, error) {
	query, args := q.on(d.DB, values)
	columns, rows, err := tx.Select(2, query, args...)
	switch {
	case err != nil:
		return user.User{}, named(name, err)
	case len(rows) == 0:
		return user.User{}, user.ErrUnknown
	case len(rows) > 1:
		return user.User{}, misconfigured("%s finds more than one row: a number, and an id, is one user's", name)
	}
	l, err := layoutOf(name, columns)
	if err != nil {
		return user.User{}, err
	}
	return l.user(rows[0])
}

// named says which query it was.
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
