package store

import (
	"context"
	"crypto/sha256"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"time"
)

// purgeMargin is how long rows are kept after they expire: the clocks of replicas differ, and a
// session that has just expired is still recognised.
const purgeMargin = 24 * time.Hour

// seenMargin is how long the store keeps the time at which an unused code was first seen. WeChat
// accepts a code for a much shorter time.
const seenMargin = time.Hour

// purges lists the rows to delete. time is the column that contains the time at which a row
// expires.
var purges = []struct {
	table, key, time string
	margin           time.Duration
	more             string // a further condition for deleting a row
}{
	{"{kept_steps}", "step", "expires_at", 0, ""},
	{"{claimed_steps}", "step", "lease_until", seenMargin, ""},
	{"{sessions}", "id", "expires_at", purgeMargin, ""},
	{"{barred_users}", "user_id", "erased_at", purgeMargin, " AND erased_at > 0 AND disabled = 0"},
	// The newest row stays, so that the database does not assign its number again. Replicas would
	// miss a new row with that number, because they have read past it.
	{"{revocations}", "seq", "until_at", purgeMargin, " AND seq < (SELECT newest FROM (SELECT MAX(seq) AS newest FROM {revocations}) AS r)"},
}

// housekeepingLease is how long a replica keeps the housekeeping role without
// renewing it.
const housekeepingLease = 5 * time.Minute

// housekeepingStep names the lease of the housekeeping role. It is stored with the leases of login
// steps. Replicas of all versions must use the same name.
var housekeepingStep = sha256.Sum256([]byte("caddy-wx-auth keeps the house"))

// Housekeep runs Purge if this replica has the housekeeping role. The first replica that calls it
// gets the role, and keeps it until it has not called for housekeepingLease. ours is false for all
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

// LeaveHousekeeping gives up the role, if the replica has it.
func (s *Store) LeaveHousekeeping(ctx context.Context, replica string) error {
	return s.Release(ctx, replica, housekeepingStep)
}

// Purge deletes rows that have expired by the database's clock, at most limit in each table, and
// returns their number. Call it again if that number is limit or more. Each table has its own short
// transaction, so that other writers need not wait long.
func (s *Store) Purge(ctx context.Context, limit int) (deleted int, err error) {
	for _, p := range purges {
		old := ` FROM ` + p.table + ` WHERE ` + p.time + ` < {now} - ?` + p.more + ` ORDER BY ` + p.time + ` LIMIT ?`
		query := `DELETE` + old
		if !s.db.sql.Dialect.DeleteLimit {
			query = `DELETE FROM ` + p.table + ` WHERE ` + p.key + ` IN (SELECT ` + p.key + old + `)`
		}
		var n int64
		err := s.sql.Write(ctx, "purging", func(t *sqldb.Tx) (err error) {
			if err := t.PreferIndex(); err != nil {
				return err
			}
			n, err = t.Exec(query, p.margin.Milliseconds(), limit)
			return err
		})
		if err != nil {
			return deleted, err
		}
		deleted += int(n)
	}
	return deleted, nil
}
