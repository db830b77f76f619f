// Package caddymodule is the Caddy plugin: the directive wx_auth, which logs WeChat mini
// program users in by their phone number and guards an HTTP API with the tokens that it
// issues. Importing the package registers it:
//
//	import _ "github.com/wx-auth/caddy-wx-auth/caddymodule"
//
// It registers the handler http.handlers.wx_auth, the directories of users
// wx_auth.users.webhook and wx_auth.users.sql, an app wx_auth without settings that keeps
// what the handlers use open and fresh, and the command `caddy wx-auth`. The fields of
// [Handler] are the JSON configuration. example_test.go shows a directory of another
// kind.
//
// How a request goes through it is in handler.go. The endpoints under /auth/wx, and all
// that knows nothing of Caddy, are the packages in internal.
package caddymodule

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

func init() {
	caddy.RegisterModule((*Handler)(nil))
	caddy.RegisterModule((*Background)(nil))
	caddy.RegisterModule((*WebhookUsers)(nil))
	caddy.RegisterModule((*SQLUsers)(nil))
	httpcaddyfile.RegisterDirective("wx_auth", parseCaddyfile)
	// What forward_auth copies into the request may be what a matcher looks at;
	// all that changes or answers the request comes later.
	httpcaddyfile.RegisterDirectiveOrder("wx_auth", httpcaddyfile.After, "forward_auth")
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.wx_auth",
		New: func() caddy.Module { return new(Handler) },
	}
}
