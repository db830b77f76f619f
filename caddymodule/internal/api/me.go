package api

import (
	"errors"
	"net/http"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// me answers with the caller's user.
func (c *call) me() error {
	caller, p := c.caller()
	if p != nil {
		return c.refuse(p)
	}
	var u user.User
	err := c.mayAsk("me", caller.SessionID())
	if err == nil {
		u, err = c.Directory.Check(c.r.Context(), caller.Subject())
	}
	var much tooMany
	switch {
	case errors.As(err, &much):
		return c.refuse(much.problem())
	case errors.Is(err, user.ErrUnknown):
		p := problem.New(problem.SessionEnded)
		p.Detail = "This user does not exist any more."
		return c.refuse(p)
	case err != nil:
		return c.refuse(c.directoryOrStoreFailed("looking up a user", err))
	case u.Disabled:
		return c.refuse(problem.New(problem.UserDisabled))
	}
	if u.Phone.IsZero() { // the directory returns no numbers
		u.Phone, _ = user.ParsePhone("", caller.Phone())
	}
	return c.answer(http.StatusOK, "application/json", account.UserInfo(u))
}

// jwks answers with the public keys, for backends that verify tokens themselves.
func (c *call) jwks() error {
	body := c.Keys().JWKS()
	h := c.w.Header()
	h.Set("Cache-Control", "max-age=300")
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(body)
	return nil
}
