package login

import (
	"context"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// numbered is the result of the phone step: the number, and the openid with which the
// code was exchanged. It can be used with that openid only.
type numbered struct {
	OpenID string     `json:"openid"`
	Phone  user.Phone `json:"phone"`
	// Seen is the time at which the phone code was first seen, by the database's clock.
	Seen time.Time `json:"seen,omitzero"`
}

// phone exchanges the phone code, or returns the kept result. A silent login has no
// phone code.
//
// WeChat refuses a phone code that comes with another user's openid. Such an attempt
// must not become the owner's answer, nor may the owner's result become the other's.
//
// begun is the time at which the first of the login's codes was first seen.
func (c *Chain) phone(ctx context.Context, s *steps, r Request, who caller) (number user.Phone, begun time.Time, err error) {
	if r.PhoneCode == "" {
		return user.Phone{}, who.Seen, nil
	}
	next := func(n numbered) Account {
		a := r.account(who)
		a.Phone = n.Phone
		return a
	}
	n, err := c.number(ctx, s, r, who.OpenID, next)
	if err != nil {
		return user.Phone{}, time.Time{}, err
	}
	return n.Phone, earlier(who.Seen, n.Seen), nil
}

// number does the phone step, or finds its result.
func (c *Chain) number(ctx context.Context, s *steps, r Request, openid string, next func(numbered) Account) (numbered, error) {
	n, err := do(ctx, s, s.phone, next, func(ctx context.Context, seen time.Time) (numbered, error) {
		p, err := c.askPhone(ctx, r, openid)
		return numbered{OpenID: openid, Phone: p, Seen: seen}, err
	})
	if err == nil && n.OpenID != openid {
		e := refuse(problem.PhoneCodeInvalid, nil, wechat.RenewCode, wechat.RenewPhoneCode)
		e.Refused = true
		return numbered{}, e
	}
	return n, err
}

// earlier returns the earlier of two times. Zero means unknown; if either is unknown,
// the result is too.
func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (c *Chain) askPhone(ctx context.Context, r Request, openid string) (user.Phone, error) {
	var number wechat.PhoneNumber
	err := c.observed(ctx, "getuserphonenumber", func(ctx context.Context) error {
		made := false // also if there was no access token
		return c.State.upstreams.token(c.Route, r.App.ID).do("", c.now, func() (bool, error) {
			err := c.State.upstreams.call(c.Route, r.WeChat, wechat.CallPhone).do(ctx, r.App.ID, openid, c.now, func() (err error) {
				made = true
				number, err = c.WeChat.PhoneNumber(ctx, r.App, r.PhoneCode, openid)
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
