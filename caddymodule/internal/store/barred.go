package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// SetDisabled says whether one of the store's own users may log in and refresh.
// user.ErrUnknown: there is no such user. It ends no session, but from here on
// none is opened: who ends them afterwards, ends all.
func (s *Store) SetDisabled(ctx context.Context, id string, disabled bool) error {
	return s.rewrite(ctx, "disabling a user", func(t *tx) error {
		if err := lockUser(t, id); err != nil {
			return err
		}
		n, err := t.exec(`UPDATE {users} SET disabled = ? WHERE id = ?`, flag(disabled), id)
		if err == nil && n == 0 {
			return user.ErrUnknown
		}
		return err
	})
}

// admitted refuses users who were disabled (user.ErrDisabled) or erased
// (user.ErrUnknown) while their login was under way. The user must be locked.
func admitted(t *tx, id string) error {
	var erased int64
	err := t.row(`SELECT erased_at FROM {barred_users} WHERE user_id = ?
		UNION ALL SELECT 0 FROM {users} WHERE id = ? AND disabled <> 0 LIMIT 1`, id, id).Scan(&erased)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	case erased != 0:
		return user.ErrUnknown
	}
	return user.ErrDisabled
}

// eraseTraces removes what is here of a user, wherever their record lives: the
// bindings and what sessions tell of the person. The sessions end, and stay until
// they are purged, so that their refresh tokens are refused for what they are.
func eraseTraces(t *tx, id string, e session.Ending) error {
	if _, err := t.exec(`DELETE FROM {bindings} WHERE user_id = ?`, id); err != nil {
		return err
	}
	if _, err := endSessions(t, e, `user_id = ?`, id); err != nil {
		return err
	}
	_, err := t.exec(`UPDATE {sessions} SET openid = '', unionid = '', user_agent = '', address = '' WHERE user_id = ?`, id)
	return err
}

// Elsewhere is a directory whose records live elsewhere, with what is kept here
// of its users: bindings, sessions, and who is disabled.
type Elsewhere struct {
	store    *Store
	there    user.Directory
	sessions session.Settings
}

// Elsewhere makes users of there known here. Erase ends their sessions by these
// settings.
func (s *Store) Elsewhere(there user.Directory, sessions session.Settings) *Elsewhere {
	return &Elsewhere{s, there, sessions}
}

// Login asks the directory. Who is disabled here is disabled, whatever it says.
func (e *Elsewhere) Login(ctx context.Context, l user.Login) (user.User, error) {
	return e.judged(ctx)(e.there.Login(ctx, l))
}

// Check asks the directory, as Login does.
func (e *Elsewhere) Check(ctx context.Context, id string) (user.User, error) {
	return e.judged(ctx)(e.there.Check(ctx, id))
}

func (e *Elsewhere) judged(ctx context.Context) func(user.User, error) (user.User, error) {
	return func(u user.User, err error) (user.User, error) {
		if err != nil || u.Disabled {
			return u, err
		}
		err = e.store.read(ctx, "reading who is disabled", func(t *tx) error {
			err := t.row(`SELECT 1 FROM {barred_users} WHERE user_id = ?`, u.ID).Scan(new(int))
			u.Disabled = err == nil
			if errors.Is(err, sql.ErrNoRows) {
				return nil
			}
			return err
		})
		return u, err
	}
}

// Erase erases the user there, then what is here. In this order an erasure that
// did not reach the directory can be repeated by whoever knows but an openid.
func (e *Elsewhere) Erase(ctx context.Context, id string) error {
	if err := e.there.Erase(ctx, id); err != nil {
		return err
	}
	return e.store.write(ctx, "erasing a user", func(t *tx) error {
		if err := lockUser(t, id); err != nil {
			return err
		}
		// The directory may give this id to somebody again.
		if _, err := t.exec(`DELETE FROM {barred_users} WHERE user_id = ?`, id); err != nil {
			return err
		}
		now := e.store.db.opts.Now()
		return eraseTraces(t, id, session.Ending{Reason: session.ReasonRevoked, Now: now, Until: e.sessions.Until(now)})
	})
}

// SetDisabled says whether a user may log in and refresh, as far as we are
// concerned; the directory is not asked. It ends no session, as Store's.
func (e *Elsewhere) SetDisabled(ctx context.Context, id string, disabled bool) error {
	return e.store.rewrite(ctx, "disabling a user", func(t *tx) error {
		if err := lockUser(t, id); err != nil {
			return err
		}
		if !disabled {
			_, err := t.exec(`DELETE FROM {barred_users} WHERE user_id = ?`, id)
			return err
		}
		_, err := t.exec(`INSERT OR IGNORE INTO {barred_users} (user_id, erased_at) VALUES (?, 0)`, id)
		return err
	})
}
