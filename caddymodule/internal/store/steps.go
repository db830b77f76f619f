package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
)

// maxKept bounds a kept value, in bytes: what every database's {blob} takes,
// sealed.
const maxKept = 32 << 10

func keptPlace(step login.Key) place { return place{"kept_steps", "value", string(step[:])} }

// Keep stores the result of a login's step, sealed, until expires. It overwrites, and ends
// the lease of the step, whoever has it: the step is done.
func (s *Store) Keep(ctx context.Context, step login.Key, value []byte, expires time.Time, next ...login.Account) error {
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

// Lease reads the results of steps, and leases those that have none to owner, for as long
// as life, unless another owner has a lease. Leases are by the database's clock, which all
// replicas share. Owner's own lease is renewed. Lease also notes when the steps' codes
// were first seen.
//
// A lease need not outlive a power cut, which ends what its owner was doing.
//
// A result that was kept after the lease was taken cannot be missed: the results are read
// with the lease in hand, and Keep ends the lease in the transaction that keeps a result.
func (s *Store) Lease(ctx context.Context, owner string, now time.Time, life time.Duration, steps ...login.Key) (found []login.Step, err error) {
	err = s.change(ctx, "leasing a step", again, light, func(t *tx) error {
		var args []any
		for _, step := range steps {
			args = append(args, step[:], owner, life.Milliseconds())
		}
		if _, err := t.exec(`INSERT INTO {claimed_steps} (step, owner, lease_until, seen_at) VALUES (?, ?, {now} + ?, {now})`+
			strings.Repeat(`, (?, ?, {now} + ?, {now})`, len(steps)-1)+`
			ON CONFLICT (step) DO UPDATE SET
				owner = CASE WHEN {claimed_steps}.lease_until <= {now} THEN excluded.owner ELSE {claimed_steps}.owner END,
				lease_until = CASE WHEN {claimed_steps}.lease_until <= {now} OR {claimed_steps}.owner = excluded.owner
					THEN excluded.lease_until ELSE {claimed_steps}.lease_until END`, args...); err != nil {
			return err
		}
		var done bool
		if found, done, err = s.readSteps(t, owner, now, steps); err != nil || !done {
			return err
		}
		in, keys := anyStep(steps)
		_, err := t.exec(`DELETE FROM {claimed_steps} WHERE step IN (SELECT step FROM {kept_steps} WHERE expires_at > ? AND step`+in+`)`,
			append([]any{t.db.millis(now)}, keys...)...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// readSteps reads what there is of steps: results, and leases. done reports whether one of
// them has a result.
func (s *Store) readSteps(t *tx, owner string, now time.Time, steps []login.Key) (found []login.Step, done bool, err error) {
	found = make([]login.Step, len(steps))
	in, keys := anyStep(steps)
	err = t.each(func(r *sql.Rows) error {
		var key, sealed []byte
		var owned string
		var kept, seen int64
		if err := r.Scan(&kept, &key, &sealed, &owned, &seen); err != nil {
			return err
		}
		i := slices.IndexFunc(steps, func(k login.Key) bool { return string(k[:]) == string(key) })
		if i < 0 {
			return nil
		}
		st := &found[i]
		if kept == 0 {
			st.Leased, st.Seen = owned == owner && !st.Kept, databaseTime(seen)
			return nil
		}
		value, err := s.keys.Load().open(keptPlace(steps[i]), sealed)
		*st, done = login.Step{Value: value, Kept: true}, true
		return err
	}, `SELECT 0, step, NULL, owner, seen_at FROM {claimed_steps} WHERE step`+in+`
		UNION ALL SELECT 1, step, value, '', 0 FROM {kept_steps} WHERE expires_at > ? AND step`+in,
		slices.Concat(keys, []any{t.db.millis(now)}, keys)...)
	return found, done, err
}

// anyStep is a condition for any of the steps, and its parameters.
func anyStep(steps []login.Key) (in string, args []any) {
	for _, step := range steps {
		args = append(args, step[:])
	}
	return ` IN (?` + strings.Repeat(", ?", len(steps)-1) + `)`, args
}

// Renew renews owner's leases. One that has ended is not taken again.
func (s *Store) Renew(ctx context.Context, owner string, life time.Duration, steps ...login.Key) error {
	return s.change(ctx, "renewing a lease", again, light, func(t *tx) error {
		in, keys := anyStep(steps)
		_, err := t.exec(`UPDATE {claimed_steps} SET lease_until = {now} + ? WHERE owner = ? AND step`+in, append([]any{life.Milliseconds(), owner}, keys...)...)
		return err
	})
}

// Release ends leases, if they are still owner's. When their codes were first seen stays
// known: a login that is tried again begins no later.
func (s *Store) Release(ctx context.Context, owner string, steps ...login.Key) error {
	return s.change(ctx, "releasing a step", again, light, func(t *tx) error {
		in, keys := anyStep(steps)
		_, err := t.exec(`UPDATE {claimed_steps} SET owner = '', lease_until = {now} WHERE owner = ? AND step`+in, append([]any{owner}, keys...)...)
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
