package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

const sessionColumns = `id, user_id, issuer, appid, openid, unionid, created_at, refreshed_at,
	counter, advanced_at, expires_at, ended_at, user_agent, address,
	audience, end_reason, tokens_until, tokens_counter, test`

// scanSession reads sessionColumns and any further columns.
func (db *DB) scanSession(row sqldb.Row, more ...any) (s session.Session, err error) {
	var created, refreshed, counter, advanced, expires, ended, tokens, tokensOf int64
	err = row.Scan(append([]any{&s.ID, &s.UserID, &s.Issuer, &s.AppID, &s.OpenID, &s.UnionID, &created, &refreshed,
		&counter, &advanced, &expires, &ended, &s.UserAgent, &s.Address, &s.Audience, &s.EndReason, &tokens, &tokensOf, &s.Test}, more...)...)
	s.CreatedAt, s.RefreshedAt, s.AdvancedAt = db.fromMillis(created), db.fromMillis(refreshed), db.fromMillis(advanced)
	s.ExpiresAt, s.EndedAt, s.Counter = db.fromMillis(expires), db.fromMillis(ended), uint64(counter)
	if tokensOf == counter { // otherwise a replica of an earlier version has advanced the counter
		s.TokensUntil = db.fromMillis(tokens)
	}
	return s, err
}

