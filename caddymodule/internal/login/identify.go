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

// identify learns who sent the login code, and which session both codes have opened, if
// they have.
//
// Codes that have opened a session already do without WeChat, and alone: who
// comes with this login code but another phone code must not learn from them
// whose it was.
func (c *Chain) identify(ctx context.Context, r Request, both Key) (who caller, again replayed, err error) {
	if who, err = c.caller(ctx, r); err != nil || !who.Spent {
		return who, again, err
	}
	if again, err = c.opened(ctx, both); err != nil {
		return caller{}, again, err
	}
	if again.SessionID == "" {
		e := refuse(problem.LoginCodeInvalid, ErrCodeSpent, wechat.RenewCode)
		e.Refused = true // as WeChat would
		return caller{}, again, e
	}
	who, err = c.identifyAgain(ctx, again)
	return who, again, err
}

// caller exchanges the login code, or finds what was kept of that.
func (c *Chain) caller(ctx context.Context, r Request) (caller, error) {
	k := loginStep(r)
	var further []Key
	if r.PhoneCode != "" {
		further = append(further, phoneStep(r))
	}
	return c.State.callers.join(ctx, k, c.Hold, func(ctx context.Context) (caller, error) {
		return once(ctx, c, k, func(seen time.Time) (caller, error) {
			who, err := c.askCaller(ctx, r)
			if err != nil {
				if c.keptMeanwhile(ctx, err, k, &who) {
					return who, nil
				}
				c.lostOnTheWay(k, err)
				return caller{}, err
			}
			who.Seen = seen
			// Whatever fails from here on, this code is not asked for again.
			return who, c.keep(ctx, k, who)
		}, further...)
	})
}

// askCaller exchanges the login code. Where a phone code follows, the access
// token is fetched beside it, so that the two do not add up.
func (c *Chain) askCaller(ctx context.Context, r Request) (caller, error) {
	var warm errgroup.Group
	if r.PhoneCode != "" {
		warm.Go(func() error {
			return c.State.upstreams.token(c.Route, r.App.ID).do("", c.now, func() (bool, error) {
				return true, c.observed(ctx, "access_token", func() error { return c.WeChat.WarmToken(ctx, r.App) })
			})
		})
	}
	var s wechat.Session
	err := c.observed(ctx, "jscode2session", func() error {
		return c.State.upstreams.call(c.Route, r.WeChat, wechat.CallSession).do(ctx, r.App.ID, r.client(), c.now, func() (err error) {
			s, err = c.WeChat.Code2Session(ctx, r.App, r.Code)
			return err
		})
	})
	// The phone step asks for the access token again and meets its error, if
	// any: by then this code's result is kept.
	_ = warm.Wait()
	if err != nil {
		return caller{}, err
	}
	return caller{OpenID: s.OpenID, UnionID: s.UnionID}, nil
}

// identifyAgain takes the caller from the session that these codes opened
// within the last minute. A session that has ended meanwhile is not revived.
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
