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
)

const sessionColumns = `id, user_id, issuer, appid, openid, unionid, created_at, refreshed_at,
	counter, advanced_at, expires_at, ended_at, user_agent, address,
	audience, end_reason, tokens_until, tokens_counter`

// scanSession reads sessionColumns, and what more there is.
func (db *DB) scanSession(row interface{ Scan(...any) error }, more ...any) (s session.Session, err error) {
	var created, refreshed, counter, advanced, expires, ended, tokens, tokensOf int64
	err = row.Scan(append([]any{&s.ID, &s.UserID, &s.Issuer, &s.AppID, &s.OpenID, &s.UnionID, &created, &refreshed,
		&counter, &advanced, &expires, &ended, &s.UserAgent, &s.Address, &s.Audience, &s.EndReason, &tokens, &tokensOf}, more...)...)
	s.CreatedAt, s.RefreshedAt, s.AdvancedAt = db.fromMillis(created), db.fromMillis(refreshed), db.fromMillis(advanced)
	s.ExpiresAt, s.EndedAt, s.Counter = db.fromMillis(expires), db.fromMillis(ended), uint64(counter)
	if tokensOf == counter { // else a replica of an earlier version advanced it
		s.TokensUntil = db.fromMillis(tokens)
	}
	return s, err
}

// insertSession opens a session.
func insertSession(t *tx, s session.Session) error {
	counter, err := counterColumn(s.Counter)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO {sessions} (`+sessionColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		s.ID, s.UserID, s.Issuer, s.AppID, s.OpenID, s.UnionID, t.db.millis(s.CreatedAt), t.db.millis(s.RefreshedAt),
		counter, t.db.millis(s.AdvancedAt), t.db.millis(s.ExpiresAt), t.db.millis(s.EndedAt), t.db.fit(clip(s.UserAgent)), t.db.fit(clip(s.Address)),
		s.Audience, string(s.EndReason), t.db.millis(s.TokensUntil), counter)
	return err
}

// Session reads a session; session.ErrNotFound if there is none.
func (s *Store) Session(ctx context.Context, id string) (found session.Session, err error) {
	err = s.read(ctx, "reading a session", func(t *tx) (err error) {
		found, err = t.session(id)
		if errors.Is(err, sql.ErrNoRows) || err == nil && found.ID != id {
			return session.ErrNotFound // to MySQL a blank at the end is nothing
		}
		return err
	})
	return found, err
}

// session reads a session and, with it, the database's clock: a refresh that comes
// right after this process's clock has jumped is judged by the right time.
func (t *tx) session(id string) (session.Session, error) {
	answered := t.db.asking()
	var now int64
	row := t.row(`SELECT `+sessionColumns+`, {now} FROM {sessions} WHERE id = ?`, id)
	return t.db.scanSession(clockRow{row, &now, answered}, &now)
}

// clockRow compares the clocks after the row was read and before its times are.
type clockRow struct {
	row      *sql.Row
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

// Advance moves a live session's counter, if it is still at From.
func (s *Store) Advance(ctx context.Context, id string, a session.Advance) (advanced bool, err error) {
	was, err := counterColumn(a.From)
	if err != nil {
		return false, err
	}
	is, err := counterColumn(a.To)
	if err != nil {
		return false, err
	}
	err = s.write(ctx, "advancing a session", func(t *tx) error {
		n, err := t.exec(`UPDATE {sessions} SET counter = ?, advanced_at = ?, refreshed_at = ?, expires_at = ?,
				tokens_until = ?, tokens_counter = ?, audience = CASE WHEN audience = '' THEN ? ELSE audience END
			WHERE id = ? AND counter = ? AND ended_at = 0`,
			is, t.db.millis(a.Now), t.db.millis(a.Now), t.db.millis(a.Expires), t.db.millis(a.TokensUntil), is, a.Audience, id, was)
		advanced = n == 1
		return err
	})
	return advanced && err == nil, err
}

// Extend moves the end of a session's last token, if it is known and earlier.
func (s *Store) Extend(ctx context.Context, id string, tokensUntil time.Time) error {
	return s.rewrite(ctx, "extending a session", func(t *tx) error {
		_, err := t.exec(`UPDATE {sessions} SET tokens_until = ? WHERE id = ? AND tokens_until > 0 AND tokens_until < ?`,
			t.db.millis(tokensUntil), id, t.db.millis(tokensUntil))
		return err
	})
}

// maxListed bounds a user's list of sessions.
const maxListed = 1000

// UserSessions lists the user's live sessions, newest first, at most a thousand.
func (s *Store) UserSessions(ctx context.Context, userID string, now time.Time) (list []session.Session, err error) {
	err = s.read(ctx, "reading a user's sessions", func(t *tx) error {
		list = nil
		return t.each(func(r *sql.Rows) error {
			one, err := s.db.scanSession(r)
			list = append(list, one)
			return err
		}, `SELECT `+sessionColumns+` FROM {sessions}
			WHERE user_id = ? AND ended_at = 0 AND expires_at > ?
			ORDER BY created_at DESC, id DESC LIMIT ?`, userID, t.db.millis(now), maxListed)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// Revocations reads the feed, in its order: whatever has a number over after,
// and whatever was recorded within window by the database's clock. With it comes
// what that clock shows.
func (s *Store) Revocations(ctx context.Context, after int64, window time.Duration) (list []session.Revocation, err error) {
	err = s.read(ctx, "reading the revocations", func(t *tx) error {
		list = nil
		var until []int64
		answered := t.db.asking()
		err := t.each(func(r *sql.Rows) error {
			var one session.Revocation
			var ms int64
			err := r.Scan(&one.Seq, &one.SessionID, &ms)
			if one.Seq == 0 {
				answered(ms)
				return err
			}
			list, until = append(list, one), append(until, ms)
			return err
			// Two selects, each by its index. Asked to drop what both find, SQLite
			// reads the whole table instead.
		}, `SELECT 0, '', {now}
			UNION ALL
			SELECT seq, session_id, until_at FROM {revocations} WHERE seq > ?
			UNION ALL
			SELECT seq, session_id, until_at FROM {revocations} WHERE recorded_at >= {now} - ?`, after, window.Milliseconds())
		for i := range list { // only now it is known what the times mean
			list[i].Until = t.db.fromMillis(until[i])
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b session.Revocation) int { return cmp.Compare(a.Seq, b.Seq) })
	return slices.CompactFunc(list, func(a, b session.Revocation) bool { return a.Seq == b.Seq }), nil
}

// counterColumn is a counter as SQL holds it.
func counterColumn(n uint64) (int64, error) {
	if n > math.MaxInt64 {
		return 0, fmt.Errorf("session counter %d is out of range", n)
	}
	return int64(n), nil
}

// clip makes what a client sent fit a {text 512} column. PostgreSQL refuses
// text that is not UTF-8 or holds NUL.
func clip(s string) string {
	const limit = 512
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
}
