package store

import (
	"context"
	"slices"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
)

const (
	// endBatch is the number of sessions that end in one transaction. It is small enough for logins
	// to continue between two batches if the database has one writer, and large enough for a
	// database in another zone.
	endBatch = 500

	// endRead is the number of session ids that one query reads.
	endRead = 20_000
)

// End ends a session and writes its revocation. It returns false if the session had ended before or
// does not exist, or if the connection broke during the commit.
func (s *Store) End(ctx context.Context, id string, e session.Ending) (bool, error) {
	var ended int64
	err := s.sql.Rewrite(ctx, "ending a session", func(t *sqldb.Tx) (err error) {
		ended, err = s.db.endByID(t, e, []string{id})
		return err
	})
	return ended == 1 && err == nil, err
}

// EndUser ends all live sessions of a user in batches, and calls each after every batch.
func (s *Store) EndUser(ctx context.Context, userID string, e session.Ending, each func(ids []string)) error {
	if e.Last != "" {
		if err := s.endAll(ctx, e, each, `user_id = ? AND id <> ?`, userID, e.Last); err != nil {
			return err
		}
	}
	return s.endAll(ctx, e, each, `user_id = ?`, userID)
}

// endAll ends all live sessions that match the condition, one batch in each transaction. It calls
// each with the ids of every batch that has ended. After an error, a repeated call continues with
// the rest. Sessions that are opened while it runs may stay.
func (s *Store) endAll(ctx context.Context, e session.Ending, each func(ids []string), condition string, args ...any) error {
	return s.inBatches(ctx, "ending sessions", func(t *sqldb.Tx, ids []string) error {
		_, err := s.db.endByID(t, e, ids)
		return err
	}, each, 0, `SELECT id FROM {sessions} WHERE ended_at = 0 AND `+condition, args...)
}

// inBatches reads the ids of the sessions that the query finds, and skips the first ones, as many
// as first. It runs change for each batch of ids in its own transaction, perhaps more than once for
// the same batch. The query must no longer find a session that change has changed. done is called
// after each transaction.
func (s *Store) inBatches(ctx context.Context, doing string, change func(*sqldb.Tx, []string) error, done func(ids []string), first int, query string, args ...any) error {
	for {
		// One read serves many batches. A separate read for each would have to step over the index
		// entries of all earlier batches.
		var ids []string
		err := s.sql.Read(ctx, doing, func(t *sqldb.Tx) (err error) {
			ids, err = t.Strings(query+` LIMIT ? OFFSET ?`, append(slices.Clone(args), endRead, first)...)
			return err
		})
		if err != nil {
			return err
		}
		slices.Sort(ids) // all transactions lock sessions in one order, so none deadlocks
		for batch := range slices.Chunk(ids, endBatch) {
			if err := s.sql.Rewrite(ctx, doing, func(t *sqldb.Tx) error { return change(t, batch) }); err != nil {
				return err
			}
			done(batch)
		}
		if len(ids) < endRead {
			return nil
		}
	}
}

// The condition for sessions that hold personal data, and the assignments that remove it.
const (
	personal  = `(openid <> '' OR unionid <> '' OR user_agent <> '' OR address <> '')`
	anonymous = `openid = '', unionid = '', user_agent = '', address = ''`
)

// anonymize removes the personal data from a user's ended sessions, in batches. An erasure does
// this first, so that little is left for its final transaction.
func (s *Store) anonymize(ctx context.Context, userID string) error {
	return s.inBatches(ctx, "erasing a user", func(t *sqldb.Tx, ids []string) error {
		in, keys := oneOf(ids)
		return t.Send(true, append(s.db.byIndex(ids), sqldb.Say(`UPDATE {sessions} SET `+anonymous+` WHERE ended_at + 0 <> 0 AND id`+in, keys...))...)
	}, func([]string) {}, 0, `SELECT id FROM {sessions} WHERE user_id = ? AND ended_at <> 0 AND `+personal, userID)
}

// EndOpenID ends all live sessions of an openid in batches, and calls each after every batch.
func (s *Store) EndOpenID(ctx context.Context, appid, openid string, e session.Ending, each func(ids []string)) error {
	return s.endAll(ctx, e, each, `openid = ? AND appid = ?`, openid, appid)
}

// endSessions ends the live sessions that match the condition, as part of a larger transaction, and
// returns their ids. It is for a few sessions; use endAll for any number. A session that has
// expired, but was not ended, counts as live.
func (db *DB) endSessions(t *sqldb.Tx, e session.Ending, condition string, args ...any) ([]string, error) {
	ids, err := t.Strings(`SELECT id FROM {sessions} WHERE ended_at = 0 AND `+condition+` {lock}`, args...)
	if err != nil {
		return nil, err
	}
	slices.Sort(ids)
	for batch := range slices.Chunk(ids, endBatch) {
		if _, err := db.endByID(t, e, batch); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// endByID ends the sessions with these ids that are live, and returns how many it has ended.
func (db *DB) endByID(t *sqldb.Tx, e session.Ending, ids []string) (int64, error) {
	if len(ids) > 1 {
		if err := t.PreferIndex(); err != nil {
			return 0, err
		}
	}
	end, revoke := db.endings(e, ids)
	ended, err := t.Run(end)
	if err != nil || ended == 0 {
		return ended, err
	}
	_, err = t.Run(revoke)
	return ended, err
}

// endings returns the statement that ends the sessions with these ids that are live, and the one
// that writes a revocation for each of them that may have a valid access token, by the database's
// clock or by ours.
func (db *DB) endings(e session.Ending, ids []string) (end, revoke sqldb.Statement) {
	in, keys := oneOf(ids)
	now := db.millis(e.Now)
	// "+ 0" keeps the planner from using the index on ended_at: without statistics PostgreSQL
	// prefers it to the ids, and reads all live sessions for each batch.
	set := `ended_at = ?, end_reason = ?`
	if e.Forget {
		set += `, ` + anonymous
	}
	end = sqldb.Say(`UPDATE {sessions} SET `+set+` WHERE ended_at + 0 = 0 AND id`+in, append([]any{now, string(e.Reason)}, keys...)...)
	// A session that another call ended in the same millisecond gets a second revocation, which
	// does no harm.
	revoke = sqldb.Say(`INSERT INTO {revocations} (session_id, until_at, recorded_at)
		SELECT id, ?, {now} FROM {sessions} WHERE ended_at + 0 = ?
			AND NOT (tokens_until > 0 AND tokens_counter = counter AND tokens_until < ? AND tokens_until < {now})
			AND id`+in,
		append([]any{db.millis(e.Until), now, now}, keys...)...)
	return end, revoke
}

// oneOf returns a condition that matches any of the keys, and its parameters. There may be at most
// endBatch keys. The condition has one of three lengths, so that there are few different
// statements.
func oneOf(keys []string) (in string, args []any) {
	size := 1
	switch {
	case len(keys) > 20:
		size = endBatch
	case len(keys) > 1:
		size = 20
	}
	for i := range size {
		args = append(args, keys[min(i, len(keys)-1)]) // repeating the last key finds nothing new
	}
	return ` IN (` + strings.Repeat("?, ", size-1) + `?)`, args
}

// byIndex returns the statement to run before a statement with oneOf, if there is one.
func (db *DB) byIndex(keys []string) []sqldb.Statement {
	if len(keys) < 2 || db.sql.Dialect.ByIndex == "" {
		return nil
	}
	return []sqldb.Statement{sqldb.Say(db.sql.Dialect.ByIndex)}
}
