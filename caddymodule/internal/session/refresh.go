package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// maxRaces bounds how often a refresh starts again after it lost the update of
// the counter to another. One that lost to the same token is answered the second
// time.
const maxRaces = 8

// errRaces is what is left when the store keeps refusing an advance that its
// own answer calls for.
var errRaces = errors.New("overtaken too often")

// Refresh takes a refresh token and returns its session and the refresh token
// to answer with. By how the counter shown stands to the session's:
//
//	the same             the counter advances
//	one behind, in grace the answer was lost, or two asked at once: the same
//	                     refresh token as then, nothing advances
//	one behind, later    the session is ended: ErrLate, which is an ErrEnded
//	further behind       the session is ended: ErrReuse
//	ahead                the store lost a write: accepted, it goes on from there
//
// welcome is asked whether the user may go on, before anything advances; its
// error is returned as it is. With ErrEnded and ErrReuse comes the session, as it
// ended, if the store still has it. Any error but these, ErrRefreshInvalid, welcome's and
// Allow's is the store's: the same token may be shown again.
func (ss Sessions) Refresh(ctx context.Context, refreshToken string, now time.Time, welcome func(context.Context, Session) error) (Session, string, error) {
	presented, ok := ss.Keys.open(refreshToken)
	if !ok {
		return Session{}, "", ErrRefreshInvalid
	}
	now = stored(now)
	welcomed := false
	for range maxRaces {
		s, err := ss.read(ctx, presented.id)
		if err != nil {
			return Session{}, "", err
		}
		// The settings in force count too, so that shorter ones work at once.
		if ss.Over(s, now) {
			return s, "", ErrEnded
		}
		if reason, stale := ss.stale(presented, s, now); stale != nil {
			ended, err := ss.End(ctx, s.ID, reason, now)
			if err != nil {
				return Session{}, "", err
			}
			if !ended && stale == ErrLate {
				continue // to see why it ended meanwhile
			}
			s.EndedAt, s.EndReason = now, reason
			return s, "", stale
		}
		if !welcomed {
			// The rate first: the directory may be somebody's backend.
			if ss.Allow != nil && presented.counter >= s.Counter {
				if err := ss.Allow(s.ID, now); err != nil {
					return Session{}, "", err
				}
			}
			if err := welcome(ctx, s); err != nil {
				return s, "", err
			}
			welcomed = true
			if presented.counter < s.Counter {
				continue // to see whether it ended while the directory was asked
			}
		}
		if presented.counter < s.Counter {
			if err := ss.Extend(ctx, s, now); err != nil {
				return Session{}, "", err
			}
			return s, ss.Keys.RefreshToken(s), nil
		}
		a := Advance{
			From: s.Counter, To: presented.counter + 1,
			Now: now, Expires: ss.Settings.expires(s.CreatedAt, now), TokensUntil: ss.Settings.tokensUntilAfter(now),
			Audience: ss.FirstAudience(),
		}
		advanced, err := ss.Store.Advance(ctx, s.ID, a)
		if err != nil {
			return Session{}, "", fmt.Errorf("refreshing session %s: %w", s.ID, err)
		}
		if advanced {
			if ss.Advanced != nil {
				ss.Advanced(s.ID, now)
			}
			s.Counter, s.AdvancedAt, s.RefreshedAt, s.ExpiresAt, s.TokensUntil = a.To, now, now, a.Expires, a.TokensUntil
			s.Audience = cmp.Or(s.Audience, a.Audience)
			return s, ss.Keys.RefreshToken(s), nil
		}
	}
	return Session{}, "", fmt.Errorf("refreshing session %s: %w", presented.id, errRaces)
}

// stale says that a counter is too far behind for the session to go on, and why
// it ends; nil if it goes on.
func (ss Sessions) stale(presented presentedToken, s Session, now time.Time) (Reason, error) {
	switch {
	case presented.counter >= s.Counter:
		return "", nil
	case presented.counter+1 < s.Counter:
		return ReasonRevoked, ErrReuse
	}
	// The advance may lie ahead of us, by another replica's clock; but not by
	// any amount, or a clock that was set back would extend the grace by that.
	if since := now.Sub(s.AdvancedAt); since > ss.Settings.Grace || since < -ss.Settings.Grace {
		return ReasonExpired, ErrLate
	}
	return "", nil
}

// FirstAudience is that of new sessions.
func (ss Sessions) FirstAudience() string {
	if len(ss.Audience) == 0 {
		return ""
	}
	return ss.Audience[0]
}
