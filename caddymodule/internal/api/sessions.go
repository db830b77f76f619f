package api

import (
	"net/http"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// listSessions lists the caller's sessions at this issuer, newest first.
func (c *call) listSessions() error {
	caller, p := c.caller()
	if p != nil {
		return c.refuse(p)
	}
	ss, err := c.ofCaller(caller)
	if err != nil {
		return c.refuse(c.storeFailed("listing sessions", err))
	}
	devices := make([]account.Device, 0, len(ss))
	for _, s := range ss {
		d := account.DeviceOf(s)
		current := s.ID == caller.SessionID()
		d.Current = &current
		devices = append(devices, d)
	}
	return c.answer(http.StatusOK, "application/json", map[string]any{"sessions": devices})
}

// endSession ends one of the caller's sessions. It answers 404 for a session of another user.
func (c *call) endSession() error {
	caller, p := c.caller()
	if p != nil {
		return c.refuse(p)
	}
	ss, err := c.ofCaller(caller)
	if err != nil {
		return c.refuse(c.storeFailed("ending a session", err))
	}
	ctx, done := c.seenThrough()
	defer done()
	// Another replica may have ended the caller's own session a moment ago.
	if open, err := c.isOpen(ctx, caller); err != nil {
		return c.refuse(c.storeFailed("ending a session", err))
	} else if !open {
		return c.refuse(problem.New(problem.TokenRevoked))
	}
	for _, s := range ss {
		if s.ID != c.id {
			continue
		}
		one := account.Presented{Session: s}
		ended, err := c.Accounts.LogOut(ctx, one, false, c.now)
		if err != nil {
			return c.refuse(c.storeFailed("ending a session", err))
		}
		c.loggedOut([]account.Presented{one}, false, ended)
		if s.ID == caller.SessionID() {
			c.setCookie("", 0)
		}
		return c.answer(http.StatusNoContent, "", nil)
	}
	p = problem.New(problem.NotFound)
	p.Detail = "You have no such session."
	return c.refuse(p)
}

func (c *call) ofCaller(caller *token.Identity) ([]session.Session, error) {
	all, err := c.Sessions.Store.UserSessions(c.r.Context(), caller.Subject(), c.now)
	ours := all[:0]
	for _, s := range all {
		if s.Issuer == c.Sessions.Issuer {
			ours = append(ours, s)
		}
	}
	return ours, err
}
