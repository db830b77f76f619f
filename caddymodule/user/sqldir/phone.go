package sqldir

import (
	"context"
	"errors"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// ParsePhone parses and sets the query that changes a number. An empty text means that there is
// none. The error is a *[QueryError].
func (q *Queries) ParsePhone(text string, mysql bool) error {
	if text == "" {
		return nil
	}
	parsed, err := ParseQuery(text, mysql)
	if err == nil {
		err = phoneRule(parsed)
	}
	if err != nil {
		return &QueryError{"phone", err}
	}
	q.Phone = parsed
	return nil
}

func phoneRule(q Query) error {
	if !q.Uses("id") {
		return errors.New(`it does not use :id, the user who gets the number, such as phone "UPDATE members SET mobile = :phone WHERE id = :id"`)
	}
	return byNumber(q)
}

// ChangesPhones reports whether there is a query that changes a number.
func (d *Directory) ChangesPhones() bool { return !d.Queries.Phone.IsZero() }

// ChangePhone runs the query that changes a number. The query must change exactly one row. If a
// unique index refuses the number, it belongs to another user.
func (d *Directory) ChangePhone(ctx context.Context, id string, to user.Phone) error {
	if !d.ChangesPhones() {
		return user.ErrPhoneFixed
	}
	if id == "" {
		return user.ErrUnknown
	}
	if err := d.opened(ctx); err != nil {
		return err
	}
	err := d.do(ctx, func(tx Tx) error {
		query, args := d.Queries.Phone.on(d.DB, map[string]string{
			"id": id, "phone": to.E164(), "country": to.Country, "national": to.National,
		})
		changed, err := tx.Exec(query, args...)
		switch {
		case err != nil:
			return named("phone", err)
		case changed == 0:
			return user.ErrUnknown
		case changed > 1:
			return misconfigured("the query phone changed %d rows instead of one, and was undone", changed)
		}
		return nil
	})
	switch {
	case errors.Is(err, ErrDuplicate):
		return user.ErrPhoneTaken
	case errors.Is(err, ErrValue):
		return user.ErrUnknown // no user has such an id
	}
	return err
}

var _ user.PhoneChanger = (*Directory)(nil)
