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
