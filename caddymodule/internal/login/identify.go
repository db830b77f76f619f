package login

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// caller is the result of the first step: the WeChat account that sent the login code, or the
// mark that the code has already opened a session.
type caller struct {
	OpenID  string `json:"openid,omitempty"`
	UnionID string `json:"unionid,omitempty"`
	// Seen is the time at which the code was first seen, by the database's clock.
	Seen  time.Time `json:"seen,omitzero"`
	Spent bool      `json:"spent,omitempty"`
}

// spent is the kept result of a login code that has opened a session. It no longer says whose
// code it was.
var spent = []byte(`{"spent":true}`)

// replayed is kept for a pair of codes that has opened a session. It names the session and
// holds the rest of that answer, so that a repeated answer equals the lost one.
type replayed struct {
	SessionID string `json:"sid"`
	New       bool   `json:"new,omitempty"`
	Moved     bool   `json:"moved,omitempty"`
}

// identify returns the account that sent the login code, and the session that both
// codes have opened, if they have.
//
// WeChat is not asked about codes that have already opened a session, and they are
// accepted only together: a client that sends this login code with another phone code
// must not learn whose it was.
func (c *Chain) identify(ctx context.Context, s *steps, r Request, both Key) (who caller, again replayed, err error) {
	if who, err = c.caller(ctx, s, r); err != nil || !who.Spent {
		return who, again, err
	}
	if _, err := c.kept(ctx, both, &again); err != nil {
		return caller{}, again, fromStore(err)
	}
	if again.SessionID == "" {
		e := refuse(problem.LoginCodeInvalid, ErrCodeSpent, wechat.RenewCode)
		e.Refused = true // WeChat would refuse it
		return caller{}, again, e
	}
	who, err = c.identifyAgain(ctx, again)
	return who, again, err
}

// caller exchanges the login code, or returns the kept result.
func (c *Chain) caller(ctx context.Context, s *steps, r Request) (caller, error) {
	var next func(caller) Account
	if r.PhoneCode == "" {
		next = func(who caller) Account { return c.account(r, who) }
	}
	return do(ctx, s, s.code, next, func(ctx context.Context, seen time.Time) (caller, error) {
		who, err := c.askCaller(ctx, r)
		who.Seen = seen
		return who, err
	})
}

// askCaller exchanges the login code. If a phone code follows, the access token is
// fetched at the same time, so that the two delays do not add up.
func (c *Chain) askCaller(ctx context.Context, r Request) (caller, error) {
	var warm errgroup.Group
	if r.PhoneCode != "" {
		warm.Go(func() error {
			return c.State.upstreams.tokenOf(c.Route, r).do(r.App.ID, "", c.now, func() (bool, error) {
				return true, c.observed(ctx, "access_token", func(ctx context.Context) error { return c.WeChat.WarmToken(ctx, r.App) })
			})
		})
	}
	var s wechat.Session
	err := c.observed(ctx, "jscode2session", func(ctx context.Context) error {
		u := c.State.upstreams.call(c.Route, r.WeChat, wechat.CallSession)
		return u.shares.within(ctx, c.holder(r), func() error {
			return u.do(ctx, r.App.ID, r.client(), c.now, func() (err error) {
				s, err = c.WeChat.Code2Session(ctx, r.App, r.Code)
				return err
			})
		})
	})
	// The error is ignored here: the phone step asks for the access token again and reports
	// the error, after this code's result has been kept.
	_ = warm.Wait()
	if err != nil {
		return caller{}, err
	}
	return caller{OpenID: s.OpenID, UnionID: s.UnionID}, nil
}

// identifyAgain returns the caller from the session that these codes opened within the
// last minute. It does not revive a session that has ended meanwhile.
func (c *Chain) identifyAgain(ctx context.Context, again replayed) (caller, error) {
	s, err := c.Sessions.Store.Session(ctx, again.SessionID)
	switch {
	case errors.Is(err, session.ErrNotFound):
		return caller{}, refuse(problem.LoginCodeInvalid, nil, wechat.RenewCode)
	case err != nil:
		return caller{}, fromStore(err)
	case c.over(s):
		return caller{}, refuse(problem.LoginCodeInvalid, nil, wechat.RenewCode)
	}
	return caller{OpenID: s.OpenID, UnionID: s.UnionID}, nil
}