// insertSession returns the statement that opens a session.
func insertSession(db *DB, s session.Session) (sqldb.Statement, error) {
	counter, err := counterColumn(s.Counter)
	const row = `(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	return sqldb.OnRow([]byte(s.ID), row, sqldb.Say(`INSERT INTO {sessions} (`+sessionColumns+`) VALUES `+row,
		s.ID, s.UserID, s.Issuer, s.AppID, s.OpenID, s.UnionID, db.millis(s.CreatedAt), db.millis(s.RefreshedAt),
		counter, db.millis(s.AdvancedAt), db.millis(s.ExpiresAt), db.millis(s.EndedAt), db.sql.Fit(clip(s.UserAgent)), db.sql.Fit(clip(s.Address)),
		s.Audience, string(s.EndReason), db.millis(s.TokensUntil), counter, s.Test)), err
}

// Session reads a session. It returns session.ErrNotFound if there is none. If the store has users
// of its own, and the context is one of Together, it also reads the session's user in the same
// turnaround.
func (s *Store) Session(ctx context.Context, id string) (found session.Session, err error) {
	ahead := s.readAhead(ctx)
	if ahead != nil && !s.hasUsers.Load() {
		ahead = nil
	}
	err = s.sql.GroupRead(ctx, "reading a session", func() sqldb.Statement {
		found = session.Session{}
		if ahead != nil {
			return s.askSessionAndUser(id, &found, ahead)
		}
		return s.db.askSession(id, &found)
	})
	if err == nil && found.ID != id {
		err = session.ErrNotFound // MySQL ignores a blank at the end
	}
	return found, err
}

// askSession reads a session together with the database's clock, so that a refresh uses the right
// time even if this process's clock has just jumped.
func (db *DB) askSession(id string, found *session.Session) sqldb.Statement {
	answered := db.comparesClock()
	return sqldb.Ask(func(r sqldb.Row) (err error) {
		var now int64
		var authAt sql.NullInt64
		*found, err = db.scanSession(clockRow{r, &now, answered}, &now, &authAt)
		found.AuthAt = db.fromMillis(authAt.Int64)
		return err
	}, `SELECT `+sessionColumns+`, {now}, `+authAtOfS+` FROM {sessions} s WHERE id = ?`, id)
}

// authAtOfS selects the time at which a session's openid last logged in with a phone number.
const authAtOfS = `(SELECT b.auth_at FROM {bindings} b WHERE b.appid = s.appid AND b.openid = s.openid AND b.user_id = s.user_id)`

var sessionColumnsOfS = "s." + strings.Join(strings.Fields(sessionColumns), " s.")

// askSessionAndUser is like askSession, but also reads the session's user.
func (s *Store) askSessionAndUser(id string, found *session.Session, ahead *readAhead) sqldb.Statement {
	answered := s.db.comparesClock()
	return sqldb.Ask(func(r sqldb.Row) (err error) {
		var now int64
		var userID sql.NullString
		var sealed []byte
		var authAt, disabled, created sql.NullInt64
		*found, err = s.db.scanSession(clockRow{r, &now, answered}, &now, &authAt, &userID, &sealed, &disabled, &created)
		found.AuthAt = s.db.fromMillis(authAt.Int64)
		if err != nil {
			return err
		}
		u := &foundUser{err: user.ErrUnknown}
		if userID.String == found.UserID {
			u.user, u.err = s.userOf(userID.String, sealed, disabled.Int64, created.Int64)
		}
		ahead.noteUser(found.UserID, u)
		return nil
	}, `SELECT `+sessionColumnsOfS+`, {now}, `+authAtOfS+`, u.id, u.phone, u.disabled, u.created_at
		FROM {sessions} s LEFT JOIN {users} u ON u.id = s.user_id WHERE s.id = ?`, id)
}

// clockRow is a row that contains the database's clock. Scan compares the clocks, so that the times
// of the row are converted after the comparison.
type clockRow struct {
	row      sqldb.Row
	now      *int64
	answered func(int64)
}

func (r clockRow) Scan(into ...any) error {
	err := r.row.Scan(into...)
	if err == nil {
		r.answered(*r.now)
	}
	return err
}

// Advance sets a live session's counter to a.To, if it is still a.From.
func (s *Store) Advance(ctx context.Context, id string, a session.Advance) (advanced bool, err error) {
	was, err := counterColumn(a.From)
	if err != nil {
		return false, err
	}
	is, err := counterColumn(a.To)
	if err != nil {
		return false, err
	}
	var n int64
	tries := 0
	err = s.sql.Group(ctx, "advancing a session", sqldb.Durable, &sqldb.Grouped{Statements: func(*sqldb.Tx) (_, _ []sqldb.Statement, _ error) {
		n = 0
		tries++
		return []sqldb.Statement{sqldb.OnRow([]byte(id), "", sqldb.Ask(func(r sqldb.Row) error { return r.Scan(&n) },
			`UPDATE {sessions} SET counter = ?, advanced_at = ?, refreshed_at = ?, expires_at = ?,
				tokens_until = ?, tokens_counter = ?, audience = CASE WHEN audience = '' THEN ? ELSE audience END
			WHERE id = ? AND counter = ? AND ended_at = 0 {found}`,
			is, s.db.millis(a.Now), s.db.millis(a.Now), s.db.millis(a.Expires), s.db.millis(a.TokensUntil), is, a.Audience, id, was))}, nil, nil
	}})
	if err != nil || n == 1 || tries == 1 {
		return n == 1 && err == nil, err
	}
	// An earlier try may have been committed without an answer.
	found, err := s.Session(ctx, id)
	if errors.Is(err, session.ErrNotFound) {
		return false, nil
	}
	return found.Counter == a.To && found.AdvancedAt.Equal(s.db.fromMillis(s.db.millis(a.Now))) && err == nil, err
}

// Extend records that a session's last token expires later than recorded. It does nothing if the
// recorded time is unknown or not earlier.
func (s *Store) Extend(ctx context.Context, id string, tokensUntil time.Time) error {
	return s.sql.Rewrite(ctx, "extending a session", func(t *sqldb.Tx) error {
		return t.Send(true, sqldb.Say(`UPDATE {sessions} SET tokens_until = ? WHERE id = ? AND tokens_until > 0 AND tokens_until < ?`,
			s.db.millis(tokensUntil), id, s.db.millis(tokensUntil)))
	})
}

// maxListed bounds a user's list of sessions.
const maxListed = 1000

// UserSessions lists a user's live sessions, newest first, at most a thousand.
func (s *Store) UserSessions(ctx context.Context, userID string, now time.Time) (list []session.Session, err error) {
	err = s.sql.Read(ctx, "reading a user's sessions", func(t *sqldb.Tx) error {
		list = nil
		return t.Each(func(r sqldb.Row) error {
			one, err := s.db.scanSession(r)
			list = append(list, one)
			return err
		}, `SELECT `+sessionColumns+` FROM {sessions}
			WHERE user_id = ? AND ended_at = 0 AND expires_at > ?
			ORDER BY created_at DESC, id DESC LIMIT ?`, userID, s.db.millis(now), maxListed)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// CountSessions counts the sessions that are live by the database's clock.
func (s *Store) CountSessions(ctx context.Context) (n int, err error) {
	err = s.sql.ReadLate(ctx, "counting the sessions", func(t *sqldb.Tx) error {
		return t.Row(`SELECT COUNT(*) FROM {sessions} WHERE ended_at = 0 AND expires_at > {now}`).Scan(&n)
	})
	return n, err
}

// Revocations reads the feed in its order: all rows with a number greater than after, and all that
// were recorded within window by the database's clock. It also compares the clocks. A row that a
// copy of the database shows late is found by a later poll, because each poll looks back by window.
func (s *Store) Revocations(ctx context.Context, after int64, window time.Duration) (list []session.Revocation, err error) {
	read := s.sql.ReadLate
	if after == 0 {
		// The first poll decides which tokens are valid from the start. A copy of the database that
		// lags would let an ended session in.
		read = s.sql.Read
	}
	err = read(ctx, "reading the revocations", func(t *sqldb.Tx) error {
		list = nil
		var until []int64
		answered := s.db.comparesClock()
		err := t.Each(func(r sqldb.Row) error {
			var one session.Revocation
			var ms int64
			if err := r.Scan(&one.Seq, &one.SessionID, &ms); err != nil {
				return err // without an answer there is no clock to compare
			}
			if one.Seq == 0 {
				answered(ms)
				return nil
			}
			list, until = append(list, one), append(until, ms)
			return nil
			// Each of the two selects uses its index. With UNION, which removes duplicates, SQLite
			// would scan the whole table.
		}, `SELECT 0, '', {now}
			UNION ALL
			SELECT seq, session_id, until_at FROM {revocations} WHERE seq > ?
			UNION ALL
			SELECT seq, session_id, until_at FROM {revocations} WHERE recorded_at >= {now} - ?`, after, window.Milliseconds())
		for i := range list { // the clocks must be compared before the times are converted
			list[i].Until = s.db.fromMillis(until[i])
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b session.Revocation) int { return cmp.Compare(a.Seq, b.Seq) })
	return slices.CompactFunc(list, func(a, b session.Revocation) bool { return a.Seq == b.Seq }), nil
}

// counterColumn converts a counter for SQL.
func counterColumn(n uint64) (int64, error) {
	if n > math.MaxInt64 {
		return 0, fmt.Errorf("session counter %d is out of range", n)
	}
	return int64(n), nil
}

// clip makes a client's text fit into a {text 512} column. PostgreSQL refuses text that is not
// UTF-8 or contains NUL.
func clip(s string) string {
	const limit = 512
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
}
