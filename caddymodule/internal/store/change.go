package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// ChangePhone gives a user another number in one transaction: in their record and in the index of
// numbers if the store has them, and in all their bindings. It checks once more everything on which
// the decision was based. [login.Store] lists the errors. With any of them nothing is written.
// Nothing is written either if the same phone code has made the change before.
//
// It takes the same lock as a login. A login under way has either ended by then, or finds that its
// number is no longer this user's.
func (s *Store) ChangePhone(ctx context.Context, p login.PhoneChange) (login.PhoneChanged, error) {
	return s.changePhone(ctx, "changing a number", p, func(c *changing) error {
		if p.External && !c.marked {
			return login.ErrChanging // the number was taken away meanwhile
		}
		return c.move()
	})
}

// BeginPhoneChange makes the same checks and marks the user. While the mark lasts (life), no login
// trusts the external directory's answer about the user. The directory may be asked to change the
// number once this has returned.
func (s *Store) BeginPhoneChange(ctx context.Context, p login.PhoneChange, life time.Duration) (login.PhoneChanged, error) {
	return s.changePhone(ctx, "beginning to change a number", p, func(c *changing) error {
		return c.Send(true, beginMark(p.Session.UserID, p.Owner, life))
	})
}

// beginMark marks a user whose number is about to be changed in an external directory. A login of
// the user is committed only if it asked the directory after the mark had ended. The mark of an
// earlier change is replaced.
func beginMark(userID, owner string, life time.Duration) sqldb.Statement {
	mark := login.ChangeMark(userID)
	return sqldb.Say(`INSERT INTO {claimed_steps} (step, owner, lease_until, seen_at) VALUES (?, ?, {now} + ?, {now})
		ON CONFLICT (step) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until`, mark[:], owner, life.Milliseconds())
}

// endMark ends a mark now, if owner has set it.
func endMark(userID, owner string) sqldb.Statement {
	mark := login.ChangeMark(userID)
	return sqldb.Say(`UPDATE {claimed_steps} SET owner = '', lease_until = {now} WHERE step = ? AND owner = ?`, mark[:], owner)
}

func (s *Store) changePhone(ctx context.Context, doing string, p login.PhoneChange, write func(*changing) error) (done login.PhoneChanged, err error) {
	runs := 0
	for range maxEarly {
		err = s.sql.Rewrite(ctx, doing, func(t *sqldb.Tx) error {
			runs++
			c := &changing{Tx: t, s: s, p: p}
			if err := t.Send(false, c.questions()...); err != nil {
				return err
			}
			done.Replayed, done.AuthAt = false, p.At
			err := c.allowed()
			if err == nil && c.replayed {
				// An earlier run of this transaction may have been committed without an answer.
				done.Replayed, done.AuthAt = runs == 1 || !c.own.AuthAt.Equal(p.At), c.own.AuthAt
				return nil
			}
			if err == nil {
				err = write(c)
			}
			return err
		})
		if !errors.Is(err, errNoLock) {
			return done, err
		}
		if err := s.makeLocks(ctx); err != nil {
			return done, err
		}
	}
	return done, err
}

// changing is a transaction that changes a user's number.
type changing struct {
	*sqldb.Tx
	s *Store
	p login.PhoneChange

	missing  int            // number of rows to lock that do not exist
	replayed bool           // the phone code has changed the number before
	live     bool           // the session has not ended
	user     error          // why the user may not change the number
	found    bool           // the store has a row of the user
	number   user.Phone     // the number in that row
	taken    bool           // the new number is another user's
	bindings []user.Binding // all bindings of the user, in all apps
	own      user.Binding   // the binding of the session's openid
	marked   bool           // the mark of this change still stands
}

