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
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
)

// maxKept bounds a stored result in bytes. The sealed result must fit into every database's {blob}.
const maxKept = 32 << 10

func keptPlace(step login.Key) place { return place{"kept_steps", "value", string(step[:])} }

// Keep seals the result of a login step and stores it until expires. It also ends the step's lease,
// whoever owns it, because the step is done. If next is given, Keep reads in the same turnaround
// what the next call of Known will ask for.
//
// Keep overwrites an earlier result, except that of a login code that has opened a session. The
// write may be a repeated one, and come after the login of another replica.
func (s *Store) Keep(ctx context.Context, step login.Key, value []byte, expires time.Time, next ...login.Account) error {
	return s.keep(ctx, sqldb.Durable, step, value, expires, next...)
}

// KeepLight is like Keep, but a crash of the database may undo it until a durable write follows.
func (s *Store) KeepLight(ctx context.Context, step login.Key, value []byte, expires time.Time, next ...login.Account) error {
	return s.keep(ctx, sqldb.Light, step, value, expires, next...)
}

func (s *Store) keep(ctx context.Context, how sqldb.Durability, step login.Key, value []byte, expires time.Time, next ...login.Account) error {
	if len(value) > maxKept {
		return fmt.Errorf("keeping a step: %d bytes are too many", len(value))
	}
	ahead := s.readAhead(ctx)
	if ahead == nil || s.db.sql.Dialect.OneWriter {
		next = nil
	}
	r := new(accountReader)
	// Even a closed store accepts WeChat's answers to logins under way, because a move copies them
	// last.
	err := s.sql.Group(evenIfMoved(ctx), "keeping a step", how, &sqldb.Grouped{Statements: func(*sqldb.Tx) (writes, behind []sqldb.Statement, _ error) {
		if len(next) > 0 {
			r = s.accountReader(next[0])
			behind = r.questions()
		}
		return []sqldb.Statement{s.keepStep(step, value, expires), sqldb.OnRow(step[:], "?", sqldb.Say(`DELETE FROM {claimed_steps} WHERE step IN (?)`, step[:]))}, behind, nil
	}})
	if err != nil && len(next) > 0 && !errors.Is(err, ErrUnavailable) {
		return s.keep(ctx, how, step, value, expires) // the statement that failed may be one of those for next
	}
	if err == nil && len(next) > 0 && r.complete() {
		known := r.known()
		ahead.note(next[0], &known, r)
	}
	return err
}

func (s *Store) keepStep(step login.Key, value []byte, expires time.Time) sqldb.Statement {
	return s.keepOrSpend(step, value, expires, false)
}

// keepOrSpend stores the result of a step. If spent is set, the step is a login code that opens its
// session with this: the result stays, and for at least as long as the one before.
func (s *Store) keepOrSpend(step login.Key, value []byte, expires time.Time, spent bool) sqldb.Statement {
	return sqldb.OnRow(step[:], "(?, ?, ?, ?)", sqldb.Say(`INSERT INTO {kept_steps} (step, value, expires_at, spent) VALUES (?, ?, ?, ?)
		ON CONFLICT (step) DO UPDATE SET
			value = CASE WHEN {kept_steps}.spent = 1 THEN {kept_steps}.value ELSE excluded.value END,
			expires_at = CASE WHEN {kept_steps}.expires_at > excluded.expires_at AND ({kept_steps}.spent = 1 OR excluded.spent = 1)
				THEN {kept_steps}.expires_at ELSE excluded.expires_at END,
			spent = CASE WHEN {kept_steps}.spent = 1 THEN 1 ELSE excluded.spent END`,
		step[:], s.keys.Load().seal(keptPlace(step), value), s.db.millis(expires), flag(spent)))
}

// Kept returns a result that [Store.Keep] stored. It returns false if the result has expired or
// does not exist.
func (s *Store) Kept(ctx context.Context, step login.Key, now time.Time) (value []byte, ok bool, err error) {
	err = s.sql.Read(ctx, "reading a kept step", func(t *sqldb.Tx) (err error) {
		value, ok, err = s.keptStep(t, step, now)
		return err
	})
	return value, ok && err == nil, err
}

