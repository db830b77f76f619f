// Package session holds what a login leaves behind: the session, its refresh tokens,
// how it ends, and the feed that carries its end to every replica. It knows nothing of
// HTTP, of access tokens or of SQL. Package store implements [Store].
package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

var (
	// ErrNotFound means that the store has no session with that id.
	ErrNotFound = errors.New("session not found")

	// ErrRefreshInvalid means that the presented string is not one of our refresh
	// tokens, or belongs to another issuer, audience or app. Nothing was changed.
	ErrRefreshInvalid = errors.New("refresh token invalid")

	// ErrEnded means that the session has ended: by logout, by its age, or because its
	// refresh token was presented again too late.
	ErrEnded = errors.New("session ended")

	// ErrLate is the ErrEnded of the very call that ends a session because its refresh
	// token was presented again too late.
	ErrLate = fmt.Errorf("%w: refresh token presented again after the grace", ErrEnded)

	// ErrReuse means that the presented refresh token is two or more behind the
	// session's: somebody else has a copy. The session was ended.
	ErrReuse = errors.New("refresh token reused")

	// ErrTokenExpired is passed to [Connection.End] when the token under which the
	// connection was opened has expired. See [Revoked.Watch].
	ErrTokenExpired = errors.New("token expired")
)

// Session is one login on one device.
type Session struct {
	// ID is a UUID of version 7 in its text form, 36 characters, lower case.
	ID string
	// UserID is the user who logged in.
	UserID string
	// Issuer, AppID and Audience identify the site that opened it; it works nowhere
	// else. Audience is the first audience of that site. It is empty in a session from
	// before audiences were kept, until the next refresh.
	Issuer, AppID, Audience string
	// OpenID and UnionID are the caller's WeChat ids in that app. UnionID may be empty.
	OpenID, UnionID string
	// CreatedAt is the time of the login. RefreshedAt is the last time that the refresh
	// token advanced, at first the login too.
	CreatedAt, RefreshedAt time.Time
	// Counter is the counter of the newest refresh token. AdvancedAt is when it took
	// that value.
	Counter    uint64
	AdvancedAt time.Time
	// ExpiresAt is the time at which the session ends if it is not refreshed.
	ExpiresAt time.Time
	// TokensUntil is the time at which the session's last access token will have
	// expired on every replica. It is zero if that is unknown because a replica of an
	// earlier version advanced the session.
	TokensUntil time.Time
	// AuthAt is the time at which the openid last logged in with a phone number. It is zero if it
	// never did, and where sessions are listed.
	AuthAt time.Time
	// Test is the mark of a session of a test login, see [TestLogin]. It is empty in others.
	Test string
	// EndedAt is the time of its end, or zero while it has not ended. EndReason may be
	// empty in a session that an earlier version ended.
	EndedAt   time.Time
	EndReason Reason
	// UserAgent and Address describe the device at login, for the user's list of
	// sessions.
	UserAgent, Address string
}

// Reason is why a session ended, as its client may learn it. It never reveals which
// device or account ended it.
type Reason string

const (
	// ReasonLogout: the user logged out, on this or another device.
	ReasonLogout Reason = "logout"
	// ReasonMax: the user had more sessions in the app than allowed.
	ReasonMax Reason = "max"
	// ReasonReplaced: another login replaced the session. That login presented the
	// session's refresh token, or came from another WeChat account of the user.
	ReasonReplaced Reason = "replaced"
	// ReasonRevoked: the backend, the operator or WeChat ended the session, or a stolen
	// refresh token did. It also stands for unknown reasons.
	ReasonRevoked Reason = "revoked"
	// ReasonExpired: the session was not refreshed in time, or its refresh token was
	// presented again after the grace.
	ReasonExpired Reason = "expired"
)

// Ending describes how and why sessions end.
type Ending struct {
	Reason Reason
	// Now is the time of the end. Until is the time until which the sessions' access tokens
	// must be refused.
	Now, Until time.Time
	// Forget removes what the sessions hold about the person.
	Forget bool
	// Last is the id of a session that ends after all others, if it is not empty. Until
	// then its tokens keep working, so that the client can repeat the request to end
	// the rest.
	Last string
}

// Advance holds the changes of a refresh.
type Advance struct {
	// From and To are the session's counter before and after.
	From, To uint64
	// Now is the time of the refresh, and Expires the session's new expiry. TokensUntil
	// covers the access token that comes with the refresh; see [Session].
	Now, Expires, TokensUntil time.Time
	// Audience is set in a session that has no audience yet.
	Audience string
}

// Revocation makes every replica refuse the tokens of a session.
type Revocation struct {
	// Seq is the position in the feed, starting at 1. Later rows have higher numbers,
	// but may become visible earlier.
	Seq int64
	// SessionID is the session that ended.
	SessionID string
	// Until is the time at which the session's last token will have expired.
	Until time.Time
}

