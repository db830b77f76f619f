package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Users is the directory of users in the store itself. It implements user.Directory.
type Users struct {
	*Store
	register  bool
	countries []string
	sessions  session.Settings
}

// Users returns the store's own directory, in which every owner of a phone number is a user. If
// register is false, unknown numbers do not become users. Erase ends the user's sessions by these
// settings.
func (s *Store) Users(register bool, sessions session.Settings) *Users {
	s.hasUsers.Store(true)
	return &Users{Store: s, register: register, sessions: sessions}
}

// Countries returns the same directory with a limit: an unknown number becomes a user only if it
// has one of these calling codes. Without codes there is no limit.
func (d *Users) Countries(codes []string) *Users {
	limited := *d
	limited.countries = codes
	return &limited
}

// Login returns the owner of the phone number, or creates a user for it. A silent login returns the
// user that the caller is bound to.
func (d *Users) Login(ctx context.Context, l user.Login) (found user.User, err error) {
	defer func() {
		if err == nil {
			d.readAhead(ctx).noteOurs(found)
		}
	}()
	if l.Silent() {
		return d.Check(ctx, l.UserID)
	}
	find := func(t *sqldb.Tx) (err error) {
		found, err = d.byPhone(t, l.Phone)
		return err
	}
	if owner := d.readAhead(ctx).takeOwner(l.Phone); owner != nil {
		found, err = owner.user, d.db.sql.Wrap(ctx, "reading a user in", owner.err)
	} else {
		err = d.sql.Read(ctx, "reading a user", find)
	}
	if !errors.Is(err, user.ErrUnknown) {
		return found, err
	}
	if l.Detached != "" {
		var done bool
		if found, done, err = d.attach(ctx, l); done || err != nil {
			return found, err
		}
	}
	if !d.register || len(d.countries) > 0 && !slices.Contains(d.countries, l.Phone.Country) {
		return user.User{}, user.ErrRegistrationClosed
	}
	now := d.db.opts.Now()
	created := user.User{ID: newID(now), Phone: l.Phone, New: true, CreatedAt: now.UTC().Truncate(time.Millisecond)}
	if d.readAhead(ctx) != nil {
		return created, nil
	}
	err = d.sql.Write(ctx, "creating a user", func(t *sqldb.Tx) error { return t.Send(true, d.insertUser(created)...) })
	switch {
	case d.db.sql.Dialect.Duplicate(err):
		// Another first login with this number was faster.
		err = d.sql.Read(ctx, "reading a user", find)
		return found, err
	case err != nil:
		return user.User{}, err
	}
	return created, nil
}

// Check loads a user by id.
func (d *Users) Check(ctx context.Context, id string) (found user.User, err error) {
	if id == "" {
		return user.User{}, user.ErrUnknown
	}
	if read := d.readAhead(ctx).takeUser(id); read != nil {
		return read.user, d.db.sql.Wrap(ctx, "reading a user in", read.err)
	}
	err = d.sql.Read(ctx, "reading a user", func(t *sqldb.Tx) (err error) {
		found, err = d.scanUser(t.Row(`SELECT id, phone, disabled, created_at FROM {users} WHERE id = ?`, id))
		if err == nil && found.ID != id {
			return user.ErrUnknown // MySQL ignores a blank at the end
		}
		return err
	})
	return found, err
}

// Erase deletes the user and their bindings and ends their sessions.
func (d *Users) Erase(ctx context.Context, id string) error {
	return d.eraseUser(ctx, id, d.erase)
}

// EraseLeft erases a user who has left. If one of the user's openids still has a phone login, it
// does nothing. ended holds the ids of the sessions that it has ended.
func (d *Users) EraseLeft(ctx context.Context, id string) (erased bool, ended []string, err error) {
	return d.eraseLeft(ctx, id, d.erase)
}

