// Package session holds what a login leaves behind: the session, its refresh
// tokens, how it ends, and the feed that carries its end to every replica. It
// knows nothing of HTTP, of access tokens or of SQL. [Store] is implemented by
// package store.
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

	// ErrRefreshInvalid says that what was shown is not one of our refresh tokens,
	// or one for another issuer, audience or app. Nothing was changed.
	ErrRefreshInvalid = errors.New("refresh token invalid")

	// ErrEnded says that the session has ended: by logout, by its age, or
	// because its refresh token was shown again too late.
	ErrEnded = errors.New("session ended")

	// ErrLate is the ErrEnded of a session that ends just now, because its refresh
	// token was shown again too late.
	ErrLate = fmt.Errorf("%w: refresh token shown again after the grace", ErrEnded)

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
	// Issuer, AppID and Audience are where it was opened; it works nowhere else.
	// Audience is the first audience of the site that opened it. It is empty in a
	// session from before audiences were kept, until the next refresh.
	Issuer, AppID, Audience string
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
	// TokensUntil is when the last access token of the session will have expired
	// on every replica; zero if that is not known, since a replica of an earlier
	// version advanced the session.
	TokensUntil time.Time
	// EndedAt is when it was ended; zero while it is not. EndReason is why; it may
	// be empty in a session that an earlier version ended.
	EndedAt   time.Time
	EndReason Reason
	// UserAgent and Address are the device's at login, for the user's list of
	// sessions.
	UserAgent, Address string
}

// Reason is why a session ended, as its client may learn it. It never says which
// device or account ended it.
type Reason string

const (
	// ReasonLogout: the user logged out, on this or another device.
	ReasonLogout Reason = "logout"
	// ReasonMax: the user had more live sessions in the app than allowed.
	ReasonMax Reason = "max"
	// ReasonReplaced: another login took the place of the session: one that showed
	// its refresh token, or that of another WeChat account of the user.
	ReasonReplaced Reason = "replaced"
	// ReasonRevoked: the backend, the operator, WeChat or a stolen refresh token
	// ended the session. It also stands for reasons that are not known.
	ReasonRevoked Reason = "revoked"
	// ReasonExpired: the session was not refreshed in time, or its refresh token
	// was shown again after the grace.
	ReasonExpired Reason = "expired"
)

// Ending is how sessions end.
type Ending struct {
	Reason Reason
	// Now is when, Until how long their access tokens must be refused.
	Now, Until time.Time
	// Forget: what the sessions say about the person is removed with it.
	Forget bool
	// Last is a session that ends after all others, if it is not empty: until then, its
	// tokens can be shown again to end the rest.
	Last string
}

// Advance is what a refresh writes.
type Advance struct {
	// From and To are the session's counter before and after.
	From, To uint64
	// Now is the time of the refresh, Expires the session's new expiry, TokensUntil
	// that of the access token which the refresh buys; see [Session].
	Now, Expires, TokensUntil time.Time
	// Audience is taken on by a session that has none.
	Audience string
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

	// Advance moves the counter, if it is still at From and the session has not
	// ended; false if not.
	Advance(ctx context.Context, id string, a Advance) (bool, error)

	// Extend moves a session's TokensUntil, if it is known and earlier.
	Extend(ctx context.Context, id string, tokensUntil time.Time) error

	// End marks the session as ended and writes its revocation, unless no token of
	// it is left, in one transaction. False: it had ended before, or there is none.
	End(ctx context.Context, id string, e Ending) (bool, error)

	// EndUser does so for each live session of the user, at every issuer, in as
	// many transactions as it takes. each is called with the sessions that have
	// ended, after each transaction, also if a later one fails.
	EndUser(ctx context.Context, userID string, e Ending, each func(ids []string)) error

	// EndSurplus does so for the live sessions that a user has beyond so many in the
	// app and at the issuer of a session that stays: those refreshed longest ago.
	EndSurplus(ctx context.Context, stays Session, most int, e Ending, each func(ids []string)) error

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

// Settings are the bounds of a session. All must be over zero.
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
	// Max is how many live sessions a user may have in one app at one issuer.
	Max int
}

