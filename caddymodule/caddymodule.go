// Package caddymodule is the Caddy plugin: the directive wx_auth, which logs WeChat mini
// program users in by their phone number and guards an HTTP API with the tokens that it
// issues. Importing the package registers it:
//
//	import _ "github.com/wx-auth/caddy-wx-auth/caddymodule"
//
// It registers the handler http.handlers.wx_auth, the directories of users
// wx_auth.users.webhook and wx_auth.users.sql, an app wx_auth without settings that keeps
// what the handlers use open and fresh, and the command `caddy wx-auth`. The fields of
// [Handler] are the JSON configuration. Folder examples/directory shows another
// kind.
//
// How a request goes through it is in handler.go. The endpoints under /auth/wx, and all
// that knows nothing of Caddy, are the packages in internal.
package caddymodule

import (
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/api"
)

func init() {
	caddy.RegisterModule((*Handler)(nil))
	caddy.RegisterModule((*Background)(nil))
	caddy.RegisterModule((*WebhookUsers)(nil))
	caddy.RegisterModule((*SQLUsers)(nil))
	httpcaddyfile.RegisterDirective("wx_auth", parseCaddyfile)
	// A matcher of wx_auth may look at what forward_auth copies into the request, so
	// forward_auth comes first. Every directive that changes or answers the request comes
	// later.
	httpcaddyfile.RegisterDirectiveOrder("wx_auth", httpcaddyfile.After, "forward_auth")
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.wx_auth",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision checks the configuration and acquires what this site shares with others. It only
// reads: validating a configuration beside a running instance creates, locks and migrates
// nothing.
func (h *Handler) Provision(ctx caddy.Context) error {
	set, err := h.settings()
	if err == nil {
		err = set.checkOwnApps()
	}
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
	raw := h.UsersRaw // Caddy clears it when it loads the module
	users, err := h.loadUsers(ctx)
	if err != nil {
		return err
	}
	directory, err := nameOfDirectory(users, raw, atProvision)
	if err != nil {
		return err
	}
	background := app.(*Background)
	if h.site, err = newSite(ctx, background, set, users, directory); err != nil {
		return err
	}
	h.site.events = events.(*caddyevents.App)
	h.site.noStoreLine = h.Store == nil || h.Store.URL == ""
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server != nil && len(h.PassHeaders) > 0 && !trustsProxies(server) && !server.TrustedProxiesUnix {
		return misset("pass_header", errors.New("no proxy is trusted here, so no header would pass: "+
			"name your proxy by trusted_proxies in servers { } of the global options"))
	}
	background.warnNotStrict(server)
	if server != nil { // nil in unit tests
		server.RegisterConnContext(api.NoteAliases())
	}
	if err := background.add(h.site); err != nil {
		return err
	}
	return h.site.Resume(ctx)
}

// Cleanup releases what Provision acquired. A reload does not wait for requests in progress: a
// request that gets here after Cleanup still finds the site.
func (h *Handler) Cleanup() error {
	if h.site == nil {
		return nil
	}
	return h.site.close()
}
