// Package session holds what a login leaves behind: the session, its refresh
// tokens, how it ends, and the feed that carries its end to every replica. It
// knows nothing of HTTP, of access tokens or of SQL; whoever keeps sessions
// implements [Store].
package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

var (
	// ErrNotFound says that the store has no session of that id.
	ErrNotFound = errors.New("session not found")

	// ErrRefreshInvalid says that what was shown is no refresh token of ours,
	// or one for another issuer or app. Nothing was changed.
	ErrRefreshInvalid = errors.New("refresh token invalid")

	// ErrEnded says that the session has ended: by logout, by its age, or
	// because its refresh token was shown again too late.
	ErrEnded = errors.New("session ended")

	// ErrReuse says that a refresh token was shown that two or more have
	// followed: somebody else has a copy. The session was ended.
	ErrReuse = errors.New("refresh token reused")

	// ErrTokenExpired is the cause of a watched context when the token under
	// which its connection was opened expires. See [Revoked.Watch].
	ErrTokenExpired = errors.New("token expired")
)

// Session is one login on one device.
type Session struct {
	// ID is a UUID of version 7 in its text form, 36 characters, lower case.
	ID string
	// UserID is whose session it is.
	UserID string
	// Issuer and AppID are where it was opened; it works nowhere else.
	Issuer, AppID string
	// OpenID and UnionID are the caller's WeChat ids in that app; UnionID may
	// be empty.
	OpenID, UnionID string
	// CreatedAt is the login, RefreshedAt the last time that the refresh token
	// advanced (at first the login too).
	CreatedAt, RefreshedAt time.Time
	// Counter is that of the newest refresh token, AdvancedAt when it came to
	// be that.
	Counter    uint64
	AdvancedAt time.Time
	// ExpiresAt is when the session ends if it is not refreshed.
	ExpiresAt time.Time
	// EndedAt is when it was ended; zero while it is not.
	EndedAt time.Time
	// UserAgent and Address are the device's at login, for the user's list of
	// sessions.
	UserAgent, Address string
}

// Revocation says that the tokens of a session are refused.
type Revocation struct {
	// Seq is the place in the feed, 1 or more: later rows have higher numbers,
	// but may become visible earlier.
	Seq int64
	// SessionID is the session that ended.
	SessionID string
	// Until is when its last token will have expired.
	Until time.Time
}

// Store keeps sessions. All errors but ErrNotFound mean that the store could
// not be asked, or that it is not known whether a write was done.
type Store interface {
	// Session reads a session; ErrNotFound if there is none. It must not read
	// from a copy that lags behind.
	Session(ctx context.Context, id string) (Session, error)

	// Advance moves the counter, if it is still at from and the session has not
	// ended; false if not. It sets the times of the advance and of the last
	// refresh to now, and the session's expiry.
	Advance(ctx context.Context, id string, from, to uint64, now, expires time.Time) (bool, error)

	// End marks the session as ended and writes its revocation, in one
	// transaction. False: it had ended before, or there is none.
	End(ctx context.Context, id string, now, until time.Time) (bool, error)

	// EndUser does so for each live session of the user, in one transaction,
	// and tells which.
	EndUser(ctx context.Context, userID string, now, until time.Time) ([]string, error)

	// UserSessions lists the user's live sessions, newest first.
	UserSessions(ctx context.Context, userID string, now time.Time) ([]Session, error)

	// Revocations reads the feed: whatever has a Seq over after, and whatever
	// is younger than window by the database's clock.
	Revocations(ctx context.Context, after int64, window time.Duration) ([]Revocation, error)
}

const (
	// clockSkew is how far the clocks of two replicas may be apart without a
	// revocation being dropped before the last token that it is for expires.
	clockSkew = 2 * time.Minute

	// leastRevoked is how long every revocation is kept at least. The tokens
	// of a session may live longer than this configuration's do: they may be
	// another site's on the same store, or from before the lifetime was
	// lowered. Without it such a token would come back to life.
	leastRevoked = 24 * time.Hour
)

