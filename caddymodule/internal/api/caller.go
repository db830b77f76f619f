package api

import (
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/gate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// caller returns the identity in the request's token, or the refusal.
func (c *call) caller() (*token.Identity, *problem.Problem) {
	d := c.Gate.Authenticate(c.r, c.now)
	return d.Caller, d.Refusal
}

// formerCaller is caller for a logout: it also accepts a token that has expired, or
// whose session has ended.
func (c *call) formerCaller() (*token.Identity, *problem.Problem) {
	cred, refusal := c.Gate.Credential(c.r)
	if refusal == nil && cred.Kind == gate.Bearer && !cred.Malformed {
		if caller, err := c.Verifier.VerifyExpired(c.Keys(), cred.Token, c.now); err == nil {
			return caller, nil
		}
	}
	return c.caller()
}
