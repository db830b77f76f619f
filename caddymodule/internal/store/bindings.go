package store

import (
	"context"
	"database/sql"
	"errors"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

const bindingColumns = `appid, openid, unionid, user_id, phone_at, phone, state, auth_at`

// scanBinding reads bindingColumns. around is empty, or holds two further columns: the first comes
// before bindingColumns, the second after them.
func (s *Store) scanBinding(row sqldb.Row, around ...any) (b user.Binding, err error) {
	var phoneAt, authAt int64
	var sealed []byte
	columns := []any{&b.AppID, &b.OpenID, &b.UnionID, &b.UserID, &phoneAt, &sealed, &b.State, &authAt}
	if len(around) == 2 {
		columns = append(append([]any{around[0]}, columns...), around[1])
	}
	if err = row.Scan(columns...); err != nil {
		return b, err
	}
	b.PhoneAt, b.AuthAt = s.db.fromMillis(phoneAt), s.db.fromMillis(authAt)
	if len(sealed) > 0 {
		b.Phone, err = s.openPhone(bindingPhonePlace(b), sealed)
		if errors.Is(err, ErrKey) {
			return b, nil // this is a copy of the number; the next phone login restores it
		}
	}
	return b, err
}

// bindingPhonePlace includes the user, so that an openid that moves to another user cannot take the
// phone number along.
func bindingPhonePlace(b user.Binding) place {
	return place{"bindings", "phone", b.AppID + " " + b.OpenID + " " + b.UserID}
}

// Binding returns the user that an openid is bound to.
func (s *Store) Binding(ctx context.Context, appid, openid string) (b user.Binding, found bool, err error) {
	err = s.sql.Read(ctx, "reading a binding", func(t *sqldb.Tx) (err error) {
		b, found, err = s.findBinding(t, `WHERE appid = ? AND openid = ?`, appid, openid)
		return err
	})
	return b, found && err == nil, err
}

func (s *Store) findBinding(t *sqldb.Tx, which string, args ...any) (user.Binding, bool, error) {
	b, err := s.scanBinding(t.Row(`SELECT `+bindingColumns+` FROM {bindings} `+which, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return user.Binding{}, false, nil
	}
	return b, err == nil, err
}

// userStripes is the number of rows in user_locks, which all users share. It bounds how many logins
// can commit at the same time.
const userStripes = 256

// lockUser makes other transactions that lock this user wait until this one ends. Transactions of
// other users that share the row wait, too. Without the lock, two logins with new openids of one
// user would not see each other, and both openids would stay.
func lockUser(t *sqldb.Tx, id string) error { return lockUsers(t, map[string]bool{id: true}) }

func stripe(id string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(id))
	return h.Sum32() % userStripes
}

// stripesOf returns the rows to lock for some users. They are sorted, so that two transactions that
// lock several rows never wait for each other.
func stripesOf(users []string) []uint32 {
	var stripes []uint32
	for _, id := range users {
		stripes = append(stripes, stripe(id))
	}
	slices.Sort(stripes)
	return slices.Compact(stripes)
}

// lockUsers locks several users, like lockUser.
func lockUsers(t *sqldb.Tx, ids map[string]bool) error {
	if t.DB().Dialect.OneWriter {
		return nil
	}
	for _, n := range stripesOf(slices.Collect(maps.Keys(ids))) {
		// This creates a missing row, and locks it in any case.
		if _, err := t.Exec(`INSERT INTO {user_locks} (stripe) VALUES (?)
			ON CONFLICT (stripe) DO UPDATE SET stripe = excluded.stripe`, n); err != nil {
			return err
		}
	}
	return nil
}

// errNoLock reports that a row to lock does not exist.
var errNoLock = errors.New("the rows to lock are missing")

// makeLocks creates all rows of user_locks.
func (s *Store) makeLocks(ctx context.Context) error {
	var all []any
	for n := range userStripes {
		all = append(all, n)
	}
	return s.sql.Rewrite(ctx, "preparing locks", func(t *sqldb.Tx) error {
		return t.Send(true, sqldb.Say(`INSERT INTO {user_locks} (stripe) VALUES (?)`+strings.Repeat(", (?)", len(all)-1)+`
			ON CONFLICT (stripe) DO UPDATE SET stripe = excluded.stripe`, all...))
	})
}

// bindingPhone returns the value of the phone column. It is nil if the binding holds no number,
// because the directory returns numbers itself.
func (s *Store) bindingPhone(b user.Binding) []byte {
	if b.Phone.IsZero() {
		return nil
	}
	return s.sealPhone(bindingPhonePlace(b), b.Phone)
}
