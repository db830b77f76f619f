package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// maxRaces bounds retries after losing the counter update to a concurrent refresh. If
// the winner presented the same token, the first retry is answered.
const maxRaces = 8

// errRaces means that the store keeps refusing an advance although it returns the
// counter that the advance starts from.
var errRaces = errors.New("too many concurrent refreshes")

// Refresh takes a refresh token and returns its session and the refresh token for the
// response. The counter in the token, compared with the session's, decides:
//
//	equal                the counter advances
//	one behind, in grace the response was lost, or two refreshes ran at once:
//	                     the same refresh token as then, nothing advances
//	one behind, later    the session is ended: ErrLate, which is an ErrEnded
//	further behind       the session is ended: ErrReuse
//	ahead                the store lost a write: accepted, and counting goes on from there
//
// Before anything advances, Refresh asks welcome whether the user may go on, and
// returns its error unchanged. ErrEnded and ErrReuse come with the ended session, if
// the store still has it. Errors of welcome and Allow aside, any other error but
// ErrRefreshInvalid comes from the store: the client may present the same token again.
func (ss Sessions) Refresh(ctx context.Context, refreshToken string, now time.Time, welcome func(context.Context, Session) error) (Session, string, error) {
	presented, ok := ss.Keys.open(refreshToken)
	if !ok {
		return Session{}, "", ErrRefreshInvalid
	}
	measured := now // monotonic: a rate must not see that the wall clock is set
	now = stored(now)
	ctx = ss.Store.Together(ctx)
	welcomed := false
	for range maxRaces {
		s, err := ss.read(ctx, presented.id)
		if err != nil {
			return Session{}, "", err
		}
		// The current settings count too, so that shorter limits take effect at once.
		if ss.Over(s, now) {
			return s, "", ErrEnded
		}
		if reason, stale := ss.stale(presented, s, now); stale != nil {
			ended, err := ss.End(ctx, s.ID, reason, now)
			if err != nil {
				return Session{}, "", err
			}
			if !ended && stale == ErrLate {
				continue // read it again: it has ended meanwhile, and the store knows why
			}
			s.EndedAt, s.EndReason = now, reason
			return s, "", stale
		}
		if !welcomed {
			// The rate limit comes first, because the directory may be somebody's
			// backend.
			if ss.Allow != nil && presented.counter >= s.Counter {
				if err := ss.Allow(s.ID, measured); err != nil {
					return Session{}, "", err
				}
			}
			if err := welcome(ctx, s); err != nil {
				return s, "", err
			}
			welcomed = true
			if presented.counter < s.Counter {
				continue // it may have ended while the directory was asked
			}
		}
		if presented.counter < s.Counter {
			// The token is in its grace: the answer is repeated.
			if err := ss.Extend(ctx, s, now); err != nil {
				return Session{}, "", err
			}
			return s, ss.Keys.RefreshToken(s), nil
		}
		advanced, err := ss.advance(ctx, &s, presented.counter+1, now)
		if err != nil {
			return Session{}, "", err
		}
		if advanced {
			if ss.Advanced != nil {
				ss.Advanced(s.ID, measured)
			}
			return s, ss.Keys.RefreshToken(s), nil
		}
	}
	return Session{}, "", fmt.Errorf("refreshing session %s: %w", presented.id, errRaces)
}

// advance moves the session's counter, in the store and then in s. It returns false if s has
// changed in the store meanwhile, and then changes nothing.
func (ss Sessions) advance(ctx context.Context, s *Session, to uint64, now time.Time) (bool, error) {
	a := Advance{
		From: s.Counter, To: to,
		Now: now, Expires: ss.expires(*s, now), TokensUntil: ss.Settings.tokensUntilAfter(now),
		Audience: ss.FirstAudience(),
	}
	advanced, err := ss.Store.Advance(ctx, s.ID, a)
	if err != nil {
		return false, fmt.Errorf("refreshing session %s: %w", s.ID, err)
	}
	if !advanced {
		return false, nil
	}
	s.Counter, s.AdvancedAt, s.RefreshedAt, s.ExpiresAt, s.TokensUntil = a.To, now, now, a.Expires, a.TokensUntil
	s.Audience = cmp.Or(s.Audience, a.Audience)
	return true, nil
}

// stale returns why the session must end if the token's counter is too far behind, and
// an error for the caller. It returns nil if the session may go on.
func (ss Sessions) stale(presented presentedToken, s Session, now time.Time) (Reason, error) {
	switch {
	case presented.counter >= s.Counter:
		return "", nil
	case presented.counter+1 < s.Counter:
		return ReasonRevoked, ErrReuse
	}
	// The replica that advanced the counter may have a clock that is ahead, so AdvancedAt may
	// be in our future. The difference is bounded too: otherwise a clock that was set back
	// would extend the grace by as much.
	if since := now.Sub(s.AdvancedAt); since > ss.Settings.Grace || since < -ss.Settings.Grace {
		return ReasonExpired, ErrLate
	}
	return "", nil
}

// FirstAudience returns the audience of new sessions.
func (ss Sessions) FirstAudience() string {
	if len(ss.Audience) == 0 {
		return ""
	}
	return ss.Audience[0]
}
