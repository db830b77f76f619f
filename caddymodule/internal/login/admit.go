package login

import (
	"context"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// admit asks the directory who this is. Our own binding goes first, then the
// unionid's; the directory is given both what is bound and the number.
func (c *Chain) admit(ctx context.Context, r Request, who caller, phone user.Phone) (user.User, user.Binding, error) {
	known, err := c.known(ctx, r.App.ID, who)
	if err != nil {
		return user.User{}, user.Binding{}, err
	}
	now := c.now()
	if phone.IsZero() && known.UserID != "" && now.Sub(known.PhoneAt) > c.Silent {
		return user.User{}, user.Binding{}, refuse(PhoneRequired, nil)
	}
	var u user.User
	err = c.observed(ctx, "directory", func() error {
		u, err = c.Directory.Login(ctx, user.Login{
			ID: directoryID(c.Sessions.Issuer, r), AppID: r.App.ID, OpenID: who.OpenID, UnionID: who.UnionID,
			Phone: phone, UserID: known.UserID,
			Rebound: !phone.IsZero() && !known.Phone.IsZero() && phone != known.Phone,
		})
		return err
	})
	if err != nil {
		return user.User{}, user.Binding{}, fromDirectory(err)
	}
	if u.Disabled {
		if _, err := c.Sessions.EndUser(ctx, u.ID, session.ReasonRevoked, now); err != nil {
			return user.User{}, user.Binding{}, fromStore(err)
		}
		return user.User{}, user.Binding{}, refuse(UserDisabled, nil)
	}
	b := user.Binding{AppID: r.App.ID, OpenID: who.OpenID, UnionID: who.UnionID, UserID: u.ID, PhoneAt: now}
	if phone.IsZero() && u.ID == known.UserID {
		b.PhoneAt = known.PhoneAt // a silent login does not prolong itself
		phone = known.Phone
	}
	if u.Phone.IsZero() { // the directory tells none: it is the one that WeChat has told
		u.Phone, b.Phone = phone, phone
	}
	return u, b, nil
}

// known returns the binding of the caller's openid in this app, or else one of
// their unionid in another. The unionid counts only where the user has no
// openid in this app yet: if they have another, that one replaced this caller,
// whose number somebody else may hold by now.
func (c *Chain) known(ctx context.Context, appid string, who caller) (user.Binding, error) {
	b, ok, err := c.Store.Binding(ctx, appid, who.OpenID)
	if err != nil {
		return user.Binding{}, fromStore(err)
	}
	if ok || who.UnionID == "" {
		return b, nil
	}
	b, ok, err = c.Store.BindingByUnionID(ctx, who.UnionID)
	if err != nil {
		return user.Binding{}, fromStore(err)
	}
	if !ok {
		return user.Binding{}, nil
	}
	_, taken, err := c.Store.UserBinding(ctx, appid, b.UserID)
	if err != nil {
		return user.Binding{}, fromStore(err)
	}
	if taken {
		return user.Binding{}, nil
	}
	return b, nil
}
