package store

import (
	"context"
	"fmt"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

const signingKeyColumns = `id, algorithm, generation, private_key, created_at, signs_from, retired_at`

func signingKeyPlace(id string) place { return place{"signing_keys", "private_key", id} }

// Keys reads all signing keys, by algorithm and generation.
func (s *Store) Keys(ctx context.Context) (list []token.StoredKey, err error) {
	err = s.sql.Read(ctx, "reading the signing keys", func(t *sqldb.Tx) error {
		list = nil
		return t.Each(func(r sqldb.Row) error {
			var k token.StoredKey
			var sealed []byte
			var created, signs, retired int64
			if err := r.Scan(&k.ID, &k.Algorithm, &k.Generation, &sealed, &created, &signs, &retired); err != nil {
				return err
			}
			private, err := s.keys.Load().open(signingKeyPlace(k.ID), sealed)
			if err != nil {
				return fmt.Errorf("signing key %s: %w", k.ID, err)
			}
			k.Private = private
			k.CreatedAt, k.SignsFrom, k.RetiredAt = s.db.fromMillis(created), s.db.fromMillis(signs), s.db.fromMillis(retired)
			list = append(list, k)
			return nil
		}, `SELECT `+signingKeyColumns+` FROM {signing_keys} ORDER BY algorithm, generation`)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// AddKey stores a signing key. It returns false if there already is a key with this id, or with
// this algorithm and generation.
func (s *Store) AddKey(ctx context.Context, k token.StoredKey) (added bool, err error) {
	err = s.sql.Write(ctx, "adding a signing key", func(t *sqldb.Tx) error {
		n, err := t.Exec(`INSERT OR IGNORE INTO {signing_keys} (`+signingKeyColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			k.ID, string(k.Algorithm), k.Generation, s.keys.Load().seal(signingKeyPlace(k.ID), k.Private),
			s.db.millis(k.CreatedAt), s.db.millis(k.SignsFrom), s.db.millis(k.RetiredAt))
		added = n == 1
		return err
	})
	return added && err == nil, err
}

// RemoveKeys deletes signing keys. It ignores unknown ids.
func (s *Store) RemoveKeys(ctx context.Context, ids []string) error {
	return s.sql.Rewrite(ctx, "removing signing keys", func(t *sqldb.Tx) error {
		for _, id := range ids {
			if _, err := t.Exec(`DELETE FROM {signing_keys} WHERE id = ?`, id); err != nil {
				return err
			}
		}
		return nil
	})
}
