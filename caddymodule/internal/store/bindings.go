package store

import (
	"context"
	"database/sql"
	"errors"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

const bindingColumns = `appid, openid, unionid, user_id, phone_at, phone, state`

// scanBinding reads bindingColumns. Around them may be further columns: of two, one is
// before them and one behind.
func (s *Store) scanBinding(row interface{ Scan(...any) error }, around ...any) (b user.Binding, err error) {
	var phoneAt int64
	var sealed []byte
	columns := []any{&b.AppID, &b.OpenID, &b.UnionID, &b.UserID, &phoneAt, &sealed, &b.State}
	if len(around) == 2 {
		columns = append(append([]any{around[0]}, columns...), around[1])
	}
	if err = row.Scan(columns...); err != nil {
		return b, err
	}
	b.PhoneAt = s.db.fromMillis(phoneAt)
	if len(sealed) > 0 {
		b.Phone, err = s.openPhone(bindingPhonePlace(b), sealed)
		if errors.Is(err, ErrKey) {
			return b, nil // a copy, which the next phone login brings back
		}
	}
	return b, err
}

// bindingPhonePlace is for one user only: an openid that moves to another takes
// no number along.
func bindingPhonePlace(b user.Binding) place {
	return place{"bindings", "phone", b.AppID + " " + b.OpenID + " " + b.UserID}
}

// Binding returns the user that an openid is bound to.
func (s *Store) Binding(ctx context.Context, appid, openid string) (b user.Binding, found bool, err error) {
	err = s.read(ctx, "reading a binding", func(t *tx) (err error) {
		b, found, err = s.findBinding(t, `WHERE appid = ? AND openid = ?`, appid, openid)
		return err
	})
	return b, found && err == nil, err
}

func (s *Store) findBinding(t *tx, which string, args ...any) (user.Binding, bool, error) {
	b, err := s.scanBinding(t.row(`SELECT `+bindingColumns+` FROM {bindings} `+which, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return user.Binding{}, false, nil
	}
	return b, err == nil, err
}

// userStripes bounds how many users can log in at the same moment.
const userStripes = 256

// lockUser makes other transactions that lock this user, and some more, wait until
// this one ends. Two new openids of one user would otherwise not see each other, and
// both stay.
func lockUser(t *tx, id string) error { return lockUsers(t, map[string]bool{id: true}) }

func stripe(id string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(id))
	return h.Sum32() % userStripes
}

// lockUsers is lockUser for several, in an order in which two transactions that lock
// several never wait for each other.
func lockUsers(t *tx, ids map[string]bool) error {
	if t.db.dialect.oneWriter {
		return nil
	}
	var stripes []uint32
	for id := range ids {
		stripes = append(stripes, stripe(id))
	}
	slices.Sort(stripes)
	stripes = slices.Compact(stripes)
	const few = 2 // of a login: one statement
	for rest := range slices.Chunk(stripes, few) {
		args := []any{rest[0]}
		if len(rest) == few {
			args = append(args, rest[1])
		}
		// Creates the rows where they are missing, and locks them either way.
		if _, err := t.exec(`INSERT INTO {user_locks} (stripe) VALUES (?)`+strings.Repeat(`, (?)`, len(rest)-1)+`
			ON CONFLICT (stripe) DO UPDATE SET stripe = excluded.stripe`, args...); err != nil {
			return err
		}
	}
	return nil
}

// bindingPhone is what the column holds: nil where the directory tells numbers.
func (s *Store) bindingPhone(b user.Binding) []byte {
	if b.Phone.IsZero() {
		return nil
	}
	return s.sealPhone(bindingPhonePlace(b), b.Phone)
}
