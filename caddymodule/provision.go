package caddymodule

import (
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/api"
)

// Provision checks the configuration and takes hold of what it shares with
// others. It only reads: validating a configuration beside a running instance
// creates, locks and migrates nothing.
func (h *Handler) Provision(ctx caddy.Context) error {
	set, err := h.settings()
	if err != nil {
		return err
	}
	if h.MatcherRaw != nil {
		loaded, err := ctx.LoadModule(h, "MatcherRaw")
		if err != nil {
			return fmt.Errorf("loading the matcher: %w", err)
		}
		for _, m := range loaded.(map[string]any) {
			h.matcher = append(h.matcher, m)
		}
	}
	app, err := ctx.App("wx_auth")
	if err != nil {
		return err
	}
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("loading the events app: %w", err)
	}
	raw := h.UsersRaw // Caddy forgets what it has loaded
	users, err := h.loadUsers(ctx)
	if err != nil {
		return err
	}
	directory, err := nameOfDirectory(users, raw, atProvision)
	if err != nil {
		return err
	}
	if h.site, err = newSite(ctx, ctx.Logger(), set, users); err != nil {
		return err
	}
	h.site.events = events.(*caddyevents.App)
	h.site.directoryName, h.site.names = directory, set.storeNames(directory)
	h.site.noStoreLine = h.Store == nil || h.Store.URL == ""
	h.site.api.Metrics = app.(*Background).metrics
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server != nil && len(h.PassHeaders) > 0 && !trustsProxies(server) && !server.TrustedProxiesUnix {
		return misset("pass_header", errors.New("no proxy is trusted here, so no header would pass: "+
			"name your proxy by trusted_proxies in servers { } of the global options"))
	}
	app.(*Background).warnNotStrict(server)
	if server != nil { // not in tests
		server.RegisterConnContext(api.NoteAliases())
	}
	if err := app.(*Background).add(h.site); err != nil {
		return err
	}
	return h.site.resume()
}

// Cleanup lets go of what Provision took hold of. A reload does not wait for the
// requests under way: those that get here later still find the site.
func (h *Handler) Cleanup() error {
	if h.site == nil {
		return nil
	}
	return h.site.close()
}
