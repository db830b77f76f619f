package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
)

// compromisedBatch is how many rows change in one transaction. Each batch is two
// statements whatever its size.
const compromisedBatch = 2000

// Abandon makes a stolen copy of the database and its key useless. It ends all sessions, because a
// thief could make refresh tokens for them. It deletes WeChat's access tokens, and the results of
// login steps, which contain personal data. If a call is interrupted, the next one continues.
// progress is called repeatedly with the number of rows processed.
//
// The sessions get no entry in the feed: their tokens become invalid when the caller replaces the
// signing keys afterwards.
func (s *Store) Abandon(ctx context.Context, progress func(seen int)) (sessions int, err error) {
	if err := s.Open(ctx); err != nil {
		return 0, err
	}
	seen := 0
	count := func(n int) {
		seen += n
		if progress != nil {
			progress(seen)
		}
	}
	if sessions, err = s.endEverySession(ctx, count); err != nil {
		return sessions, err
	}
	for _, table := range []struct{ name, key string }{{"{kept_steps}", "step"}, {"{access_tokens}", "appid"}} {
		if err := s.empty(ctx, table.name, table.key, count); err != nil {
			return sessions, err
		}
	}
	return sessions, nil
}

// endEverySession ends the sessions in the order of their ids. New sessions come last in this
// order, so it ends when it has caught up with the logins.
func (s *Store) endEverySession(ctx context.Context, count func(int)) (ended int, err error) {
	for last, more := "", true; more; {
		var to sql.NullString
		var rows int
		err := s.sql.Read(ctx, "reading the sessions", func(t *sqldb.Tx) error {
			return t.Row(`SELECT MAX(id), COUNT(*) FROM (SELECT id FROM {sessions} WHERE id > ? ORDER BY id LIMIT ?) AS batch`,
				last, compromisedBatch).Scan(&to, &rows)
		})
		if err != nil || rows == 0 {
			return ended, err
		}
		var n int64
		err = s.sql.Rewrite(ctx, "ending the sessions", func(t *sqldb.Tx) (err error) {
			n, err = t.Exec(`UPDATE {sessions} SET ended_at = {now}, end_reason = ? WHERE id > ? AND id <= ? AND ended_at = 0`,
				string(session.ReasonRevoked), last, to.String)
			return err
		})
		if err != nil {
			return ended, err
		}
		ended += int(n)
		count(rows)
		last, more = to.String, rows == compromisedBatch
	}
	return ended, nil
}

// empty deletes all rows of a table.
func (s *Store) empty(ctx context.Context, table, key string, count func(int)) error {
	query := `DELETE FROM ` + table + ` LIMIT ?`
	if !s.db.sql.Dialect.DeleteLimit {
		query = `DELETE FROM ` + table + ` WHERE ` + key + ` IN (SELECT ` + key + ` FROM ` + table + ` LIMIT ?)`
	}
	for {
		var n int64
		err := s.sql.Rewrite(ctx, "emptying a table", func(t *sqldb.Tx) (err error) {
			n, err = t.Exec(query, compromisedBatch)
			return err
		})
		if err != nil {
			return err
		}
		count(int(n))
		if n < compromisedBatch {
			return nil
		}
	}
}

// distrustedPrefix starts the names, in meta, of configured signing keys that have to be replaced
// because the encryption key is compromised.
const distrustedPrefix = "distrusted "

// Distrust takes the ids of the configured signing keys, and returns those that have to be replaced
// first. Its first call records all keys and returns them. Later calls return the keys that were
// recorded and are still configured.
func (s *Store) Distrust(ctx context.Context, kids []string) (unchanged []string, err error) {
	err = s.sql.Rewrite(ctx, "noting compromised keys", func(t *sqldb.Tx) error {
		unchanged = nil
		known, err := t.Strings(`SELECT name FROM {meta} WHERE name LIKE ?`, distrustedPrefix+"%")
		if err != nil {
			return err
		}
		for _, kid := range kids {
			err := t.Row(`SELECT 1 FROM {meta} WHERE name = ?`, distrustedPrefix+kid).Scan(new(int))
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			if err == nil || len(known) == 0 {
				unchanged = append(unchanged, kid)
			}
			if err != nil && len(known) == 0 {
				if _, err := t.Exec(`INSERT INTO {meta} (name, value) VALUES (?, ?)`, distrustedPrefix+kid, []byte("1")); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return unchanged, err
}

// Trust removes what Distrust has recorded.
func (s *Store) Trust(ctx context.Context) error {
	return s.sql.Rewrite(ctx, "forgetting compromised keys", func(t *sqldb.Tx) error {
		_, err := t.Exec(`DELETE FROM {meta} WHERE name LIKE ?`, distrustedPrefix+"%")
		return err
	})
}
