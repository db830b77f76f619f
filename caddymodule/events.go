package caddymodule

import (
	"context"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
)

// emit tells Caddy's events app, if there are handlers for events, what
// happened. The answer is settled by then: a handler can change nothing of it.
// Phone numbers are masked.
func (s *site) emit(_ context.Context, name string, data map[string]any) {
	if s.events == nil {
		return
	}
	data["issuer"] = s.set.Token.Issuer
	go s.events.Emit(s.ctx, name, data)
}

func (c *call) emitLogin(res login.Result) {
	ctx := c.r.Context()
	data := func() map[string]any {
		d := map[string]any{"user": res.User.ID, "session": res.Session.ID, "appid": res.Session.AppID}
		if !res.User.Phone.IsZero() {
			d["phone"] = res.User.Phone.Masked()
		}
		return d
	}
	if res.User.New && !res.Replayed {
		c.site.emit(ctx, "wx_auth_user_created", data())
	}
	if len(res.Ended) > 0 {
		d := data()
		d["ended"] = res.Ended
		c.site.emit(ctx, "wx_auth_phone_rebound", d)
	}
	c.site.emit(ctx, "wx_auth_login", data())
}
