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

func scanSession(row interface{ Scan(...any) error }) (s session.Session, err error) {
	var created, refreshed, counter, advanced, expires, ended, tokens, tokensOf int64
	err = row.Scan(&s.ID, &s.UserID, &s.Issuer, &s.AppID, &s.OpenID, &s.UnionID, &created, &refreshed,
		&counter, &advanced, &expires, &ended, &s.UserAgent, &s.Address, &s.Audience, &s.EndReason, &tokens, &tokensOf)
	s.CreatedAt, s.RefreshedAt, s.AdvancedAt = fromMillis(created), fromMillis(refreshed), fromMillis(advanced)
	s.ExpiresAt, s.EndedAt, s.Counter = fromMillis(expires), fromMillis(ended), uint64(counter)
	if tokensOf == counter { // else a replica of an earlier version advanced it
		s.TokensUntil = fromMillis(tokens)
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
		s.ID, s.UserID, s.Issuer, s.AppID, s.OpenID, s.UnionID, millis(s.CreatedAt), millis(s.RefreshedAt),
		counter, millis(s.AdvancedAt), millis(s.ExpiresAt), millis(s.EndedAt), t.db.fit(clip(s.UserAgent)), t.db.fit(clip(s.Address)),
		s.Audience, string(s.EndReason), millis(s.TokensUntil), counter)
	return err
}

// Session reads a session; session.ErrNotFound if there is none.
func (s *Store) Session(ctx context.Context, id string) (found session.Session, err error) {
	err = s.read(ctx, "reading a session", func(t *tx) (err error) {
		found, err = scanSession(t.row(`SELECT `+sessionColumns+` FROM {sessions} WHERE id = ?`, id))
		if errors.Is(err, sql.ErrNoRows) || err == nil && found.ID != id {
			return session.ErrNotFound // to MySQL a blank at the end is nothing
		}
		return err
	})
	return found, err
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
			is, millis(a.Now), millis(a.Now), millis(a.Expires), millis(a.TokensUntil), is, a.Audience, id, was)
		advanced = n == 1
		return err
	})
	return advanced && err == nil, err
}

// Extend moves the end of a session's last token, if it is known and earlier.
func (s *Store) Extend(ctx context.Context, id string, tokensUntil time.Time) error {
	return s.rewrite(ctx, "extending a session", func(t *tx) error {
		_, err := t.exec(`UPDATE {sessions} SET tokens_until = ? WHERE id = ? AND tokens_until > 0 AND tokens_until < ?`,
			millis(tokensUntil), id, millis(tokensUntil))
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
			one, err := scanSession(r)
			list = append(list, one)
			return err
		}, `SELECT `+sessionColumns+` FROM {sessions}
			WHERE user_id = ? AND ended_at = 0 AND expires_at > ?
			ORDER BY created_at DESC, id DESC LIMIT ?`, userID, millis(now), maxListed)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// Revocations reads the feed, in its order: whatever has a number over after,
// and whatever was recorded within window by the database's clock.
func (s *Store) Revocations(ctx context.Context, after int64, window time.Duration) (list []session.Revocation, err error) {
	err = s.read(ctx, "reading the revocations", func(t *tx) error {
		list = nil
		return t.each(func(r *sql.Rows) error {
			var one session.Revocation
			var until int64
			if err := r.Scan(&one.Seq, &one.SessionID, &until); err != nil {
				return err
			}
			one.Until = fromMillis(until)
			list = append(list, one)
			return nil
			// Two selects, each by its index. Asked to drop what both find, SQLite
			// reads the whole table instead.
		}, `SELECT seq, session_id, until_at FROM {revocations} WHERE seq > ?
			UNION ALL
			SELECT seq, session_id, until_at FROM {revocations} WHERE recorded_at >= {now} - ?`, after, window.Milliseconds())
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

// millis is a time as SQL holds it; the zero time is 0.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
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
