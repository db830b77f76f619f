package store

import (
	"context"
	"errors"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// FindPhone returns the id of the store's own user with this number, or user.ErrUnknown.
func (s *Store) FindPhone(ctx context.Context, p user.Phone) (id string, err error) {
	err = s.sql.Read(ctx, "finding a user", func(t *sqldb.Tx) error {
		u, err := s.byPhone(t, p)
		id = u.ID
		return err
	})
	return id, err
}

// ListUsers returns at most limit of the store's own users, in the order of their ids. It begins
// with the first id greater than after.
func (s *Store) ListUsers(ctx context.Context, after string, limit int) (list []user.User, err error) {
	err = s.sql.Read(ctx, "listing users", func(t *sqldb.Tx) error {
		list = nil
		return t.Each(func(r sqldb.Row) error {
			u, err := s.scanUser(r)
			list = append(list, u)
			return err
		}, `SELECT id, phone, disabled, created_at FROM {users} WHERE id > ? ORDER BY id LIMIT ?`, after, limit)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// ListBound returns the ids of the external directory's users who have an openid here. after and
// limit work as in ListUsers.
func (s *Store) ListBound(ctx context.Context, after string, limit int) (ids []string, err error) {
	err = s.sql.Read(ctx, "listing users", func(t *sqldb.Tx) error {
		ids = nil
		return t.Each(func(r sqldb.Row) error {
			var id string
			err := r.Scan(&id)
			ids = append(ids, id)
			return err
		}, `SELECT DISTINCT user_id FROM {bindings} WHERE user_id > ? ORDER BY user_id LIMIT ?`, after, limit)
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// maxExported bounds the sessions in an export.
const maxExported = 10_000

// Export returns everything that the tables contain about a user, except step results, which are
// deleted within five minutes. It returns user.ErrUnknown if they hold nothing.
func (s *Store) Export(ctx context.Context, id string) (x account.Export, err error) {
	if !user.ValidID(id) { // MySQL ignores a blank at the end
		return x, user.ErrUnknown
	}
	err = s.sql.Read(ctx, "exporting a user", func(t *sqldb.Tx) error {
		x = account.Export{}
		for _, part := range []func(*sqldb.Tx, string, *account.Export) error{s.exportUser, s.exportBindings, s.exportMarks, s.exportSessions} {
			if err := part(t, id, &x); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && x.Empty() {
		err = user.ErrUnknown
	}
	return x, err
}

func (s *Store) exportUser(t *sqldb.Tx, id string, x *account.Export) error {
	u, err := s.scanUser(t.Row(`SELECT id, phone, disabled, created_at FROM {users} WHERE id = ?`, id))
	switch {
	case errors.Is(err, user.ErrUnknown):
	case err != nil:
		return err
	default:
		x.User = &u
	}
	return t.Each(func(r sqldb.Row) error {
		var erased, disabled int64
		err := r.Scan(&erased, &disabled)
		x.ErasedAt, x.Disabled = s.db.fromMillis(erased), disabled != 0
		return err
	}, `SELECT erased_at, disabled FROM {barred_users} WHERE user_id = ?`, id)
}

func (s *Store) exportBindings(t *sqldb.Tx, id string, x *account.Export) error {
	return t.Each(func(r sqldb.Row) error {
		b, err := s.scanBinding(r)
		x.Bindings = append(x.Bindings, b)
		return err
	}, `SELECT `+bindingColumns+` FROM {bindings} WHERE user_id = ? ORDER BY appid, openid`, id)
}

func (s *Store) exportMarks(t *sqldb.Tx, id string, x *account.Export) error {
	return t.Each(func(r sqldb.Row) error {
		var m account.FormerOpenID
		var left int64
		err := r.Scan(&m.AppID, &m.OpenID, &m.UnionID, &left)
		m.LeftAt = s.db.fromMillis(left)
		x.Former = append(x.Former, m)
		return err
	}, `SELECT appid, openid, unionid, left_at FROM {former_openids} WHERE user_id = ? ORDER BY appid`, id)
}

func (s *Store) exportSessions(t *sqldb.Tx, id string, x *account.Export) error {
	return t.Each(func(r sqldb.Row) error {
		one, err := s.db.scanSession(r)
		x.Sessions = append(x.Sessions, one)
		return err
	}, `SELECT `+sessionColumns+` FROM {sessions} WHERE user_id = ? ORDER BY created_at DESC, id DESC LIMIT ?`, id, maxExported)
}