// Store keeps sessions. Any error but ErrNotFound means that the store could not be
// asked, or that it is unknown whether a write was done.
type Store interface {
	// Together returns the context for one refresh. Within it, what the store has read
	// along with a session answers a directory that lives in the same store.
	Together(ctx context.Context) context.Context

	// Session reads a session, or returns ErrNotFound. It must not read from a copy
	// that lags behind.
	Session(ctx context.Context, id string) (Session, error)

	// Advance moves the counter, provided that it is still at From and the session has
	// not ended. It returns false if not.
	Advance(ctx context.Context, id string, a Advance) (bool, error)

	// Extend moves a session's TokensUntil, if that is known and earlier.
	Extend(ctx context.Context, id string, tokensUntil time.Time) error

	// End marks the session as ended and, unless none of its tokens is left, writes its
	// revocation, in one transaction. It returns false if the session had ended before
	// or does not exist.
	End(ctx context.Context, id string, e Ending) (bool, error)

	// EndUser does the same for each open session of the user, at every issuer, in as
	// many transactions as it takes. It calls each with the ids of the ended sessions
	// after every transaction, also if a later one fails.
	EndUser(ctx context.Context, userID string, e Ending, each func(ids []string)) error

	// EndSurplus ends a user's sessions in the same way until only most are open, in the app
	// and at the issuer of a session that stays. Those refreshed longest ago end.
	EndSurplus(ctx context.Context, stays Session, most int, e Ending, each func(ids []string)) error

	// UserSessions lists the user's open sessions, newest first.
	UserSessions(ctx context.Context, userID string, now time.Time) ([]Session, error)

	// Revocations reads the feed: all rows whose Seq is greater than after, and all
	// rows that are younger than window by the database's clock.
	Revocations(ctx context.Context, after int64, window time.Duration) ([]Revocation, error)
}

const (
	// clockSkew is how far the clocks of two replicas may differ. With a larger
	// difference, a revocation could be dropped before the last token that it refuses
	// has expired.
	clockSkew = 2 * time.Minute

	// leastRevoked is the minimum time for which a revocation is kept. A session's
	// tokens may live longer than the current settings say: another site on the same
	// store may have minted them, or the lifetime may have been lowered since. If the
	// revocation were dropped earlier, such a token would work again.
	leastRevoked = 24 * time.Hour
)

// Settings are the bounds of a session. All must be greater than zero.
type Settings struct {
	// Idle is how long a session lasts without a refresh.
	Idle time.Duration
	// Lifetime is the maximum age of a session, however active.
	Lifetime time.Duration
	// Grace is how long, after the refresh token has advanced, the previous one still
	// gets the same answer.
	Grace time.Duration
	// TokenLife is how long an access token is accepted after it is minted: its
	// lifetime plus the leeway.
	TokenLife time.Duration
	// Max is the maximum number of open sessions of a user in one app at one issuer.
	Max int
}

// tokensUntil returns when a token that is minted now will have expired on every
// replica.
func (set Settings) tokensUntil(now time.Time) time.Time {
	return stored(now.Add(set.TokenLife + min(clockSkew, set.TokenLife)))
}

// tokensUntilAfter does the same for a token that is minted when the counter advances.
// It adds the grace, so that tokens minted within the grace need no write.
func (set Settings) tokensUntilAfter(advanced time.Time) time.Time {
	return set.tokensUntil(advanced.Add(min(set.Grace, set.TokenLife)))
}

// Until returns the time at which the revocation of a session that ends now may be forgotten.
// It allows for clocks that differ and for tokens minted under other settings.
func (set Settings) Until(now time.Time) time.Time {
	return now.Add(max(set.TokenLife, leastRevoked) + clockSkew)
}

// expires returns when a session ends that was created and last refreshed at these
// times.
func (set Settings) expires(created, refreshed time.Time) time.Time {
	idle, life := refreshed.Add(set.Idle), created.Add(set.Lifetime)
	if life.Before(idle) {
		return life
	}
	return idle
}

// Sessions acts on the sessions of a store by the rules of one configuration. All
// fields but Allow and Advanced are required.
type Sessions struct {
	Store    Store
	Keys     Keys
	Settings Settings
	// Issuer, Audience and Apps select the sessions whose refresh tokens are accepted:
	// this issuer, one of these audiences, one of these apps. New sessions get the
	// first audience.
	Issuer   string
	Audience []string
	Apps     []string
	// Test is the site's test login. Its zero value accepts no test session.
	Test TestLogin
	// Revoked gets every session that is ended here, at once. The other replicas learn
	// of it from the feed.
	Revoked *Revoked
	// Allow is the rate limit. Refresh calls it before it asks for the user or advances
	// the counter, and returns its error unchanged. Optional: nil allows everything.
	// Its now keeps the monotonic reading, if the caller of Refresh gave one.
	Allow func(sessionID string, now time.Time) error
	// Advanced is called after a counter has advanced. Of fifty concurrent refreshes
	// with one token, all may call Allow, but only one advances. Optional.
	Advanced func(sessionID string, now time.Time)
}

// ByRefreshToken returns the session that a refresh token belongs to, whatever the
// token's counter. ErrRefreshInvalid: the token is not ours, or belongs to another
// issuer, audience or app. ErrEnded: the session has ended, or is no longer stored. A
// token that was not made with one of our keys is refused without asking the store.
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

