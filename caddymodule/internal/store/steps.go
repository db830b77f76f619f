package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// maxKept bounds a kept value, in bytes: what every database's {blob} takes,
// sealed.
const maxKept = 32 << 10

func keptPlace(step [32]byte) place { return place{"kept_steps", "value", string(step[:])} }

// Keep stores the result of a login's step, sealed, until expires. It
// overwrites.
func (s *Store) Keep(ctx context.Context, step [32]byte, value []byte, expires time.Time) error {
	if len(value) > maxKept {
		return fmt.Errorf("keeping a step: %d bytes are too many", len(value))
	}
	return s.rewrite(ctx, "keeping a step", func(t *tx) error {
		_, err := t.exec(`INSERT INTO {kept_steps} (step, value, expires_at) VALUES (?, ?, ?)
			ON CONFLICT (step) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at`,
			step[:], s.keys.Load().seal(keptPlace(step), value), millis(expires))
		return err
	})
}

// Kept reads what [Store.Keep] stored; false if it has expired or was never
// there.
func (s *Store) Kept(ctx context.Context, step [32]byte, now time.Time) (value []byte, ok bool, err error) {
	err = s.read(ctx, "reading a kept step", func(t *tx) error {
		var sealed []byte
		err := t.row(`SELECT value FROM {kept_steps} WHERE step = ? AND expires_at > ?`, step[:], millis(now)).Scan(&sealed)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		value, err = s.keys.Load().open(keptPlace(step), sealed)
		ok = err == nil
		return err
	})
	return value, ok, err
}

// Forget erases a kept step.
func (s *Store) Forget(ctx context.Context, step [32]byte) error {
	return s.rewrite(ctx, "forgetting a step", func(t *tx) error {
		_, err := t.exec(`DELETE FROM {kept_steps} WHERE step = ?`, step[:])
		return err
	})
}

// Claim marks a step as in flight by owner until lease; a claim of one's own is
// prolonged. False: another owner's claim is live.
func (s *Store) Claim(ctx context.Context, step [32]byte, owner string, now, lease time.Time) (claimed bool, err error) {
	err = s.rewrite(ctx, "claiming a step", func(t *tx) error {
		n, err := t.exec(`UPDATE {claimed_steps} SET owner = ?, lease_until = ? WHERE step = ? AND (owner = ? OR lease_until <= ?)`,
			owner, millis(lease), step[:], owner, millis(now))
		if err == nil && n == 0 {
			n, err = t.exec(`INSERT OR IGNORE INTO {claimed_steps} (step, owner, lease_until) VALUES (?, ?, ?)`, step[:], owner, millis(lease))
		}
		claimed = n == 1
		return err
	})
	return claimed && err == nil, err
}

// Release ends a claim, if it is still owner's.
func (s *Store) Release(ctx context.Context, step [32]byte, owner string) error {
	return s.rewrite(ctx, "releasing a step", func(t *tx) error {
		_, err := t.exec(`DELETE FROM {claimed_steps} WHERE step = ? AND owner = ?`, step[:], owner)
		return err
	})
}
