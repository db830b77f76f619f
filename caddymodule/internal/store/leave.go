package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Leaver is what becomes of an openid whose user has left the mini program.
type Leaver struct {
	// UserID is whom the openid was bound to; empty if nobody.
	UserID string
	// Last reports that the user has no other openid, in any app, that they have
	// not left: then they are to be erased.
	Last bool
	// Returned reports that the openid logged in with a phone number after its
	// user had left: then nothing is done.
	Returned bool
	// Ended are the sessions that ended.
	Ended []string
}

// Leave ends the sessions of an openid, whose user left before the given time,
// and its binding. It may be done again with the same result.
//
// The binding's row stays until the user is erased, but counts for no login
// before the next one with a phone number. So an erasure that failed can be
// repeated, and nobody who left one app gets back into it silently by way of
// another that has the same unionid.
func (s *Store) Leave(ctx context.Context, appid, openid string, before time.Time, e session.Ending) (left Leaver, err error) {
	err = s.rewrite(ctx, "ending an openid's sessions", func(t *tx) error {
		left = Leaver{}
		b, bound, err := s.findBinding(t, `WHERE appid = ? AND openid = ?`, appid, openid)
		if err != nil {
			return err
		}
		if bound {
			// As in Settle the user first, then the binding, which may be another's by now.
			if err := lockUser(t, b.UserID); err != nil {
				return err
			}
			if b, bound, err = s.findBinding(t, `WHERE appid = ? AND openid = ? {lock}`, appid, openid); err != nil {
				return err
			}
		}
		left.UserID = b.UserID
		if left.Returned = b.PhoneAt.After(before); left.Returned {
			return nil
		}
		if left.Ended, err = endSessions(t, e, `openid = ? AND appid = ?`, openid, appid); err != nil || !bound {
			return err
		}
		if _, err := t.exec(`UPDATE {bindings} SET phone_at = 0, phone = NULL WHERE appid = ? AND openid = ?`, appid, openid); err != nil {
			return err
		}
		var others int
		err = t.row(`SELECT COUNT(*) FROM {bindings} WHERE user_id = ? AND phone_at <> 0`, b.UserID).Scan(&others)
		left.Last = others == 0
		return err
	})
	return left, err
}

// UserBindings lists the openids of a user in all apps, without those that have
// left.
func (s *Store) UserBindings(ctx context.Context, userID string) (list []user.Binding, err error) {
	err = s.read(ctx, "reading a user's bindings", func(t *tx) error {
		list = nil
		return t.each(func(r *sql.Rows) error {
			b, err := s.scanBinding(r)
			list = append(list, b)
			return err
		}, `SELECT `+bindingColumns+` FROM {bindings} WHERE user_id = ? AND phone_at <> 0 ORDER BY appid, openid LIMIT ?`, userID, maxListed)
	})
	return list, err
}
