package account

import (
	"context"
	"errors"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
)

// Presented is a session that a client presents to log out, by a token or a refresh
// token.
type Presented struct {
	Session session.Session
	// Current reports that what was presented is good enough to end all sessions of the
	// user.
	Current bool
	// Reused reports that the refresh token was probably stolen.
	Reused bool
}

// ByRefreshToken returns the session of a refresh token. The errors are those of
// [session.Sessions.ByRefreshToken].
func (a Accounts) ByRefreshToken(ctx context.Context, refreshToken string, now time.Time) (Presented, error) {
	s, err := a.Sessions.ByRefreshToken(ctx, refreshToken)
	if err != nil {
		return Presented{}, err
	}
	worth := a.Sessions.CheckRefreshToken(refreshToken, s, now)
	return Presented{Session: s, Current: worth == nil, Reused: errors.Is(worth, session.ErrReuse)}, nil
}

// IsOpen reports whether a session is open in the store: another replica may have ended
// it a moment ago.
func (a Accounts) IsOpen(ctx context.Context, id, userID string, now time.Time) (bool, error) {
	s, err := a.Sessions.Store.Session(ctx, id)
	if errors.Is(err, session.ErrNotFound) {
		return false, nil
	}
	return err == nil && s.UserID == userID && !a.Sessions.Over(s, now), err
}

// LogOut ends the session that a client presents, or all sessions of its user. Only a current
// token or refresh token may end other sessions: a thief whose session the owner has ended
// must not be able to end the owner's. A write that failed is an error, so that no answer
// reports a logout that did not happen.
func (a Accounts) LogOut(ctx context.Context, p Presented, all bool, now time.Time) (session.Ended, error) {
	reason := session.ReasonLogout
	if all && p.Reused {
		reason = session.ReasonRevoked
	}
	if !all || !p.Current {
		return a.End(ctx, p.Session, reason, now)
	}
	ended, err := a.Sessions.EndUserBy(ctx, p.Session.ID, p.Session.UserID, reason, now)
	a.Emit(event.Revoked(p.Session.UserID, ended, reason)...)
	return ended, err
}
