package caddymodule

import (
	"errors"
	"net/http"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// me answers the caller's user.
func (c *call) me() error {
	caller, p := c.caller()
	if p != nil {
		return p.write(c.w, c.r)
	}
	var u user.User
	err := c.mayAsk("me", caller.SessionID())
	if err == nil {
		u, err = c.site.directory.Check(c.r.Context(), caller.Subject())
	}
	var much tooMany
	switch {
	case errors.As(err, &much):
		return much.problem().write(c.w, c.r)
	case errors.Is(err, user.ErrUnknown):
		p := newProblem(codeSessionEnded)
		p.Detail = "This user does not exist any more."
		return p.write(c.w, c.r)
	case errors.Is(err, user.ErrMisconfigured):
		c.storeFailed("looking up a user", err)
		return newProblem(string(login.Misconfigured)).write(c.w, c.r)
	case err != nil:
		c.storeFailed("looking up a user", err)
		return newProblem(string(login.DirectoryUnavailable)).write(c.w, c.r)
	case u.Disabled:
		return newProblem(string(login.UserDisabled)).write(c.w, c.r)
	}
	if u.Phone.IsZero() { // the directory returns none
		u.Phone, _ = user.ParsePhone("", caller.Phone())
	}
	return answer(c.w, c.r, http.StatusOK, "application/json", userInfo(u))
}

// jwks answers the public keys, for backends that verify tokens themselves.
func (c *call) jwks() error {
	body := c.site.keys().JWKS()
	h := c.w.Header()
	h.Set("Cache-Control", "max-age=300")
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(body)
	return nil
}
