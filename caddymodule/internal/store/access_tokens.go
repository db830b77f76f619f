package store

import (
	"context"
	"database/sql"
	"errors"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"time"
)

// The methods in this file share WeChat's classic access tokens between replicas. They are those of
// wechat.SharedTokens, with the parts of a token as separate values, because this package does not
// import wechat.

func accessTokenPlace(appid string) place { return place{"access_tokens", "token", appid} }

// LoadToken returns an app's stored access token, when it was fetched, and when it expires. ok is
// false if there is none.
func (s *Store) LoadToken(ctx context.Context, appid string) (value string, fetched, expires time.Time, ok bool, err error) {
	err = s.sql.Read(ctx, "reading an access token", func(t *sqldb.Tx) error {
		var sealed []byte
		var fetchedAt, expiresAt int64
		err := t.Row(`SELECT token, fetched_at, expires_at FROM {access_tokens} WHERE appid = ?`, appid).Scan(&sealed, &fetchedAt, &expiresAt)
		if errors.Is(err, sql.ErrNoRows) || err == nil && len(sealed) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		opened, err := s.keys.Load().open(accessTokenPlace(appid), sealed)
		if err != nil {
			return err
		}
		value, fetched, expires, ok = string(opened), s.db.fromMillis(fetchedAt), s.db.fromMillis(expiresAt), true
		return nil
	})
	return value, fetched, expires, ok, err
}

// StoreToken seals an access token and stores it in place of the previous one.
func (s *Store) StoreToken(ctx context.Context, appid, value string, fetched, expires time.Time) error {
	return s.sql.Rewrite(ctx, "storing an access token", func(t *sqldb.Tx) error {
		_, err := t.Exec(`INSERT INTO {access_tokens} (appid, token, fetched_at, expires_at, owner, lease_until) VALUES (?, ?, ?, ?, '', 0)
			ON CONFLICT (appid) DO UPDATE SET token = excluded.token, fetched_at = excluded.fetched_at, expires_at = excluded.expires_at`,
			appid, s.keys.Load().seal(accessTokenPlace(appid), []byte(value)), s.db.millis(fetched), s.db.millis(expires))
		return err
	})
}

// LeaseToken gives owner the right to fetch the app's next access token, up to the time until.
// leased is false if another owner has a lease that is still valid at now.
func (s *Store) LeaseToken(ctx context.Context, appid, owner string, now, until time.Time) (leased bool, err error) {
	err = s.sql.Rewrite(ctx, "leasing an access token", func(t *sqldb.Tx) error {
		n, err := t.Exec(`UPDATE {access_tokens} SET owner = ?, lease_until = ? WHERE appid = ? AND (owner = ? OR lease_until <= ?)`,
			owner, s.db.millis(until), appid, owner, s.db.millis(now))
		if err == nil && n == 0 {
			n, err = t.Exec(`INSERT OR IGNORE INTO {access_tokens} (appid, token, fetched_at, expires_at, owner, lease_until) VALUES (?, ?, 0, 0, ?, ?)`,
				appid, []byte{}, owner, s.db.millis(until))
		}
		leased = n == 1
		return err
	})
	return leased && err == nil, err
}

// ReleaseToken ends the lease if owner has it.
func (s *Store) ReleaseToken(ctx context.Context, appid, owner string) error {
	return s.sql.Rewrite(ctx, "releasing an access token", func(t *sqldb.Tx) error {
		_, err := t.Exec(`UPDATE {access_tokens} SET owner = '', lease_until = 0 WHERE appid = ? AND owner = ?`, appid, owner)
		return err
	})
}
