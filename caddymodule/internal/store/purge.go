package store

import (
	"context"
	"time"
)

// purgeMargin is how long rows outlive their time: clocks of replicas differ,
// and a session that has just expired is still recognised.
const purgeMargin = 24 * time.Hour

// purges delete what is over, oldest first. The parameters are the time until
// which and how many. Deleting by a list of keys is what all databases can do;
// MySQL wants it wrapped once more.
var purges = []struct {
	query  string
	margin time.Duration
}{
	{`DELETE FROM {kept_steps} WHERE step IN (SELECT step FROM (
		SELECT step FROM {kept_steps} WHERE expires_at < ? ORDER BY expires_at LIMIT ?) AS old)`, 0},
	{`DELETE FROM {claimed_steps} WHERE step IN (SELECT step FROM (
		SELECT step FROM {claimed_steps} WHERE lease_until < ? ORDER BY lease_until LIMIT ?) AS old)`, purgeMargin},
	{`DELETE FROM {sessions} WHERE id IN (SELECT id FROM (
		SELECT id FROM {sessions} WHERE expires_at < ? ORDER BY expires_at LIMIT ?) AS old)`, purgeMargin},
	// The newest stays, so that no database hands its number out again: the
	// replicas' cursors are past it.
	{`DELETE FROM {revocations} WHERE seq IN (SELECT seq FROM (
		SELECT seq FROM {revocations} WHERE until_at < ? AND seq < (SELECT MAX(seq) FROM {revocations}) ORDER BY until_at LIMIT ?) AS old)`, purgeMargin},
}

// Purge deletes rows that are over, at most limit of each kind, and tells how
// many it deleted. Call it again as long as that is limit or more; each kind is
// a short transaction of its own, so others get their turn.
func (s *Store) Purge(ctx context.Context, now time.Time, limit int) (deleted int, err error) {
	for _, p := range purges {
		before := millis(now.Add(-p.margin))
		err := s.write(ctx, "purging", func(t *tx) error {
			n, err := t.exec(p.query, before, limit)
			deleted += int(n)
			return err
		})
		if err != nil {
			return deleted, err
		}
	}
	return deleted, nil
}
