package session

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// firstCounter is the counter of a session's first refresh token.
	firstCounter = 1

	// maxDevice bounds a stored user agent or address, in bytes.
	maxDevice = 255
)

// New makes the session of a login. The caller sets UserID, Issuer, Audience, AppID,
// OpenID, UnionID, UserAgent and Address; all other fields are set here. Times are in
// UTC and whole milliseconds, as the store keeps them. Once the store has the session,
// [Keys.RefreshToken] returns its first refresh token.
func New(s Session, set Settings, now time.Time) Session {
	s.ID = NewID(now)
	now = stored(now)
	s.CreatedAt, s.RefreshedAt, s.AdvancedAt = now, now, now
	s.ExpiresAt = set.expires(now, now)
	s.TokensUntil = set.tokensUntilAfter(now)
	s.EndedAt, s.EndReason = time.Time{}, ""
	s.Counter = firstCounter
	s.UserAgent, s.Address = device(s.UserAgent), device(s.Address)
	return s
}

// stored returns a time as the store returns it after a write.
func stored(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// device makes a string from a client fit for the store. It bounds the length and keeps
// only UTF-8 without control characters, which databases refuse and terminals obey.
func device(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, s[:min(len(s), maxDevice)])
}
