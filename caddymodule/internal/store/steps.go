package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
)

// maxKept bounds a kept value, in bytes: what every database's {blob} takes,
// sealed.
const maxKept = 32 << 10

func keptPlace(step login.Key) place { return place{"kept_steps", "value", string(step[:])} }

// Keep stores the result of a login's step, sealed, until expires. It
// overwrites, and ends whoever's claim there is: the step is done.
func (s *Store) Keep(ctx context.Context, step login.Key, value []byte, expires time.Time) error {
	if len(value) > maxKept {
		return fmt.Errorf("keeping a step: %d bytes are too many", len(value))
	}
	return s.rewrite(ctx, "keeping a step", func(t *tx) error {
		if err := s.keepStep(t, step, value, expires); err != nil {
			return err
		}
		_, err := t.exec(`DELETE FROM {claimed_steps} WHERE step = ?`, step[:])
		return err
	})
}

func (s *Store) keepStep(t *tx, step login.Key, value []byte, expires time.Time) error {
	_, err := t.exec(`INSERT INTO {kept_steps} (step, value, expires_at) VALUES (?, ?, ?)
		ON CONFLICT (step) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at`,
		step[:], s.keys.Load().seal(keptPlace(step), value), millis(expires))
	return err
}

// Kept reads what [Store.Keep] stored; false if it has expired or was never
// there.
func (s *Store) Kept(ctx context.Context, step login.Key, now time.Time) (value []byte, ok bool, err error) {
	err = s.read(ctx, "reading a kept step", func(t *tx) (err error) {
		value, ok, err = s.keptStep(t, step, now)
		return err
	})
	return value, ok && err == nil, err
}

func (s *Store) keptStep(t *tx, step login.Key, now time.Time) (value []byte, ok bool, err error) {
	var sealed []byte
	err = t.row(`SELECT value FROM {kept_steps} WHERE step = ? AND expires_at > ?`, step[:], millis(now)).Scan(&sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err == nil {
		value, err = s.keys.Load().open(keptPlace(step), sealed)
	}
	return value, err == nil, err
}

// changeStep gives a step that is kept another result, which is kept until expires at
// least.
func (s *Store) changeStep(t *tx, step login.Key, value []byte, expires time.Time) error {
	_, err := t.exec(`UPDATE {kept_steps} SET value = ?, expires_at = CASE WHEN expires_at < ? THEN ? ELSE expires_at END WHERE step = ?`,
		s.keys.Load().seal(keptPlace(step), value), millis(expires), millis(expires), step[:])
	return err
}

// Claim gives a step to owner, for as long as lease, unless its result is kept.
// The lease is by the database's clock, which all replicas share. One's own
// claim is prolonged.
//
// A claim need not outlive a power cut, which ends what its owner was doing.
//
// A result that was kept after the claim cannot be missed: it is looked for with
// the claim in hand, and whoever keeps one takes the claim away with it.
func (s *Store) Claim(ctx context.Context, step login.Key, owner string, now time.Time, lease time.Duration) (c login.Claim, err error) {
	err = s.change(ctx, "claiming a step", again, light, func(t *tx) error {
		c = login.Claim{}
		if t.db.dialect.oneWriter {
			// Nobody writes between what this statement reads and what it writes.
			n, err := t.exec(`INSERT INTO {claimed_steps} (step, owner, lease_until) SELECT ?, ?, {now} + ?
				WHERE NOT EXISTS (SELECT 1 FROM {kept_steps} WHERE step = ? AND expires_at > ?)
				ON CONFLICT (step) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until
				WHERE owner = excluded.owner OR lease_until <= {now}`,
				step[:], owner, lease.Milliseconds(), step[:], millis(now))
			if c.Ours = n > 0; err != nil || c.Ours {
				return err
			}
			c.Value, c.Kept, err = s.keptStep(t, step, now)
			return err
		}
		n, err := t.exec(`UPDATE {claimed_steps} SET owner = ?, lease_until = {now} + ? WHERE step = ? AND (owner = ? OR lease_until <= {now})`,
			owner, lease.Milliseconds(), step[:], owner)
		if err == nil && n == 0 {
			n, err = t.exec(`INSERT OR IGNORE INTO {claimed_steps} (step, owner, lease_until) VALUES (?, ?, {now} + ?)`,
				step[:], owner, lease.Milliseconds())
		}
		if err != nil {
			return err
		}
		if c.Value, c.Kept, err = s.keptStep(t, step, now); err != nil || !c.Kept {
			c.Ours = n > 0
			return err
		}
		_, err = t.exec(`DELETE FROM {claimed_steps} WHERE step = ?`, step[:])
		return err
	})
	if err != nil {
		return login.Claim{}, err
	}
	return c, nil
}

// Prolong renews owner's claim, if it still is one; a claim that has ended is
// not taken again.
func (s *Store) Prolong(ctx context.Context, step login.Key, owner string, lease time.Duration) error {
	return s.change(ctx, "prolonging a claim", again, light, func(t *tx) error {
		_, err := t.exec(`UPDATE {claimed_steps} SET lease_until = {now} + ? WHERE step = ? AND owner = ?`, lease.Milliseconds(), step[:], owner)
		return err
	})
}

// Release ends a claim, if it is still owner's.
func (s *Store) Release(ctx context.Context, step login.Key, owner string) error {
	return s.change(ctx, "releasing a step", again, light, func(t *tx) error {
		_, err := t.exec(`DELETE FROM {claimed_steps} WHERE step = ? AND owner = ?`, step[:], owner)
		return err
	})
}
