package login

import (
	"context"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// admitted is the directory's answer, together with what it was based on.
type admitted struct {
	user    user.User
	binding user.Binding
	known   Known
}

// admit asks the directory for the user. Our own binding is tried first, then that of
// the unionid; the directory gets the bound user and the number.
func (c *Chain) admit(ctx context.Context, l underway) (admitted, error) {
	appid := l.r.App.ID
	account := c.account(l.r, l.who)
	account.Phone = l.phone
	known, err := c.Store.Known(ctx, account)
	if err != nil {
		return admitted{}, fromStore(err)
	}
	now := c.now()
	silent := l.phone.IsZero()
	bound, err := c.recognized(known, silent, now)
	if err != nil {
		return admitted{}, err
	}
	detached := known.Detached
	if silent {
		detached = ""
	}
	if l.r.MayAsk != nil {
		if err := l.r.MayAsk(l.who.OpenID); err != nil {
			return admitted{}, refuse(problem.RateLimited, err)
		}
	}
	var u user.User
	err = c.observed(ctx, "directory", func(ctx context.Context) error {
		u, err = c.Directory.Login(ctx, user.Login{
			ID: directoryID(c.Sessions.Issuer, l.r), AppID: appid, OpenID: l.who.OpenID, UnionID: l.who.UnionID,
			Phone: l.phone, UserID: bound.UserID, Detached: detached,
			Rebound: !silent && !bound.Phone.IsZero() && l.phone != bound.Phone,
		})
		return err
	})
	if err != nil {
		return admitted{}, fromDirectory(err)
	}
	if u.Disabled {
		if err := c.revoke(ctx, u.ID, now); err != nil {
			return admitted{}, fromStore(err)
		}
		return admitted{}, refuse(problem.UserDisabled, nil)
	}
	b, phone := bindingAfter(l, bound, u.ID, now)
	if u.Phone.IsZero() { // the directory returns no numbers: use WeChat's
		u.Phone, b.Phone = phone, phone
	}
	return admitted{u, b, known}, nil
}

// revoke ends the sessions of a user that the directory has disabled, or does not know.
func (c *Chain) revoke(ctx context.Context, userID string, now time.Time) error {
	ended, err := c.Sessions.EndUser(ctx, userID, session.ReasonRevoked, now)
	if c.OnRevoked != nil && ended.Count > 0 { // after an error, too, some may have ended
		c.OnRevoked(userID, ended)
	}
	return err
}

// recognized returns the binding by which a login is recognized, or an empty one. It refuses a
// silent login that needs the phone number.
func (c *Chain) recognized(known Known, silent bool, now time.Time) (user.Binding, error) {
	bound := known.Binding
	if known.Taken {
		// Another openid has replaced this account, and somebody else may hold its number by
		// now.
		bound = user.Binding{}
	}
	if silent && bound.UserID != "" && (bound.State != user.Active || now.Sub(bound.PhoneAt) > c.Silent) {
		return user.Binding{}, refuse(problem.PhoneRequired, nil)
	}
	if bound.State == user.Suspended {
		// Only the phone number can prove who owns that account now.
		bound = user.Binding{}
	}
	return bound, nil
}

// bindingAfter returns the binding that a login leaves, and the number that WeChat knows for
// the user. bound is the binding by which the login was recognized.
func bindingAfter(l underway, bound user.Binding, userID string, now time.Time) (b user.Binding, phone user.Phone) {
	b = user.Binding{AppID: l.r.App.ID, OpenID: l.who.OpenID, UnionID: l.who.UnionID, UserID: userID, PhoneAt: now, AuthAt: now}
	if !l.phone.IsZero() {
		return b, l.phone
	}
	// A silent login extends neither the time for silent logins nor the openid's last phone login.
	b.AuthAt = time.Time{}
	if bound.UserID != userID {
		return b, user.Phone{}
	}
	if bound.AppID == b.AppID && bound.OpenID == b.OpenID {
		b.AuthAt = bound.AuthAt
	}
	b.PhoneAt = bound.PhoneAt
	return b, bound.Phone
}
