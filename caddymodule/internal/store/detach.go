package store

import (
	"context"
	"errors"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// DetachLeft takes away the number of a user who has withdrawn it through this openid. The user
// stays, and the next phone login of that WeChat account gives them a new number, see attach. If
// one of the user's openids still has a phone login, DetachLeft does nothing. A repeated call has
// the same result.
func (d *Users) DetachLeft(ctx context.Context, id, appid, openid string) (detached bool, err error) {
	err = d.sql.Rewrite(ctx, "detaching a user", func(t *sqldb.Tx) error {
		stays, err := lockLeaver(t, id)
		if detached = !stays; err != nil || stays {
			return err
		}
		if err := d.dropNumber(t, id); err != nil {
			return err
		}
		return markWithdrawn(t, id, appid, openid)
	})
	return detached && err == nil, err
}

// TakePhone takes away a user's number, or returns user.ErrUnknown. Once it has returned, logins
// under way with that number open no session of this user.
func (d *Users) TakePhone(ctx context.Context, id string) error {
	return d.sql.Rewrite(ctx, "taking a user's number", func(t *sqldb.Tx) error {
		if err := lockUser(t, id); err != nil {
			return err
		}
		return d.dropNumber(t, id)
	})
}

// dropNumber removes the number of a locked user from every table.
func (d *Users) dropNumber(t *sqldb.Tx, id string) error {
	// All writers of the phone index lock the user's row, so it comes first.
	n, err := t.Exec(`UPDATE {users} SET phone = ? WHERE id = ?`, d.sealPhone(phonePlace(id), user.Phone{}), id)
	if err == nil && n == 0 {
		err = user.ErrUnknown
	}
	if err != nil {
		return err
	}
	if _, err := t.Exec(`DELETE FROM {user_phones} WHERE user_id = ?`, id); err != nil {
		return err
	}
	return dropCopies(t, id)
}

// dropCopies removes the copies of a locked user's number in the bindings.
func dropCopies(t *sqldb.Tx, id string) error {
	_, err := t.Exec(`UPDATE {bindings} SET phone = NULL WHERE user_id = ?`, id)
	return err
}

// markWithdrawn records that a withdrawal through this openid has detached its user, unless another
// openid had detached them before. The user must be locked.
func markWithdrawn(t *sqldb.Tx, id, appid, openid string) error {
	var n int
	err := t.Row(`SELECT COUNT(*) FROM {bindings} WHERE user_id = ? AND state = ? AND NOT (appid = ? AND openid = ?)`,
		id, int64(user.Withdrawn), appid, openid).Scan(&n)
	if err != nil || n > 0 {
		return err
	}
	_, err = t.Exec(`UPDATE {bindings} SET state = ? WHERE appid = ? AND openid = ? AND user_id = ?`, int64(user.Withdrawn), appid, openid, id)
	return err
}

// attach gives the number of a login to the user whom the caller's WeChat account has detached. The
// number had no owner when it was looked up. done is false if the user was erased or has a number
// again, or if somebody owns the number by now. A disabled user gets no number, but done is true:
// otherwise they could come back as a new user.
func (d *Users) attach(ctx context.Context, l user.Login) (found user.User, done bool, err error) {
	// A light write suffices, as for a new user.
	err = d.sql.Change(ctx, "attaching a user", sqldb.Once, sqldb.Light, func(t *sqldb.Tx) error {
		done = false
		if err := lockUser(t, l.Detached); err != nil {
			return err
		}
		found, err = d.scanUser(t.Row(`SELECT id, phone, disabled, created_at FROM {users} WHERE id = ? {lock}`, l.Detached))
		switch {
		case errors.Is(err, user.ErrUnknown), err == nil && !found.Phone.IsZero():
			return nil
		case err != nil || found.Disabled:
			done = err == nil
			return err
		}
		found.Phone, done = l.Phone, true
		return t.Send(true, d.giveNumber(found)...)
	})
	if d.db.sql.Dialect.Duplicate(err) {
		return user.User{}, false, nil
	}
	if err != nil || !done {
		return user.User{}, false, err
	}
	return found, true, nil
}

// giveNumber returns the statements that give u's number to a user without one. They fail on the
// unique index if the number has an owner.
func (s *Store) giveNumber(u user.User) []sqldb.Statement {
	return append([]sqldb.Statement{sqldb.Say(`UPDATE {users} SET phone = ? WHERE id = ?`, s.sealPhone(phonePlace(u.ID), u.Phone), u.ID)}, s.insertNumber(u)...)
}

// DetachLeft does the same as [Users.DetachLeft], but asks the external directory to take away the
// number. After a phone login that comes later, what is stored here stays.
func (e *ExternalDirectory) DetachLeft(ctx context.Context, id, appid, openid string) (detached bool, err error) {
	var stays bool
	owner := newID(e.store.db.opts.Now())
	if err := e.store.sql.Rewrite(ctx, "looking at who has left", func(t *sqldb.Tx) (err error) {
		if stays, err = lockLeaver(t, id); err != nil || stays {
			return err
		}
		return t.One(beginMark(id, owner, takingLife))
	}); err != nil || stays {
		return false, err
	}
	if err := e.take(ctx, id, owner); err != nil {
		return false, err
	}
	err = e.store.sql.Rewrite(ctx, "detaching a user", func(t *sqldb.Tx) error {
		stays, err := lockLeaver(t, id)
		if err == nil {
			err = t.One(endMark(id, owner))
		}
		if detached = !stays; err != nil || stays {
			return err
		}
		if err := dropCopies(t, id); err != nil {
			return err
		}
		return markWithdrawn(t, id, appid, openid)
	})
	return detached && err == nil, err
}

// TakePhone asks the external directory to take away a user's number, and then removes its copies
// here.
func (e *ExternalDirectory) TakePhone(ctx context.Context, id string) error {
	owner := newID(e.store.db.opts.Now())
	if err := e.store.sql.Rewrite(ctx, "beginning to take a number", func(t *sqldb.Tx) error {
		if err := lockUser(t, id); err != nil {
			return err
		}
		return t.One(beginMark(id, owner, takingLife))
	}); err != nil {
		return err
	}
	if err := e.take(ctx, id, owner); err != nil {
		return err
	}
	return e.store.sql.Rewrite(ctx, "taking a user's number", func(t *sqldb.Tx) error {
		if err := lockUser(t, id); err != nil {
			return err
		}
		if err := t.One(endMark(id, owner)); err != nil {
			return err
		}
		return dropCopies(t, id)
	})
}

// takingTime bounds the external directory's answer when a number is taken away. If no answer
// comes, the user's mark lasts for takingLife, which is longer.
const (
	takingLife = 30 * time.Second
	takingTime = 10 * time.Second
)

// take asks the external directory to take away the number of a user who is marked. The mark ends
// if the directory reports that it has changed nothing.
func (e *ExternalDirectory) take(ctx context.Context, id, owner string) error {
	asking, cancel := context.WithTimeout(ctx, takingTime)
	defer cancel()
	err := user.ChangePhone(asking, e.there, id, user.Phone{})
	if errors.Is(err, user.ErrUnknown) || errors.Is(err, user.ErrPhoneFixed) {
		if err := e.store.sql.Rewrite(ctx, "ending a mark", func(t *sqldb.Tx) error { return t.One(endMark(id, owner)) }); err != nil {
			return err
		}
	}
	return err
}

// attach asks the external directory to give the number of a login to the user whom the caller's
// WeChat account has detached. The directory then finds that user by the number. If the directory
// refuses, the login goes on like any other. A user who is disabled here gets no number, and done
// is true.
func (e *ExternalDirectory) attach(ctx context.Context, l user.Login) (found user.User, done bool, err error) {
	if l.Detached == "" || l.Silent() {
		return user.User{}, false, nil
	}
	found, err = e.withDisabled(ctx)(user.User{ID: l.Detached}, nil)
	if err != nil || found.Disabled {
		return found, err == nil, err
	}
	err = user.ChangePhone(ctx, e.there, l.Detached, l.Phone)
	if errors.Is(err, user.ErrPhoneTaken) || errors.Is(err, user.ErrUnknown) || errors.Is(err, user.ErrPhoneFixed) {
		err = nil
	}
	return user.User{}, false, err
}
