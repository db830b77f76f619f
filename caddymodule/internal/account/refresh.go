package account

import (
	"context"
	"errors"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Refreshed is the next pair of a session.
type Refreshed struct {
	Session      session.Session
	Token        string
	RefreshToken string
}

// Refresh returns the next pair for a refresh token. mayAsk limits how often a session may
// cause a call to the directory. After an error, the returned session is the refresh token's,
// as far as it is known.
func (a Accounts) Refresh(ctx context.Context, refreshToken string, now time.Time, mayAsk func(sessionID string) error) (r Refreshed, err error) {
	var u user.User
	r.Session, r.RefreshToken, err = a.Sessions.Refresh(ctx, refreshToken, now, func(ctx context.Context, s session.Session) error {
		err := mayAsk(s.ID)
		if err == nil {
			u, err = a.check(ctx, s, now)
		}
		return err
	})
	if err == nil {
		r.Token, err = a.mint(r.Session, u, now)
	}
	return r, err
}

// check asks the directory whether the session's user may go on. If the user no longer
// exists, the session has ended and the client must log in again, perhaps as another
// user.
func (a Accounts) check(ctx context.Context, s session.Session, now time.Time) (user.User, error) {
	u, err := a.Directory.Check(ctx, s.UserID)
	switch {
	case errors.Is(err, user.ErrUnknown), err == nil && u.Disabled:
		gone := err
		if _, err := a.revoke(ctx, s.UserID, now); err != nil {
			return u, err
		}
		if gone != nil {
			return u, session.ErrEnded
		}
		return u, ErrDisabled
	case err != nil:
		return u, errors.Join(ErrDirectory, err)
	}
	if s.Test != "" {
		err := a.checkTest(ctx, s, &u, now)
		return u, err
	}
	if u.Phone.IsZero() { // the directory returns no numbers: use the one from WeChat
		b, ok, err := a.Store.Binding(ctx, s.AppID, s.OpenID)
		if err != nil {
			return u, err
		}
		if ok && b.UserID == u.ID {
			u.Phone = b.Phone
		}
	}
	// Try to mint the token first: nothing may advance if that fails.
	_, err = a.mint(s, u, now)
	return u, err
}

func (a Accounts) mint(s session.Session, u user.User, now time.Time) (string, error) {
	token, err := a.Mint(s, u, now)
	if err != nil {
		return "", errors.Join(ErrMint, err)
	}
	return token, nil
}

// checkTest is the part of check for a session of the site's test login. It ends when a
// WeChat account is, or was, bound to the user.
func (a Accounts) checkTest(ctx context.Context, s session.Session, u *user.User, now time.Time) error {
	bound, err := a.Store.HasOpenID(ctx, s.UserID)
	if err != nil {
		return err
	}
	if bound {
		if _, err := a.End(ctx, s, session.ReasonReplaced, now); err != nil {
			return err
		}
		return session.ErrEnded
	}
	if u.Phone.IsZero() { // the directory returns no numbers
		u.Phone = a.TestPhone
	}
	_, err = a.mint(s, *u, now)
	return err
}
