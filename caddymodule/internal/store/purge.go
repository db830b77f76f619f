package store

import (
	"context"
	"crypto/sha256"
	"time"
)

// purgeMargin is how long rows are kept after they expire: the clocks of replicas differ, and a
// session that has just expired is still recognised.
const purgeMargin = 24 * time.Hour

// seenMargin is how long the store remembers when a code was first seen, if no login has used it.
// It is much longer than WeChat accepts a code.
const seenMargin = time.Hour

// purges lists the rows to delete, by the column that holds when they expire.
var purges = []struct {
	table, key, time string
	margin           time.Duration
	spare            string // a further condition that a row must meet to be deleted
}{
	{"{kept_steps}", "step", "expires_at", 0, ""},
	{"{claimed_steps}", "step", "lease_until", seenMargin, ""},
	{"{sessions}", "id", "expires_at", purgeMargin, ""},
	{"{barred_users}", "user_id", "erased_at", purgeMargin, " AND erased_at > 0 AND disabled = 0"},
	// The newest row stays, so that the database does not assign its number again: the replicas'
	// cursors are past it.
	{"{revocations}", "seq", "until_at", purgeMargin, " AND seq < (SELECT newest FROM (SELECT MAX(seq) AS newest FROM {revocations}) AS r)"},
}

// housekeepingLease is how long a replica keeps the housekeeping role without
// renewing it.
const housekeepingLease = 5 * time.Minute

// housekeepingStep names the lease of the housekeeping role. It is stored with the leases of login
// steps. Replicas of all versions must use the same name.
var housekeepingStep = sha256.Sum256([]byte("caddy-wx-auth keeps the house"))

// Housekeep runs Purge on one of the replicas. The first replica that calls it takes the
// housekeeping role, and keeps it until it has not called for five minutes. ours is false for the
// others.
func (s *Store) Housekeep(ctx context.Context, replica string, limit int) (deleted int, ours bool, err error) {
	step, err := s.Lease(ctx, replica, s.db.opts.Now(), housekeepingLease, housekeepingStep)
	if err != nil || !step[0].Leased {
		return 0, false, err
	}
	if deleted, err = s.Purge(ctx, limit); err == nil {
		err = s.forgetReplicas(ctx)
	}
	return deleted, true, err
}

// LeaveHousekeeping gives the role up, for a replica that must not have it.
func (s *Store) LeaveHousekeeping(ctx context.Context, replica string) error {
	return s.Release(ctx, replica, housekeepingStep)
}

// Purge deletes rows that have expired by the database's clock, at most limit of each kind, and
// returns their number. Call it again while that is limit or more. Each kind has its own short
// transaction, so that other writers get their turn.
func (s *Store) Purge(ctx context.Context, limit int) (deleted int, err error) {
	for _, p := range purges {
		old := ` FROM ` + p.table + ` WHERE ` + p.time + ` < {now} - ?` + p.spare + ` ORDER BY ` + p.time + ` LIMIT ?`
		query := `DELETE` + old
		if !s.db.dialect.deleteLimit {
			query = `DELETE FROM ` + p.table + ` WHERE ` + p.key + ` IN (SELECT ` + p.key + old + `)`
		}
		var n int64
		err := s.write(ctx, "purging", func(t *tx) (err error) {
			n, err = t.exec(query, p.margin.Milliseconds(), limit)
			return err
		})
		if err != nil {
			return deleted, err
		}
		deleted += int(n)
	}
	return deleted, nil
}