func (s *Store) keptStep(t *sqldb.Tx, step login.Key, now time.Time) (value []byte, ok bool, err error) {
	var sealed []byte
	err = t.Row(`SELECT value FROM {kept_steps} WHERE step = ? AND expires_at > ?`, step[:], s.db.millis(now)).Scan(&sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err == nil {
		value, err = s.keys.Load().open(keptPlace(step), sealed)
	}
	return value, err == nil, err
}

// Lease reads the results of steps. It leases the steps that have no result to owner, for the time
// life. If another owner has a lease on a step, that lease stays. If owner itself has one, it is
// renewed. Leases follow the database's clock, which all replicas share. Lease also records when
// the steps' codes were first seen.
//
// A lease need not survive a power cut, because that also ends its owner's work.
//
// A result that another owner stores meanwhile is not missed. Results are read after the lease was
// taken, and Keep ends the lease in the transaction that stores a result.
func (s *Store) Lease(ctx context.Context, owner string, now time.Time, life time.Duration, steps ...login.Key) (found []login.Step, err error) {
	err = s.sql.Group(ctx, "leasing a step", sqldb.Light, &sqldb.Grouped{Statements: func(*sqldb.Tx) (writes, _ []sqldb.Statement, _ error) {
		found = make([]login.Step, len(steps))
		return append(s.leaseSteps(owner, life, steps...), s.askSteps(found, owner, now, steps)), nil, nil
	}})
	if err != nil {
		return nil, err
	}
	return found, s.forgetLeases(ctx, found, steps)
}

// leaseSteps returns the statements that lease the steps, unless another owner has leased them.
func (s *Store) leaseSteps(owner string, life time.Duration, steps ...login.Key) (list []sqldb.Statement) {
	for _, step := range steps {
		list = append(list, sqldb.OnRow(step[:], "(?, ?, {now} + ?, {now})", sqldb.Say(`INSERT INTO {claimed_steps} (step, owner, lease_until, seen_at) VALUES (?, ?, {now} + ?, {now})
			ON CONFLICT (step) DO UPDATE SET
				owner = CASE WHEN {claimed_steps}.lease_until <= {now} THEN excluded.owner ELSE {claimed_steps}.owner END,
				lease_until = CASE WHEN {claimed_steps}.lease_until <= {now} OR {claimed_steps}.owner = excluded.owner
					THEN excluded.lease_until ELSE {claimed_steps}.lease_until END`, step[:], owner, life.Milliseconds())))
	}
	return list
}

// forgetLeases deletes the leases that Lease has created for steps with a result.
func (s *Store) forgetLeases(ctx context.Context, found []login.Step, steps []login.Key) error {
	var kept []login.Key
	for i, st := range found {
		if st.Kept {
			kept = append(kept, steps[i])
		}
	}
	if len(kept) == 0 {
		return nil
	}
	return s.sql.Change(evenIfMoved(ctx), "releasing a step", sqldb.Again, sqldb.Light, func(t *sqldb.Tx) error {
		in, keys := anyStep(kept)
		return t.Send(true, sqldb.Say(`DELETE FROM {claimed_steps} WHERE step`+in, keys...))
	})
}

// askSteps reads the results and leases of steps.
func (s *Store) askSteps(found []login.Step, owner string, now time.Time, steps []login.Key) sqldb.Statement {
	in, keys := anyStep(steps)
	return sqldb.Ask(func(r sqldb.Row) error {
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
		if kept == 0 {
			if !found[i].Kept {
				found[i].Leased, found[i].Seen = owned == owner, databaseTime(seen)
			}
			return nil
		}
		value, err := s.keys.Load().open(keptPlace(steps[i]), sealed)
		found[i] = login.Step{Value: value, Kept: true}
		return err
	}, `SELECT 0, step, NULL, owner, seen_at FROM {claimed_steps} WHERE step`+in+`
		UNION ALL SELECT 1, step, value, '', 0 FROM {kept_steps} WHERE expires_at > ? AND step`+in,
		slices.Concat(keys, []any{s.db.millis(now)}, keys)...)
}

// anyStep returns a condition that matches any of the steps, and its parameters.
func anyStep(steps []login.Key) (in string, args []any) {
	for _, step := range steps {
		args = append(args, step[:])
	}
	return ` IN (?` + strings.Repeat(", ?", len(steps)-1) + `)`, args
}

// Renew renews owner's leases. It does not restore a lease that was released, or that another owner
// has taken.
func (s *Store) Renew(ctx context.Context, owner string, life time.Duration, steps ...login.Key) error {
	return s.sql.Change(evenIfMoved(ctx), "renewing a lease", sqldb.Again, sqldb.Light, func(t *sqldb.Tx) error {
		in, keys := anyStep(steps)
		return t.Send(true, sqldb.Say(`UPDATE {claimed_steps} SET lease_until = {now} + ? WHERE owner = ? AND step`+in, append([]any{life.Milliseconds(), owner}, keys...)...))
	})
}

// Release ends the leases that still belong to owner. It keeps the times at which the codes were
// first seen, so that a login that is tried again does not count as begun later.
func (s *Store) Release(ctx context.Context, owner string, steps ...login.Key) error {
	return s.sql.Change(evenIfMoved(ctx), "releasing a step", sqldb.Again, sqldb.Light, func(t *sqldb.Tx) error {
		in, keys := anyStep(steps)
		return t.Send(true, sqldb.Say(`UPDATE {claimed_steps} SET owner = '', lease_until = {now} WHERE owner = ? AND step`+in, append([]any{owner}, keys...)...))
	})
}

// databaseTime converts milliseconds of the database's clock to a time, without a shift to this
// process's clock. Such times are stored with the results of steps, and replicas with other clocks
// read them.
func databaseTime(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