// Settings are the times of a session. All must be over zero.
type Settings struct {
	// Idle is how long a session lives without a refresh.
	Idle time.Duration
	// Lifetime is how long it lives at all.
	Lifetime time.Duration
	// Grace is how long after the refresh token has advanced the one before
	// gets the same answer again.
	Grace time.Duration
	// TokenLife is how long an access token is accepted after it is minted:
	// its lifetime and the leeway.
	TokenLife time.Duration
}

// Until is when the revocation of a session that ends now may be forgotten.
// It leaves room for clocks that differ and for tokens of other settings.
func (set Settings) Until(now time.Time) time.Time {
	return now.Add(max(set.TokenLife, leastRevoked) + clockSkew)
}

// expires is when a session ends that was created and refreshed at these times.
func (set Settings) expires(created, refreshed time.Time) time.Time {
	idle, life := refreshed.Add(set.Idle), created.Add(set.Lifetime)
	if life.Before(idle) {
		return life
	}
	return idle
}

// Sessions acts on the sessions of a store by the rules of one configuration.
// All fields but Allow and Advanced are required.
type Sessions struct {
	Store    Store
	Keys     Keys
	Settings Settings
	// Issuer and Apps are whose refresh tokens are taken.
	Issuer string
	Apps   []string
	// Revoked is told of every session that is ended here, at once; the other
	// replicas learn it from the feed.
	Revoked *Revoked
	// Allow is asked before the user is asked for and a counter advances; its error
	// is returned as it is, and nothing advances. Optional: nil allows all.
	Allow func(sessionID string, now time.Time) error
	// Advanced is told of each counter that has. Of fifty refreshes of one token at
	// once all may ask Allow, and one advances. Optional.
	Advanced func(sessionID string, now time.Time)
}

// Shown returns the session that a refresh token belongs to, whichever of its
// refresh tokens it is. ErrRefreshInvalid: it is not ours or for another issuer
// or app; ErrEnded: the session has ended or is forgotten. A token that was not
// made with one of our keys is refused without asking the store.
func (ss Sessions) Shown(ctx context.Context, refreshToken string) (Session, error) {
	shown, ok := ss.Keys.open(refreshToken)
	if !ok {
		return Session{}, ErrRefreshInvalid
	}
	s, err := ss.read(ctx, shown.id)
	if err != nil {
		return Session{}, err
	}
	if ss.ended(s) {
		return s, ErrEnded
	}
	return s, nil
}

// read fetches a session that a good refresh token names, if it is ours.
func (ss Sessions) read(ctx context.Context, id sid) (Session, error) {
	s, err := ss.Store.Session(ctx, id.String())
	if errors.Is(err, ErrNotFound) {
		// The MAC is good, so there was such a session: it ended long ago.
		return Session{}, ErrEnded
	}
	if err != nil {
		return Session{}, fmt.Errorf("reading session %s: %w", id, err)
	}
	if s.Issuer != ss.Issuer || !slices.Contains(ss.Apps, s.AppID) {
		return Session{}, ErrRefreshInvalid
	}
	return s, nil
}

// ended also asks the memory of this process: a database that lost a write in
// a failover does not bring a session back that we have seen end.
func (ss Sessions) ended(s Session) bool {
	return !s.EndedAt.IsZero() || ss.Revoked.Contains(s.ID)
}

// End ends a session: in the store, then on this replica at once. It reports
// whether it was this call that ended it; a session that had ended before, or
// is unknown, is no error. After an error it is not known to have ended, and
// must not be reported so.
func (ss Sessions) End(ctx context.Context, id string, now time.Time) (bool, error) {
	until := ss.Settings.Until(now)
	ended, err := ss.Store.End(ctx, id, now, until)
	if err != nil {
		return false, fmt.Errorf("ending session %s: %w", id, err)
	}
	// Also if another replica ended it: its revocation may not be here yet.
	ss.Revoked.Add(id, until)
	return ended, nil
}

// EndUser ends all sessions of a user, as [Sessions.End] does one, and tells
// which it ended.
func (ss Sessions) EndUser(ctx context.Context, userID string, now time.Time) ([]string, error) {
	until := ss.Settings.Until(now)
	ids, err := ss.Store.EndUser(ctx, userID, now, until)
	if err != nil {
		return nil, fmt.Errorf("ending the sessions of user %s: %w", userID, err)
	}
	for _, id := range ids {
		ss.Revoked.Add(id, until)
	}
	return ids, nil
}
