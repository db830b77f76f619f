package store

import (
	"context"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Leave ends the sessions of an openid whose user has left the app, and detaches its binding. A
// suspended one stays suspended. cancelled states that the owner has closed the account, and not
// only withdrawn the number. Leave does nothing if the openid has had a phone login after the time
// before. A repeated call has the same result.
//
// The binding's row stays until the user is erased, so that a failed erasure can be repeated. The
// row allows no silent login until the next phone login. So a user who left one app cannot get back
// into it silently through another app with the same unionid.
func (s *Store) Leave(ctx context.Context, appid, openid string, cancelled bool, before time.Time, e session.Ending) (left account.Leaver, err error) {
	err = s.sql.Rewrite(ctx, "ending an openid's sessions", func(t *sqldb.Tx) error {
		left = account.Leaver{}
		const which = `WHERE appid = ? AND openid = ?`
		b, bound, err := s.findBinding(t, which, appid, openid)
		// As in Commit, the user is locked before the binding. The binding may have moved to
		// another user meanwhile, and then that user is locked, too.
		for locked := ""; err == nil && bound && b.UserID != locked; {
			locked = b.UserID
			if err := lockUser(t, locked); err != nil {
				return err
			}
			b, bound, err = s.findBinding(t, which+` {lock}`, appid, openid)
		}
		if err != nil {
			return err
		}
		left.UserID = b.UserID
		if left.Returned = b.PhoneAt.After(before); left.Returned {
			return nil
		}
		if left.Ended, err = s.db.endSessions(t, e, `openid = ? AND appid = ? LIMIT ?`, openid, appid, endBatch); err != nil || !bound {
			return err
		}
		switch {
		case b.State == user.Suspended:
		case cancelled:
			b.State = user.Cancelled
		default:
			b.State = user.Detached
		}
		if _, err := t.Exec(`UPDATE {bindings} SET state = ?, state_at = {now}, phone_at = 0, auth_at = 0, phone = NULL WHERE appid = ? AND openid = ?`,
			int64(b.State), appid, openid); err != nil {
			return err
		}
		if stays, err := hasPhoneLogin(t, b.UserID); err != nil || stays {
			return err
		}
		left.Last, left.Decides = true, b
		if b.State == user.Suspended {
			left.Decides, left.Last, err = s.lastLeft(t, b.UserID)
		}
		return err
	})
	return left, err
}

// lastLeft returns the account of the user that left last. A suspended account cannot decide about
// the user, neither when it leaves nor when it comes back, because another one may be that of the
// number's new owner. But if that one has left before, what it wanted can be done now.
func (s *Store) lastLeft(t *sqldb.Tx, userID string) (b user.Binding, found bool, err error) {
	err = t.Each(func(r sqldb.Row) (err error) {
		found = true
		b, err = s.scanBinding(r)
		return err
	}, `SELECT `+bindingColumns+` FROM {bindings} WHERE user_id = ? AND state >= ? ORDER BY state_at DESC LIMIT 1`,
		userID, int64(user.Detached))
	return b, found, err
}

// hasPhoneLogin reports whether any openid of the user still has a phone login. A suspended one
// counts, because it may be the same person's in another app.
func hasPhoneLogin(t *sqldb.Tx, userID string) (bool, error) {
	var n int
	err := t.Row(`SELECT COUNT(*) FROM {bindings} WHERE user_id = ? AND phone_at <> 0 AND state < ?`,
		userID, int64(user.Detached)).Scan(&n)
	return n > 0, err
}

// eraseUser erases a user in one transaction. erase removes what is stored about the locked user.
func (s *Store) eraseUser(ctx context.Context, id string, erase func(*sqldb.Tx, string) (ended []string, err error)) error {
	if err := s.anonymize(ctx, id); err != nil {
		return err
	}
	return s.sql.Write(ctx, "erasing a user", func(t *sqldb.Tx) error {
		if err := lockUser(t, id); err != nil {
			return err
		}
		_, err := erase(t, id)
		return err
	})
}

// eraseLeft is eraseUser for a user who has left. It does nothing if the user stays.
func (s *Store) eraseLeft(ctx context.Context, id string, erase func(*sqldb.Tx, string) (ended []string, err error)) (erased bool, ended []string, err error) {
	if err := s.anonymize(ctx, id); err != nil {
		return false, nil, err
	}
	err = s.sql.Write(ctx, "erasing a user", func(t *sqldb.Tx) error {
		erased, ended = false, nil
		stays, err := lockLeaver(t, id)
		if err != nil || stays {
			return err
		}
		erased = true
		ended, err = erase(t, id)
		return err
	})
	if err != nil {
		return false, nil, err
	}
	return erased, ended, nil
}

// lockLeaver locks a user who has left. stays is true if one of the user's openids has had a phone
// login since it was decided to erase the user.
func lockLeaver(t *sqldb.Tx, userID string) (stays bool, err error) {
	if err := lockUser(t, userID); err != nil {
		return false, err
	}
	return hasPhoneLogin(t, userID)
}

// UserBindings lists a user's openids in all apps, active ones first. It leaves out those that have
// left.
func (s *Store) UserBindings(ctx context.Context, userID string) (list []user.Binding, err error) {
	err = s.sql.Read(ctx, "reading a user's bindings", func(t *sqldb.Tx) error {
		list = nil
		return t.Each(func(r sqldb.Row) error {
			b, err := s.scanBinding(r)
			list = append(list, b)
			return err
		}, `SELECT `+bindingColumns+` FROM {bindings} WHERE user_id = ? AND phone_at <> 0 AND state < ? ORDER BY state, appid, openid LIMIT ?`,
			userID, int64(user.Detached), maxListed)
	})
	return list, err
}
