package store

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Rekey describes a change of the encryption key.
type Rekey struct {
	// Sessions is the maximum lifetime of sessions. Their refresh tokens stay valid for so long
	// after the change, even if the old key is no longer configured.
	Sessions time.Duration
	// Compromised is set if somebody else has the old key. Then nothing derived from it is kept,
	// and its refresh tokens become invalid.
	Compromised bool
	// Progress is called repeatedly with the number of values processed.
	Progress func(seen int)
}

// sealedColumn is a column of sealed values, with the columns that identify the place of a value.
type sealedColumn struct {
	table, column string
	key           string // the primary key, or the second part of it if within is set
	within        string // the first part of a primary key of two columns
	more          string // a further column that is part of the place
	place         func(within, key, more string) place
}

func byKey(of func(string) place) func(_, key, _ string) place {
	return func(_, key, _ string) place { return of(key) }
}

var sealedColumns = []sealedColumn{
	{table: "users", column: "phone", key: "id", place: byKey(phonePlace)},
	{table: "bindings", column: "phone", within: "appid", key: "openid", more: "user_id", place: func(appid, openid, userID string) place {
		return bindingPhonePlace(user.Binding{AppID: appid, OpenID: openid, UserID: userID})
	}},
	{table: "signing_keys", column: "private_key", key: "id", place: byKey(signingKeyPlace)},
	{table: "access_tokens", column: "token", key: "appid", place: byKey(accessTokenPlace)},
	{table: "kept_steps", column: "value", key: "step", place: byKey(func(step string) place { return place{"kept_steps", "value", step} })},
}

const rekeyBatch = 500

// Rekey takes all values that were sealed with an older key, and seals them with the newest one, in
// small transactions. Replicas keep working meanwhile. If a call is interrupted, the next one
// continues. Once Rekey has returned, the old keys need no longer be configured; until then they
// must be. Rekey also removes the entries of keys that are not configured from the index of phone
// numbers. It returns the number of values sealed.
//
// Before Rekey is called, every replica must have the new key, at least as an old one. A replica
// without it cannot read the values that Rekey seals.
func (s *Store) Rekey(ctx context.Context, r Rekey) (sealed int, err error) {
	if err := s.Open(ctx); err != nil {
		return 0, err
	}
	if s.configured == nil {
		return 0, fmt.Errorf("the key of this store is generated: to change it, write encryption_key <new> {file.%s}", s.db.KeyFile())
	}
	seen := 0
	count := func(n int) {
		seen += n
		if r.Progress != nil {
			r.Progress(seen)
		}
	}
	for _, c := range sealedColumns {
		n, err := s.reseal(ctx, c, count)
		sealed += n
		if err != nil {
			return sealed, err
		}
	}
	n, err := s.rekeyMeta(ctx, r)
	sealed += n
	if err != nil {
		return sealed, err
	}
	return sealed, s.tidyPhones(ctx, count)
}

// sealedRow is a row with a sealed value.
type sealedRow struct {
	key, more string
	value     []byte
}