// erase deletes a locked user.
func (d *Users) erase(t *sqldb.Tx, id string) (ended []string, err error) {
	now := d.db.opts.Now()
	// All writers of the phone index lock the user's row, so it is deleted first.
	n, err := t.Exec(`DELETE FROM {users} WHERE id = ?`, id)
	if err != nil {
		return nil, err
	}
	if _, err := t.Exec(`DELETE FROM {user_phones} WHERE user_id = ?`, id); err != nil {
		return nil, err
	}
	if n > 0 { // the id of the store's own user is never assigned again
		if err := bury(t, id); err != nil {
			return nil, err
		}
	}
	return d.db.eraseTraces(t, id, session.Ending{Reason: session.ReasonRevoked, Now: now, Until: d.sessions.Until(now)})
}

func phonePlace(userID string) place { return place{"users", "phone", userID} }

// byPhone looks up the number's owner under each key, newest first.
func (s *Store) byPhone(t *sqldb.Tx, p user.Phone) (user.User, error) {
	var owners []*foundUser
	if err := t.Questions(s.askOwners(p, &owners)); err != nil {
		return user.User{}, err
	}
	owner := firstOwner(owners)
	return owner.user, owner.err
}

// insertUser returns the statements that insert a user. They fail on the unique index if the number
// has an owner under any of the keys.
func (s *Store) insertUser(u user.User) []sqldb.Statement {
	return append([]sqldb.Statement{sqldb.OnRow([]byte(u.ID), "(?, ?, ?, ?)", sqldb.Say(`INSERT INTO {users} (id, phone, disabled, created_at) VALUES (?, ?, ?, ?)`,
		u.ID, s.sealPhone(phonePlace(u.ID), u.Phone), flag(u.Disabled), s.db.millis(u.CreatedAt)))}, s.insertNumber(u)...)
}

// insertNumber returns the statements that enter a user's number into the index.
func (s *Store) insertNumber(u user.User) (list []sqldb.Statement) {
	keys := s.keys.Load()
	for i, hash := range keys.phoneHashes(u.Phone.E164()) {
		list = append(list, sqldb.OnRow(hash, "(?, ?, ?)", sqldb.Say(`INSERT INTO {user_phones} (phone_hash, key_id, user_id) VALUES (?, ?, ?)`,
			hash, keys.keys[i].id[:], u.ID)))
	}
	return list
}

// scanUser reads a user's columns and any further columns. If only the number cannot be opened, it
// returns the rest of the user together with the error.
func (s *Store) scanUser(row sqldb.Row, more ...any) (u user.User, err error) {
	var sealed []byte
	var disabled, created int64
	err = row.Scan(append([]any{&u.ID, &sealed, &disabled, &created}, more...)...)
	if errors.Is(err, sql.ErrNoRows) {
		return user.User{}, user.ErrUnknown
	}
	if err != nil {
		return user.User{}, err
	}
	return s.userOf(u.ID, sealed, disabled, created)
}

func (s *Store) userOf(id string, sealed []byte, disabled, created int64) (user.User, error) {
	u := user.User{ID: id, Disabled: disabled != 0, CreatedAt: s.db.fromMillis(created)}
	var err error
	u.Phone, err = s.openPhone(phonePlace(id), sealed)
	return u, err
}

func (s *Store) sealPhone(at place, p user.Phone) []byte {
	return s.keys.Load().seal(at, []byte(p.Country+" "+p.National))
}

func (s *Store) openPhone(at place, sealed []byte) (p user.Phone, err error) {
	text, err := s.keys.Load().open(at, sealed)
	if err != nil {
		return p, err
	}
	var ok bool
	if p.Country, p.National, ok = strings.Cut(string(text), " "); !ok {
		return p, fmt.Errorf("%s.%s: %w", at.table, at.column, user.ErrPhone)
	}
	return p, nil
}

// flag converts a bool for SQL.
func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// newID returns a new user id. Users and sessions have ids of the same form.
func newID(now time.Time) string { return session.NewID(now) }
