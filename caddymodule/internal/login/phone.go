package login

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// numbered is the result of the phone step: the number, and the openid with which the code was
// exchanged. Only that openid may use it.
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
		a := c.account(r, who)
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
	exchanged := false
	n, err := do(ctx, s, s.phone, next, func(ctx context.Context, seen time.Time) (numbered, error) {
		p, err := c.askPhone(ctx, r, openid)
		if err == nil {
			exchanged = true
			c.fate(r, Exchanged)
		}
		return numbered{OpenID: openid, Phone: p, Seen: seen}, err
	})
	if err != nil {
		if !exchanged {
			c.fateOfFailed(r, err)
		}
		return n, err
	}
	if n.OpenID != openid {
		c.fate(r, Refused)
		e := refuse(problem.PhoneCodeInvalid, nil, wechat.RenewCode, wechat.RenewPhoneCode)
		e.Refused = true
		return numbered{}, e
	}
	if !exchanged {
		c.fate(r, Replayed)
	}
	return n, nil
}

// Fate names the end of a phone code. WeChat charges for each code that it exchanges.
type Fate string

// These are the fates. A code that can be sent again has none yet.
const (
	Exchanged Fate = "exchanged" // WeChat gave its number
	Replayed  Fate = "replayed"  // its number was known from an earlier exchange
	Refused   Fate = "refused"   // it was refused, and not exchanged
	Lost      Fate = "lost"      // it was used up, but its number did not arrive
)

func (c *Chain) fate(r Request, f Fate) {
	if c.PhoneCode != nil {
		c.PhoneCode(r.App.ID, f)
	}
}

// fateOfFailed reports the fate of a phone code whose exchange has failed.
func (c *Chain) fateOfFailed(r Request, err error) {
	var e *Error
	switch {
	case !errors.As(err, &e):
	case e.Refused:
		c.fate(r, Refused)
	case slices.Contains(e.Renew, string(wechat.RenewPhoneCode)):
		c.fate(r, Lost)
	}
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
		u := c.State.upstreams.call(c.Route, r.WeChat, wechat.CallPhone)
		// A login waits for its client before it enters a breaker: as a probe that waits, it
		// would keep the others' from probing.
		return u.shares.within(ctx, cmp.Or(r.client(), openid), func() error {
			made := false // stays false if there was no access token
			return c.State.upstreams.tokenOf(c.Route, r).do(r.App.ID, "", c.now, func() (bool, error) {
				err := u.do(ctx, r.App.ID, openid, c.now, func() (err error) {
					made = true
					number, err = c.WeChat.PhoneNumber(ctx, r.App, r.PhoneCode, openid)
					return err
				})
				return made, err
			})
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
