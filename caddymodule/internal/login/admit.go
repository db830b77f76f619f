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
	bound := known.Binding
	if known.Taken {
		// Another openid has replaced this account, and somebody else may hold its number by
		// now.
		bound = user.Binding{}
	}
	now := c.now()
	silent := l.phone.IsZero()
	switch {
	case silent && bound.UserID != "" && (bound.State != user.Active || now.Sub(bound.PhoneAt) > c.Silent):
		return admitted{}, refuse(problem.PhoneRequired, nil)
	case bound.State == user.Suspended:
		// Only the phone number can prove who owns that account now.
		bound = user.Binding{}
	}
	detached := known.Detached
	if silent {
		detached = ""
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
		if _, err := c.Sessions.EndUser(ctx, u.ID, session.ReasonRevoked, now); err != nil {
			return admitted{}, fromStore(err)
		}
		return admitted{}, refuse(problem.UserDisabled, nil)
	}
	b := user.Binding{AppID: appid, OpenID: l.who.OpenID, UnionID: l.who.UnionID, UserID: u.ID, PhoneAt: now, AuthAt: now}
	phone := l.phone
	if silent {
		b.AuthAt = time.Time{}
		if bound.AppID == appid && bound.OpenID == l.who.OpenID && bound.UserID == u.ID {
			b.AuthAt = bound.AuthAt // unchanged by this login
		}
	}
	if silent && u.ID == bound.UserID {
		b.PhoneAt = bound.PhoneAt // a silent login does not extend the time for silent logins
		phone = bound.Phone
	}
	if u.Phone.IsZero() { // the directory returns no numbers: use WeChat's
		u.Phone, b.Phone = phone, phone
	}
	return admitted{u, b, known}, nil
}