// tokensUntil is when a token that is minted now will have expired on every
// replica.
func (set Settings) tokensUntil(now time.Time) time.Time {
	return stored(now.Add(set.TokenLife + min(clockSkew, set.TokenLife)))
}

// tokensUntilAfter is the same for a token that is minted when the counter
// advances. It leaves room for those that are minted in the grace, so that they
// need no write.
func (set Settings) tokensUntilAfter(advanced time.Time) time.Time {
	return set.tokensUntil(advanced.Add(min(set.Grace, set.TokenLife)))
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
	// Issuer, Audience and Apps are whose refresh tokens are taken: those of
	// sessions with this issuer, one of these audiences and one of these apps. New
	// sessions have the first audience.
	Issuer   string
	Audience []string
	Apps     []string
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

// ByRefreshToken returns the session that a refresh token belongs to, whichever of its
// refresh tokens it is. ErrRefreshInvalid: it is not ours, or for another issuer,
// audience or app; ErrEnded: the session has ended or is forgotten. A token that was not
// made with one of our keys is refused without asking the store.
func (ss Sessions) ByRefreshToken(ctx context.Context, refreshToken string) (Session, error) {
	presented, ok := ss.Keys.open(refreshToken)
	if !ok {
		return Session{}, ErrRefreshInvalid
	}
	s, err := ss.read(ctx, presented.id)
	if err != nil {
		return Session{}, err
	}
	if ss.ended(s) {
		return s, ErrEnded
	}
	return s, nil
}

// CheckRefreshToken reports what a refresh with the token would answer: nil if a
// refresh would take it, else ErrRefreshInvalid, ErrEnded, ErrLate or ErrReuse. It
// changes nothing.
func (ss Sessions) CheckRefreshToken(refreshToken string, s Session, now time.Time) error {
	presented, ok := ss.Keys.open(refreshToken)
	switch {
	case !ok || presented.id.String() != s.ID || !ss.ours(s):
		return ErrRefreshInvalid
	case ss.Over(s, now):
		return ErrEnded
	}
	_, stale := ss.stale(presented, s, now)
	return stale
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
	if !ss.ours(s) {
		return Session{}, ErrRefreshInvalid
	}
	return s, nil
}

// ours reports whether the session was opened by a site like this one.
func (ss Sessions) ours(s Session) bool {
	return s.Issuer == ss.Issuer && slices.Contains(ss.Apps, s.AppID) &&
		(s.Audience == "" || slices.Contains(ss.Audience, s.Audience))
}

// ended also asks the memory of this process: a database that lost a write in
// a failover does not bring a session back that we have seen end.
func (ss Sessions) ended(s Session) bool {
	return !s.EndedAt.IsZero() || ss.Revoked.Contains(s.ID)
}

// Over reports whether the session has ended, or expired by the settings in
// force or by those of its last refresh.
func (ss Sessions) Over(s Session, now time.Time) bool {
	return ss.ended(s) || !now.Before(s.ExpiresAt) || !now.Before(ss.Settings.expires(s.CreatedAt, s.RefreshedAt))
}

// EndReason returns why a session that is over has ended.
func (ss Sessions) EndReason(s Session) Reason {
	switch {
	case s.ID == "": // forgotten, so its time was long over
		return ReasonExpired
	case s.EndReason != "":
		return s.EndReason
	case ss.ended(s):
		return ReasonRevoked
	}
	return ReasonExpired
}

// Extend must be called before an access token is minted for a session of which
// no counter advances. It keeps the end of the session's last token right.
func (ss Sessions) Extend(ctx context.Context, s Session, now time.Time) error {
	until := ss.Settings.tokensUntil(now)
	if s.TokensUntil.IsZero() || !s.TokensUntil.Before(until) {
		return nil
	}
	if err := ss.Store.Extend(ctx, s.ID, until); err != nil {
		return fmt.Errorf("extending session %s: %w", s.ID, err)
	}
	return nil
}

// Ending is how a session ends now, for that reason.
func (ss Sessions) Ending(reason Reason, now time.Time) Ending {
	return Ending{Reason: reason, Now: now, Until: ss.Settings.Until(now)}
}

// End ends a session: in the store, then on this replica at once. It reports
// whether it was this call that ended it; a session that had ended before, or
// is unknown, is no error. After an error it is not known to have ended, and
// must not be reported so.
func (ss Sessions) End(ctx context.Context, id string, reason Reason, now time.Time) (bool, error) {
	e := ss.Ending(reason, now)
	ended, err := ss.Store.End(ctx, id, e)
	if err != nil {
		return false, fmt.Errorf("ending session %s: %w", id, err)
	}
	// Also if another replica ended it: its revocation may not be here yet.
	ss.Revoked.Add(id, e.Until)
	return ended, nil
}

// Ended are sessions that have ended.
type Ended struct {
	// Count is how many.
	Count int
	// IDs are theirs, or those of the first hundred.
	IDs []string
}

// maxNamed bounds how many sessions are named in logs and events.
const maxNamed = 100

// Add counts more of them.
func (e *Ended) Add(ids ...string) {
	e.Count += len(ids)
	e.IDs = append(e.IDs, ids[:min(len(ids), maxNamed-len(e.IDs))]...)
}

// Join adds those of another Ended.
func (e *Ended) Join(other Ended) {
	e.Add(other.IDs...)
	e.Count += other.Count - len(other.IDs)
}

// EndUser ends all sessions of a user, as [Sessions.End] does one, and returns
// which it ended. After an error some may have ended, which are returned too;
// the same call ends the rest.
func (ss Sessions) EndUser(ctx context.Context, userID string, reason Reason, now time.Time) (Ended, error) {
	return ss.endUser(ctx, userID, ss.Ending(reason, now))
}

// EndUserBy is EndUser at the word of one of the sessions, which ends last.
func (ss Sessions) EndUserBy(ctx context.Context, by, userID string, reason Reason, now time.Time) (Ended, error) {
	e := ss.Ending(reason, now)
	e.Last = by
	return ss.endUser(ctx, userID, e)
}

// ForgetUser is EndUser for a user who is erased: what the sessions say about the
// person goes with them.
func (ss Sessions) ForgetUser(ctx context.Context, userID string, now time.Time) (Ended, error) {
	e := ss.Ending(ReasonRevoked, now)
	e.Forget = true
	return ss.endUser(ctx, userID, e)
}

func (ss Sessions) endUser(ctx context.Context, userID string, e Ending) (ended Ended, err error) {
	if err := ss.Store.EndUser(ctx, userID, e, ss.each(&ended, e)); err != nil {
		return ended, fmt.Errorf("ending the sessions of user %s: %w", userID, err)
	}
	return ended, nil
}

// EndSurplus ends the sessions that the user of a session has beyond those allowed,
// as [Sessions.EndUser] does. The session itself stays.
func (ss Sessions) EndSurplus(ctx context.Context, stays Session, now time.Time) (Ended, error) {
	var ended Ended
	e := ss.Ending(ReasonMax, now)
	if err := ss.Store.EndSurplus(ctx, stays, ss.Settings.Max, e, ss.each(&ended, e)); err != nil {
		return ended, fmt.Errorf("ending surplus sessions of user %s: %w", stays.UserID, err)
	}
	return ended, nil
}

// each takes sessions that have ended: it counts them, and refuses their tokens here
// at once.
func (ss Sessions) each(ended *Ended, e Ending) func(ids []string) {
	return func(ids []string) {
		ended.Add(ids...)
		for _, id := range ids {
			ss.Revoked.Add(id, e.Until)
		}
	}
}
