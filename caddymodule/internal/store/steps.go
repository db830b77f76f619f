package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
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
		step[:], s.keys.Load().seal(keptPlace(step), value), t.db.millis(expires))
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
	err = t.row(`SELECT value FROM {kept_steps} WHERE step = ? AND expires_at > ?`, step[:], t.db.millis(now)).Scan(&sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err == nil {
		value, err = s.keys.Load().open(keptPlace(step), sealed)
	}
	return value, err == nil, err
}

// Claim gives a step to owner, for as long as lease, unless its result is kept.
// The lease is by the database's clock, which all replicas share. One's own
// claim is prolonged. It also records when the step's code, and those of further
// steps, were first seen.
//
// A claim need not outlive a power cut, which ends what its owner was doing.
//
// A result that was kept after the claim cannot be missed: it is looked for with
// the claim in hand, and whoever keeps one takes the claim away with it.
func (s *Store) Claim(ctx context.Context, step login.Key, owner string, now time.Time, lease time.Duration, further ...login.Key) (c login.Claim, err error) {
	err = s.change(ctx, "claiming a step", again, light, func(t *tx) error {
		c = login.Claim{}
		if t.db.dialect.oneWriter {
			return s.claimAlone(t, &c, step, owner, now, lease, further)
		}
		// This records when the codes were first seen. The next statement decides whose
		// the step is.
		args := []any{step[:], owner, lease.Milliseconds()}
		for _, f := range further {
			args = append(args, f[:])
		}
		if _, err := t.exec(`INSERT INTO {claimed_steps} (step, owner, lease_until, seen_at) VALUES (?, ?, {now} + ?, {now})`+
			strings.Repeat(`, (?, '', {now}, {now})`, len(further))+`
			ON CONFLICT (step) DO UPDATE SET step = excluded.step`, args...); err != nil {
			return err
		}
		n, err := t.exec(`UPDATE {claimed_steps} SET owner = ?, lease_until = {now} + ? WHERE step = ? AND (owner = ? OR lease_until <= {now})`,
			owner, lease.Milliseconds(), step[:], owner)
		if err != nil {
			return err
		}
		if err := s.claimedStep(t, &c, step, now); err != nil || !c.Kept {
			c.Ours = n > 0
			return err
		}
		c.Seen = time.Time{}
		_, err = t.exec(`DELETE FROM {claimed_steps} WHERE step = ?`, step[:])
		return err
	})
	if err != nil {
		return login.Claim{}, err
	}
	return c, nil
}

// claimAlone is Claim where nobody writes between what a statement reads and what it
// writes.
func (s *Store) claimAlone(t *tx, c *login.Claim, step login.Key, owner string, now time.Time, lease time.Duration, further []login.Key) error {
	var seen int64
	err := t.row(`INSERT INTO {claimed_steps} (step, owner, lease_until, seen_at) SELECT ?, ?, {now} + ?, {now}
		WHERE NOT EXISTS (SELECT 1 FROM {kept_steps} WHERE step = ? AND expires_at > ?)
		ON CONFLICT (step) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until
		WHERE owner = excluded.owner OR lease_until <= {now} RETURNING seen_at`,
		step[:], owner, lease.Milliseconds(), step[:], t.db.millis(now)).Scan(&seen)
	if errors.Is(err, sql.ErrNoRows) {
		c.Value, c.Kept, err = s.keptStep(t, step, now)
		return err
	}
	c.Ours, c.Seen = err == nil, databaseTime(seen)
	for _, f := range further {
		if err == nil {
			_, err = t.exec(`INSERT OR IGNORE INTO {claimed_steps} (step, owner, lease_until, seen_at) SELECT ?, '', {now}, {now}
				WHERE NOT EXISTS (SELECT 1 FROM {kept_steps} WHERE step = ? AND expires_at > ?)`, f[:], f[:], t.db.millis(now))
		}
	}
	return err
}

// claimedStep reads the result of a step, and when its code was first seen.
func (s *Store) claimedStep(t *tx, c *login.Claim, step login.Key, now time.Time) error {
	var sealed []byte
	err := t.each(func(r *sql.Rows) error {
		var value []byte
		var kept bool
		var seen int64
		err := r.Scan(&kept, &value, &seen)
		if kept {
			c.Kept, sealed = true, value
		} else {
			c.Seen = databaseTime(seen)
		}
		return err
	}, `SELECT 1, value, 0 FROM {kept_steps} WHERE step = ? AND expires_at > ?
		UNION ALL SELECT 0, NULL, seen_at FROM {claimed_steps} WHERE step = ?`, step[:], t.db.millis(now), step[:])
	if err == nil && c.Kept {
		c.Value, err = s.keys.Load().open(keptPlace(step), sealed)
	}
	return err
}

// Prolong renews owner's claim, if it still is one; a claim that has ended is
// not taken again.
func (s *Store) Prolong(ctx context.Context, step login.Key, owner string, lease time.Duration) error {
	return s.change(ctx, "prolonging a claim", again, light, func(t *tx) error {
		_, err := t.exec(`UPDATE {claimed_steps} SET lease_until = {now} + ? WHERE step = ? AND owner = ?`, lease.Milliseconds(), step[:], owner)
		return err
	})
}

// Release ends a claim, if it is still owner's. When its code was first seen stays
// known: a login that is tried again begins no later.
func (s *Store) Release(ctx context.Context, step login.Key, owner string) error {
	return s.change(ctx, "releasing a step", again, light, func(t *tx) error {
		_, err := t.exec(`UPDATE {claimed_steps} SET owner = '', lease_until = {now} WHERE step = ? AND owner = ?`, step[:], owner)
		return err
	})
}

// databaseTime is a time by the database's clock, and stays one: it is kept with the
// results of steps, which replicas with other clocks read.
func databaseTime(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