// questions returns the queries for everything that the change depends on. The lock comes first.
func (c *changing) questions() (list []sqldb.Statement) {
	userID := c.p.Session.UserID
	if !c.s.db.sql.Dialect.OneWriter {
		c.missing = 1
		list = append(list, sqldb.Ask(func(r sqldb.Row) error {
			c.missing--
			return r.Scan(new(int64))
		}, `SELECT stripe FROM {user_locks} WHERE stripe = ? {lock}`, int64(stripe(userID))))
	}
	list = append(list,
		sqldb.Ask(func(r sqldb.Row) error {
			c.replayed = true
			return r.Scan(new(int64))
		}, `SELECT 1 FROM {kept_steps} WHERE step = ?`, c.p.Done[:]),
		sqldb.Ask(func(r sqldb.Row) error {
			c.live = true
			return r.Scan(new(int64))
		}, `SELECT 1 FROM {sessions} WHERE id = ? AND ended_at = 0`, c.p.Session.ID),
		sqldb.Ask(func(r sqldb.Row) error {
			var disabled, erased int64
			err := r.Scan(&disabled, &erased)
			if disabled != 0 || erased == 0 {
				c.user = user.ErrDisabled
			}
			return err
		}, `SELECT disabled, erased_at FROM {barred_users} WHERE user_id = ?`, userID),
		sqldb.Ask(func(r sqldb.Row) error {
			b, err := c.s.scanBinding(r)
			if b.AppID == c.p.Session.AppID && b.OpenID == c.p.Session.OpenID {
				c.own = b
			}
			c.bindings = append(c.bindings, b)
			return err
		}, `SELECT `+bindingColumns+` FROM {bindings} WHERE user_id = ?`, userID))
	if c.p.External {
		mark := login.ChangeMark(userID)
		return append(list, sqldb.Ask(func(r sqldb.Row) error {
			c.marked = true
			return r.Scan(new(int64))
		}, `SELECT 1 FROM {claimed_steps} WHERE step = ? AND owner = ?`, mark[:], c.p.Owner))
	}
	hashes := c.s.keys.Load().phoneHashes(c.p.Phone.E164())
	args := make([]any, 0, len(hashes)+1)
	for _, h := range hashes {
		args = append(args, h)
	}
	return append(list,
		sqldb.Ask(func(r sqldb.Row) error {
			u, err := c.s.scanUser(r)
			if u.ID != userID {
				return err
			}
			// A number that cannot be read any more is replaced like any other.
			c.found, c.number = true, u.Phone
			if u.Disabled {
				c.user = user.ErrDisabled
			}
			return nil
		}, `SELECT id, phone, disabled, created_at FROM {users} WHERE id = ? {lock}`, userID),
		sqldb.Ask(func(r sqldb.Row) error {
			c.taken = true
			return r.Scan(new(int64))
		}, `SELECT 1 FROM {user_phones} WHERE phone_hash IN (?`+strings.Repeat(", ?", len(hashes)-1)+`) AND user_id <> ?`, append(args, userID)...))
}

// allowed returns the reason, from what was read, why the change must not be made.
func (c *changing) allowed() error {
	number := c.number
	if c.p.External {
		number = c.own.Phone
	}
	switch {
	case c.missing > 0:
		return errNoLock
	case c.user != nil:
		return c.user
	case !c.p.External && !c.found:
		return user.ErrUnknown
	case !c.live, c.own.UserID == "", c.own.State != user.Active:
		return session.ErrEnded
	case c.replayed && number != c.p.Phone:
		return login.ErrChangedSince
	case c.replayed:
		return nil
	case c.taken:
		return user.ErrPhoneTaken
	}
	return nil
}

// move writes the change.
func (c *changing) move() error {
	p, userID := c.p, c.p.Session.UserID
	var writes []sqldb.Statement
	write := func(query string, args ...any) { writes = append(writes, sqldb.Say(query, args...)) }
	if !p.External {
		write(`DELETE FROM {user_phones} WHERE user_id = ?`, userID)
		writes = append(writes, c.s.giveNumber(user.User{ID: userID, Phone: p.Phone})...)
	}
	withdrawn := false
	for _, b := range c.bindings {
		withdrawn = withdrawn || b.State == user.Withdrawn
		query := `UPDATE {bindings} SET phone = ? WHERE appid = ? AND openid = ?`
		if !p.External || b.State != user.Active {
			query += ` AND phone IS NOT NULL` // a binding without a number gets none
		}
		b.Phone = p.Phone
		write(query, c.s.bindingPhone(b), b.AppID, b.OpenID)
	}
	if withdrawn {
		// The user has a number again, so no other login may give them one.
		write(`UPDATE {bindings} SET state = ? WHERE user_id = ? AND state = ?`, int64(user.Detached), userID, int64(user.Withdrawn))
	}
	at := c.s.db.millis(slices.MaxFunc([]time.Time{p.At, c.own.PhoneAt}, time.Time.Compare))
	write(`UPDATE {bindings} SET phone_at = ?, auth_at = ? WHERE appid = ? AND openid = ?`, at, c.s.db.millis(p.At), c.own.AppID, c.own.OpenID)
	writes = append(writes, c.s.keepStep(p.Done, []byte("changed"), p.Expires))
	if p.External {
		writes = append(writes, endMark(userID, p.Owner))
	}
	err := c.Send(true, writes...)
	if err != nil && c.s.db.sql.Dialect.Duplicate(err) {
		return user.ErrPhoneTaken // another user was faster
	}
	return err
}

// ChangesPhones reports whether the external directory changes numbers.
func (e *ExternalDirectory) ChangesPhones() bool { return user.ChangesPhones(e.there) }

// ChangePhone changes a number in the external directory.
func (e *ExternalDirectory) ChangePhone(ctx context.Context, id string, to user.Phone) error {
	return user.ChangePhone(ctx, e.there, id, to)
}