// CheckRefreshToken reports what a refresh of the session with this token would return:
// nil if it would be accepted, else ErrRefreshInvalid, ErrEnded, ErrLate or ErrReuse.
// It changes nothing.
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

// read fetches the session that a refresh token with a good MAC names, if it is ours.
func (ss Sessions) read(ctx context.Context, id sid) (Session, error) {
	s, err := ss.Store.Session(ctx, id.String())
	if errors.Is(err, ErrNotFound) {
		// The MAC is good, so the session existed: it ended long ago and was deleted.
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

// ours reports whether the session belongs to this issuer and to one of its apps and
// audiences.
func (ss Sessions) ours(s Session) bool {
	return s.Issuer == ss.Issuer && slices.Contains(ss.Apps, s.AppID) &&
		(s.Audience == "" || slices.Contains(ss.Audience, s.Audience))
}

// ended also asks this process's memory. A session that we have seen end stays ended
// even if the database loses that write in a failover.
func (ss Sessions) ended(s Session) bool {
	return !s.EndedAt.IsZero() || ss.Revoked.Contains(s.ID)
}

// Over reports whether the session has ended, or has expired by the current settings or
// by those of its last refresh.
func (ss Sessions) Over(s Session, now time.Time) bool {
	return ss.ended(s) || !ss.Test.accepts(s) || !now.Before(s.ExpiresAt) || !now.Before(ss.expires(s, s.RefreshedAt))
}

// EndReason returns why a session that is over has ended.
func (ss Sessions) EndReason(s Session) Reason {
	switch {
	case s.ID == "": // no longer stored, so it expired long ago
		return ReasonExpired
	case s.EndReason != "":
		return s.EndReason
	case ss.ended(s), !ss.Test.accepts(s):
		return ReasonRevoked
	}
	return ReasonExpired
}

// Extend must be called before an access token is minted for a session whose counter
// does not advance. It keeps TokensUntil correct.
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

// Ending returns the Ending of a session that ends now, for this reason.
func (ss Sessions) Ending(reason Reason, now time.Time) Ending {
	return Ending{Reason: reason, Now: now, Until: ss.Settings.Until(now)}
}

// End ends a session: first in the store, then at once on this replica. It reports
// whether this call ended it; a session that had already ended, or is unknown, is no
// error. After an error the session may not have ended, and the caller must not report
// that it has.
func (ss Sessions) End(ctx context.Context, id string, reason Reason, now time.Time) (bool, error) {
	e := ss.Ending(reason, now)
	ended, err := ss.Store.End(ctx, id, e)
	if err != nil {
		return false, fmt.Errorf("ending session %s: %w", id, err)
	}
	// Do this even if another replica ended it: its revocation may not have reached us
	// yet.
	ss.Revoked.Add(id, e.Until)
	return ended, nil
}

// Ended counts ended sessions.
type Ended struct {
	// Count is their number.
	Count int
	// IDs are their ids, or the first hundred of them.
	IDs []string
}

// maxNamed bounds how many sessions are named in logs and events.
const maxNamed = 100

// Add adds sessions.
func (e *Ended) Add(ids ...string) {
	e.Count += len(ids)
	e.IDs = append(e.IDs, ids[:min(len(ids), maxNamed-len(e.IDs))]...)
}

// Join adds the sessions of another Ended.
func (e *Ended) Join(other Ended) {
	e.Add(other.IDs...)
	e.Count += other.Count - len(other.IDs)
}

// EndUser ends all sessions of a user, as [Sessions.End] ends one, and returns those
// that it ended. After an error some may have ended; they are returned too, and the
// same call ends the rest.
func (ss Sessions) EndUser(ctx context.Context, userID string, reason Reason, now time.Time) (Ended, error) {
	return ss.endUser(ctx, userID, ss.Ending(reason, now))
}

// EndUserBy is EndUser on behalf of one of the sessions, which ends last.
func (ss Sessions) EndUserBy(ctx context.Context, by, userID string, reason Reason, now time.Time) (Ended, error) {
	e := ss.Ending(reason, now)
	e.Last = by
	return ss.endUser(ctx, userID, e)
}

// ForgetUser is EndUser for a user who is erased. It also removes what the sessions
// hold about the person.
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

// EndSurplus ends the sessions that exceed the user's maximum, as [Sessions.EndUser]
// does. The given session stays.
func (ss Sessions) EndSurplus(ctx context.Context, stays Session, now time.Time) (Ended, error) {
	var ended Ended
	e := ss.Ending(ReasonMax, now)
	if err := ss.Store.EndSurplus(ctx, stays, ss.Settings.Max, e, ss.each(&ended, e)); err != nil {
		return ended, fmt.Errorf("ending surplus sessions of user %s: %w", stays.UserID, err)
	}
	return ended, nil
}

// each returns a callback for the store. It counts the ended sessions and refuses their
// tokens here at once.
func (ss Sessions) each(ended *Ended, e Ending) func(ids []string) {
	return func(ids []string) {
		ended.Add(ids...)
		for _, id := range ids {
			ss.Revoked.Add(id, e.Until)
		}
	}
}
