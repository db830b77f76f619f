package session

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// firstCounter is that of a session's first refresh token.
	firstCounter = 1

	// maxDevice bounds what is kept of a user agent or an address, in bytes.
	maxDevice = 255
)

// New makes the session of a login at now out of its caller's fields: UserID,
// Issuer, Audience, AppID, OpenID, UnionID, UserAgent and Address. All others are set
// here. Times are in UTC and whole milliseconds, as the store keeps them. The
// first refresh token is [Keys.RefreshToken] of it, once the store has it.
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

// stored is a time as the store gives it back.
func stored(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// device makes a client's text fit for the store: bounded, and UTF-8 without
// control characters, which databases refuse and terminals obey.
func device(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, s[:min(len(s), maxDevice)])
}
