package login

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// TestLogin logs the owner of a phone number in without WeChat, in the site's test login.
// The caller has checked the secret. The login binds and ends nothing, and the session has
// no openid. It is refused if a WeChat account is, or was, bound to the user: somebody's
// account must not be open to those who have the secret. The error is an *Error.
func (c *Chain) TestLogin(ctx context.Context, r Request, phone user.Phone) (res Result, err error) {
	ctx = c.Store.Together(ctx)
	id := directoryID(c.Sessions.Issuer, Request{App: r.App, WeChat: r.WeChat, PhoneCode: "test " + rand.Text()})
	for range maxAsks {
		if res, err = c.testLogin(ctx, r, id, phone); !errors.Is(err, ErrChanged) && !errors.Is(err, user.ErrUnknown) {
			break
		}
	}
	var e *Error
	switch {
	case errors.Is(err, ErrChanging):
		return Result{}, fromDirectory(err)
	case err != nil && !errors.As(err, &e):
		return Result{}, fromStore(err)
	}
	return res, err
}

// testLogin is one attempt. It returns user.ErrUnknown and ErrChanged if the directory
// may have another answer by now.
func (c *Chain) testLogin(ctx context.Context, r Request, id string, phone user.Phone) (Result, error) {
	// This also reads the number's owner.
	known, err := c.Store.Known(ctx, Account{AppID: r.App.ID, Phone: phone, External: c.External})
	if err != nil {
		return Result{}, fromStore(err)
	}
	u, err := c.Directory.Login(ctx, user.Login{ID: id, AppID: r.App.ID, Phone: phone})
	if err != nil {
		return Result{}, fromDirectory(err)
	}
	now := c.now()
	if u.Disabled {
		if err := c.revoke(ctx, u.ID, now); err != nil {
			return Result{}, fromStore(err)
		}
		return Result{}, refuse(problem.UserDisabled, nil)
	}
	if u.Phone.IsZero() {
		u.Phone = phone
	}
	created := keyOf("created", u.ID)
	u.New = u.New || c.State.created.has(created, now)
	s := c.Sessions.NewTest(session.Session{
		UserID: u.ID, Issuer: c.Sessions.Issuer, Audience: c.Sessions.FirstAudience(), AppID: r.App.ID, UserAgent: r.UserAgent, Address: r.Address,
	}, now)
	token, err := c.mint(s, u, now)
	if err != nil {
		return Result{}, err
	}
	until := c.Sessions.Settings.Until(now)
	done, err := c.Store.CommitTest(ctx, Commit{
		Binding: user.Binding{AppID: r.App.ID, UserID: u.ID}, Until: until, Known: known, Phone: phone, External: c.External, Begun: known.Asked,
		Session: s, Max: c.Sessions.Settings.Max,
	})
	if err != nil {
		if u.New {
			c.State.created.add(created, now, now.Add(keepFor))
		}
		switch {
		case errors.Is(err, ErrBound):
			return Result{}, refuse(problem.TestLoginTaken, nil)
		case errors.Is(err, user.ErrDisabled):
			return Result{}, refuse(problem.UserDisabled, nil)
		}
		return Result{}, err
	}
	c.State.created.remove(created)
	for _, id := range done.Surplus {
		c.Sessions.Revoked.Add(id, until)
	}
	res := Result{User: u, Session: s, Token: token, Committed: done, Surplus: c.endSurplus(ctx, s, done, now)}
	res.RefreshToken = c.Sessions.Keys.RefreshToken(s)
	return res, nil
}
