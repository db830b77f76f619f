package login

import (
	"context"
	"errors"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// phone exchanges the phone code, which has been paid for: its result is kept
// before anything else can fail. A silent login has none.
//
// One phone code is exchanged by one login at a time. Somebody else's try with
// it, which WeChat refuses, must not become the owner's answer, nor the owner's
// theirs: who finds another's under way waits for its end and looks again.
//
// begun is when the first of the login's codes was first seen.
func (c *Chain) phone(ctx context.Context, r Request, who caller) (number user.Phone, begun time.Time, err error) {
	if r.PhoneCode == "" {
		return user.Phone{}, who.Seen, nil
	}
	k := phoneStep(r)
	for {
		own, err := c.State.phones.join(ctx, k, c.Hold, func(ctx context.Context) (owned, error) {
			return c.exchange(ctx, r, k, who)
		})
		if own.OpenID == who.OpenID || ctx.Err() != nil || errors.As(err, new(*Panic)) {
			return own.Phone, earlier(who.Seen, own.Seen), err
		}
	}
}

// exchange is the phone step of one caller, whose openid is in the result also
// where there is an error.
func (c *Chain) exchange(ctx context.Context, r Request, k Key, who caller) (owned, error) {
	own, err := once(ctx, c, k, func(seen time.Time) (own owned, err error) {
		p, err := c.askPhone(ctx, r, who)
		if err != nil {
			if c.keptMeanwhile(ctx, err, k, &own) {
				return own, nil
			}
			c.lostOnTheWay(k, err)
			return owned{}, err
		}
		own = owned{OpenID: who.OpenID, Phone: p, Seen: seen}
		return own, c.keep(ctx, k, own)
	})
	if err == nil && own.OpenID != who.OpenID {
		e := refuse(problem.PhoneCodeInvalid, nil, wechat.RenewCode, wechat.RenewPhoneCode)
		e.Refused, err = true, e
	}
	if err != nil {
		return owned{OpenID: who.OpenID}, err
	}
	return own, nil
}

func (c *Chain) askPhone(ctx context.Context, r Request, who caller) (user.Phone, error) {
	var number wechat.PhoneNumber
	err := c.observed(ctx, "getuserphonenumber", func() error {
		made := false // also where the token was wanting
		return c.State.upstreams.token(c.Route, r.App.ID).do("", c.now, func() (bool, error) {
			err := c.State.upstreams.call(c.Route, r.WeChat, wechat.CallPhone).do(ctx, r.App.ID, who.OpenID, c.now, func() (err error) {
				made = true
				number, err = c.WeChat.PhoneNumber(ctx, r.App, r.PhoneCode, who.OpenID)
				return err
			})
			return made, err
		})
	})
	if err != nil {
		return user.Phone{}, err
	}
	p, err := user.ParsePhone(number.CountryCode, number.PurePhoneNumber)
	if err != nil {
		return user.Phone{}, refuse(problem.WeChatError, err, wechat.RenewPhoneCode)
	}
	return p, nil
}
