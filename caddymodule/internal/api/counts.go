package api

import (
	"cmp"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/metrics"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
)

// Every refusal of an endpoint is counted once: for a login or a refresh by its outcome, for
// all other endpoints by its code.

// attempted describes a login that was refused before it reached the chain. For all other
// logins the chain calls OnDone.
type attempted struct {
	app, kind string
	done      bool // OnDone has counted and logged it, or will do so
}

// count counts a refusal.
func (c *call) count(code problem.Code) {
	if c.counts == nil {
		c.Metrics.Refused(code)
		return
	}
	c.counts(c, code)
}

func (c *call) countRefresh(code problem.Code) { c.Metrics.Refresh(code) }

// countLogin also writes the login's log line.
func (c *call) countLogin(code problem.Code) {
	if c.tried.done {
		return
	}
	c.tried.done = true
	app, kind := cmp.Or(c.tried.app, metrics.None), cmp.Or(c.tried.kind, metrics.Phone)
	c.Metrics.Login(app, kind, code)
	c.Log.Info("login refused", zap.String("kind", kind), zap.String("appid", app), zap.String("code", string(code)),
		zap.String("address", c.address()), zap.String("requestId", c.requestID()))
}