// reseal seals the values of one column with the newest key.
func (s *Store) reseal(ctx context.Context, c sealedColumn, count func(int)) (sealed int, err error) {
	within := []string{""}
	if c.within != "" {
		err := s.sql.Read(ctx, "reading what is sealed", func(t *sqldb.Tx) (err error) {
			within, err = t.Strings(`SELECT DISTINCT ` + c.within + ` FROM {` + c.table + `}`)
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	for _, first := range within {
		for last, more := any(nil), true; more; {
			rows, err := s.sealedRows(ctx, c, first, last)
			if err != nil {
				return sealed, err
			}
			n, err := s.resealRows(ctx, c, first, rows)
			sealed += n
			if err != nil {
				return sealed, err
			}
			count(len(rows))
			if more = len(rows) == rekeyBatch; more {
				last = c.param(rows[len(rows)-1].key)
			}
		}
	}
	return sealed, nil
}

// param returns a primary key as a parameter of a statement. The keys of steps are bytes.
func (c sealedColumn) param(key string) any {
	if c.key == "step" {
		return []byte(key)
	}
	return key
}

// sealedRows reads the rows after last, which is nil for the first batch.
func (s *Store) sealedRows(ctx context.Context, c sealedColumn, first string, last any) (rows []sealedRow, err error) {
	more := c.more
	if more == "" {
		more = "''"
	}
	var where []string
	var args []any
	if c.within != "" {
		where, args = append(where, c.within+" = ?"), append(args, first)
	}
	if last != nil {
		where, args = append(where, c.key+" > ?"), append(args, last)
	}
	query := `SELECT ` + c.key + `, ` + more + `, ` + c.column + ` FROM {` + c.table + `}`
	if len(where) > 0 {
		query += ` WHERE ` + strings.Join(where, " AND ")
	}
	err = s.sql.Read(ctx, "reading what is sealed", func(t *sqldb.Tx) error {
		rows = nil
		return t.Each(func(r sqldb.Row) error {
			var row sealedRow
			if err := r.Scan((*keyText)(&row.key), &row.more, &row.value); err != nil {
				return err
			}
			rows = append(rows, row)
			return nil
		}, query+` ORDER BY `+c.key+` LIMIT ?`, append(args, rekeyBatch)...)
	})
	return rows, err
}

// resealRows seals the values of rows with the newest key. It skips values that a replica has
// changed meanwhile, because the replica has sealed them with its own newest key.
func (s *Store) resealRows(ctx context.Context, c sealedColumn, first string, rows []sealedRow) (sealed int, err error) {
	keys := s.keys.Load()
	err = s.sql.Rewrite(ctx, "sealing again", func(t *sqldb.Tx) error {
		sealed = 0
		for _, row := range rows {
			if len(row.value) == 0 || keys.newest(row.value) {
				continue
			}
			at := c.place(first, row.key, row.more)
			value, err := keys.open(at, row.value)
			if err != nil {
				return err
			}
			where, args := c.key+" = ?", []any{keys.seal(at, value), c.param(row.key)}
			if c.within != "" {
				where, args = where+" AND "+c.within+" = ?", append(args, first)
			}
			n, err := t.Exec(`UPDATE {`+c.table+`} SET `+c.column+` = ? WHERE `+where+` AND `+c.column+` = ?`, append(args, row.value)...)
			if err != nil {
				return err
			}
			if n == 0 {
				continue
			}
			if c.table == "users" {
				if err := s.indexPhone(t, row.key, value); err != nil {
					return err
				}
			}
			sealed++
		}
		return nil
	})
	if errors.Is(err, ErrKey) {
		err = fmt.Errorf("%w: add that key to encryption_key as an old one, and run the command again", err)
	}
	return sealed, err
}

// newest reports whether the newest key sealed the value.
func (k *Keys) newest(sealed []byte) bool {
	id := k.keys[0].id
	return len(sealed) > 1+len(id) && sealed[0] == sealVersion && [4]byte(sealed[1:1+len(id)]) == id
}

// indexPhone enters a user's number into the index under each configured key. The user's row must
// be locked, so that the user cannot be erased meanwhile.
func (s *Store) indexPhone(t *sqldb.Tx, userID string, text []byte) error {
	country, national, _ := strings.Cut(string(text), " ")
	number := user.Phone{Country: country, National: national}
	if number.IsZero() {
		return nil // the user is detached
	}
	keys := s.keys.Load()
	for i, hash := range keys.phoneHashes(number.E164()) {
		if _, err := t.Exec(`INSERT OR IGNORE INTO {user_phones} (phone_hash, key_id, user_id) VALUES (?, ?, ?)`,
			hash, keys.keys[i].id[:], userID); err != nil {
			return err
		}
	}
	return nil
}

// rekeyMeta seals the values of meta, including the key check, with the newest key. It comes last,
// because the key check decides to which key the database belongs.
func (s *Store) rekeyMeta(ctx context.Context, r Rekey) (sealed int, err error) {
	keys := s.keys.Load()
	until := s.db.opts.Now().Add(r.Sessions)
	err = s.sql.Rewrite(ctx, "changing the key", func(t *sqldb.Tx) error {
		sealed = 0
		rows := make(map[string][]byte)
		if err := eachSealedMeta(t, func(name string, value []byte) { rows[name] = value }); err != nil {
			return err
		}
		for name, value := range rows {
			if r.Compromised && name != keyCheckName {
				if _, err := t.Exec(`DELETE FROM {meta} WHERE name = ?`, name); err != nil {
					return err
				}
				continue
			}
			if keys.newest(value) {
				continue
			}
			at := place{"meta", "value", name}
			text, err := keys.open(at, value)
			if err != nil {
				return err
			}
			if _, err := t.Exec(`UPDATE {meta} SET value = ? WHERE name = ?`, keys.seal(at, text), name); err != nil {
				return err
			}
			sealed++
		}
		if r.Compromised {
			return nil
		}
		for _, d := range keys.keys[1:] {
			name := retainedPrefix + hex.EncodeToString(d.id[:])
			if _, err := t.Exec(`INSERT OR IGNORE INTO {meta} (name, value) VALUES (?, ?)`,
				name, keys.seal(place{"meta", "value", name}, d.retained(until))); err != nil {
				return err
			}
		}
		return nil
	})
	return sealed, err
}

// keyText scans a primary key that is text or bytes.
type keyText string

// Scan implements sql.Scanner.
func (k *keyText) Scan(v any) error {
	switch v := v.(type) {
	case string:
		*k = keyText(v)
	case []byte:
		*k = keyText(v)
	default:
		return fmt.Errorf("a key is %T", v)
	}
	return nil
}

// retainedPrefix starts the names of rows in meta that hold the sealed remains of former keys: the
// keys for refresh tokens, and for the sealed claims in tokens.
const retainedPrefix = "retained_key "

// eachSealedMeta reads the sealed values of meta.
func eachSealedMeta(t *sqldb.Tx, do func(name string, value []byte)) error {
	return t.Each(func(r sqldb.Row) error {
		var name string
		var value []byte
		err := r.Scan(&name, &value)
		do(name, value)
		return err
	}, `SELECT name, value FROM {meta} WHERE name = ? OR name LIKE ?`, keyCheckName, retainedPrefix+"%")
}

const retainedSize = 8 + 2*encryptionKeySize

// retained returns the value of such a row, with the time until which it is valid.
func (d derived) retained(until time.Time) []byte {
	out := binary.BigEndian.AppendUint64(nil, uint64(until.UnixMilli()))
	return append(append(out, d.refreshMAC...), d.claimSeal...)
}

// withRetained returns the keys together with the retained former ones that are still valid.
func (k *Keys) withRetained(t *sqldb.Tx, now time.Time) (*Keys, error) {
	rows := make(map[string][]byte)
	if err := eachSealedMeta(t, func(name string, value []byte) { rows[name] = value }); err != nil {
		return nil, err
	}
	all := &Keys{keys: k.keys}
	for name, value := range rows {
		if name == keyCheckName {
			continue
		}
		text, err := k.open(place{"meta", "value", name}, value)
		if err != nil || len(text) != retainedSize {
			return nil, sqldb.Permanent(fmt.Errorf("meta.value of %s: %w", name, errors.Join(errSealed, err)))
		}
		if time.UnixMilli(int64(binary.BigEndian.Uint64(text))).After(now) {
			all.former = append(all.former, derived{refreshMAC: text[8:][:encryptionKeySize], claimSeal: text[8+encryptionKeySize:]})
		}
	}
	return all, nil
}

// tidyPhones removes entries from the index of phone numbers if their key is not configured.
func (s *Store) tidyPhones(ctx context.Context, count func(int)) error {
	configured := make(map[string]bool)
	for _, d := range s.keys.Load().keys {
		configured[string(d.id[:])] = true
	}
	for last, more := []byte{}, true; more; {
		var gone [][]byte
		var next []byte
		n := 0
		err := s.sql.Read(ctx, "reading the index of phone numbers", func(t *sqldb.Tx) error {
			gone, n = nil, 0
			return t.Each(func(r sqldb.Row) error {
				var hash, keyID []byte
				if err := r.Scan(&hash, &keyID); err != nil {
					return err
				}
				if !configured[string(keyID)] {
					gone = append(gone, hash)
				}
				next = hash
				n++
				return nil
			}, `SELECT phone_hash, key_id FROM {user_phones} WHERE phone_hash > ? ORDER BY phone_hash LIMIT ?`, last, rekeyBatch)
		})
		if err == nil && len(gone) > 0 {
			err = s.sql.Rewrite(ctx, "tidying the index of phone numbers", func(t *sqldb.Tx) error {
				for _, hash := range gone {
					if _, err := t.Exec(`DELETE FROM {user_phones} WHERE phone_hash = ?`, hash); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err != nil {
			return err
		}
		count(n)
		last, more = next, n == rekeyBatch
	}
	return nil
}
