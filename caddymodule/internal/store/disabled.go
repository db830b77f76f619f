package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// SetDisabled disables or enables one of the store's own users. A disabled user cannot log in or
// refresh. It returns user.ErrUnknown if there is no such user. It ends no session. But no session
// of a disabled user is opened once it has returned, so a caller that ends the sessions afterwards
// ends all of them.
func (s *Store) SetDisabled(ctx context.Context, id string, disabled bool) error {
	return s.sql.Rewrite(ctx, "disabling a user", func(t *sqldb.Tx) error {
		if err := lockUser(t, id); err != nil {
			return err
		}
		n, err := t.Exec(`UPDATE {users} SET disabled = ? WHERE id = ?`, flag(disabled), id)
		if err == nil && n == 0 {
			return user.ErrUnknown
		}
		return err
	})
}

// bury leaves a tombstone. Logins that began before it open no session of this user. A disabled
// user stays disabled.
func bury(t *sqldb.Tx, id string) error {
	// Replicas of older versions disable a user with a row that does not set this column.
	if _, err := t.Exec(`UPDATE {barred_users} SET disabled = 1 WHERE user_id = ? AND erased_at = 0`, id); err != nil {
		return err
	}
	_, err := t.Exec(`INSERT INTO {barred_users} (user_id, erased_at, disabled) VALUES (?, {now}, 0)
		ON CONFLICT (user_id) DO UPDATE SET erased_at = excluded.erased_at`, id)
	return err
}

// eraseTraces removes what this database holds about a user of any directory: the bindings, the
// marks, and the personal data of sessions. The sessions end but stay until they are purged, so
// that their refresh tokens are refused as ended and not as unknown.
func (db *DB) eraseTraces(t *sqldb.Tx, id string, e session.Ending) (ended []string, err error) {
	for _, table := range []string{"{bindings}", "{former_openids}"} {
		if _, err := t.Exec(`DELETE FROM `+table+` WHERE user_id = ?`, id); err != nil {
			return nil, err
		}
	}
	if ended, err = db.endSessions(t, e, `user_id = ?`, id); err != nil {
		return nil, err
	}
	_, err = t.Exec(`UPDATE {sessions} SET `+anonymous+` WHERE user_id = ? AND `+personal, id)
	return ended, err
}

// ExternalDirectory is an external directory, together with what this store keeps about its users:
// bindings, sessions, and which users are disabled.
type ExternalDirectory struct {
	store    *Store
	there    user.Directory
	sessions session.Settings
}

// ExternalUsers wraps an external directory. Its Erase ends sessions by these settings.
func (s *Store) ExternalUsers(there user.Directory, sessions session.Settings) *ExternalDirectory {
	return &ExternalDirectory{s, there, sessions}
}

// Login asks the external directory. A user who is disabled here stays disabled, whatever the
// directory answers.
func (e *ExternalDirectory) Login(ctx context.Context, l user.Login) (user.User, error) {
	if found, done, err := e.attach(ctx, l); done || err != nil {
		return found, err
	}
	return e.withDisabled(ctx)(e.there.Login(ctx, l))
}

// Check asks the external directory, as Login does.
func (e *ExternalDirectory) Check(ctx context.Context, id string) (user.User, error) {
	return e.withDisabled(ctx)(e.there.Check(ctx, id))
}

func (e *ExternalDirectory) withDisabled(ctx context.Context) func(user.User, error) (user.User, error) {
	return func(u user.User, err error) (user.User, error) {
		if err != nil || u.Disabled {
			return u, err
		}
		err = e.store.sql.Read(ctx, "reading who is disabled", func(t *sqldb.Tx) error {
			err := t.Row(`SELECT 1 FROM {barred_users} WHERE user_id = ? AND (disabled <> 0 OR erased_at = 0)`, u.ID).Scan(new(int))
			u.Disabled = err == nil
			if errors.Is(err, sql.ErrNoRows) {
				return nil
			}
			return err
		})
		return u, err
	}
}

// Erase erases the user in the external directory first, then here. If the directory could not be
// reached, a caller that knows only an openid can therefore repeat the erasure.
func (e *ExternalDirectory) Erase(ctx context.Context, id string) error {
	if err := e.there.Erase(ctx, id); err != nil {
		return err
	}
	return e.store.eraseUser(ctx, id, e.erase)
}

// EraseLeft erases a user who has left, like [Users.EraseLeft]. The external directory is not part
// of the transaction. If a phone login comes after the directory was asked, what is stored here
// stays, and the login finds or creates its user in the directory.
func (e *ExternalDirectory) EraseLeft(ctx context.Context, id string) (erased bool, ended []string, err error) {
	var stays bool
	if err := e.store.sql.Rewrite(ctx, "looking at who has left", func(t *sqldb.Tx) (err error) {
		stays, err = lockLeaver(t, id)
		return err
	}); err != nil || stays {
		return false, nil, err
	}
	if err := e.there.Erase(ctx, id); err != nil {
		return false, nil, err
	}
	return e.store.eraseLeft(ctx, id, e.erase)
}

// erase removes what is stored here about a locked user. The directory may assign the id again to a
// login that begins later.
func (e *ExternalDirectory) erase(t *sqldb.Tx, id string) (ended []string, err error) {
	if err := bury(t, id); err != nil {
		return nil, err
	}
	// A row and a number may be left from the time when the users were in this store.
	for _, query := range []string{`DELETE FROM {users} WHERE id = ?`, `DELETE FROM {user_phones} WHERE user_id = ?`} {
		if _, err := t.Exec(query, id); err != nil {
			return nil, err
		}
	}
	now := e.store.db.opts.Now()
	return e.store.db.eraseTraces(t, id, session.Ending{Reason: session.ReasonRevoked, Now: now, Until: e.sessions.Until(now)})
}

// SetDisabled disables or enables a user at this gateway. It does not ask the external directory.
// Like [Store.SetDisabled] it ends no session.
func (e *ExternalDirectory) SetDisabled(ctx context.Context, id string, disabled bool) error {
	return e.store.sql.Rewrite(ctx, "disabling a user", func(t *sqldb.Tx) error {
		if err := lockUser(t, id); err != nil {
			return err
		}
		if !disabled {
			if _, err := t.Exec(`DELETE FROM {barred_users} WHERE user_id = ? AND erased_at = 0`, id); err != nil {
				return err
			}
			_, err := t.Exec(`UPDATE {barred_users} SET disabled = 0 WHERE user_id = ?`, id)
			return err
		}
		_, err := t.Exec(`INSERT INTO {barred_users} (user_id, erased_at, disabled) VALUES (?, 0, 1)
			ON CONFLICT (user_id) DO UPDATE SET disabled = excluded.disabled`, id)
		return err
	})
}
