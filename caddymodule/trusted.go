package caddymodule

import (
	"reflect"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// trustsProxies reports whether a server has trusted proxies. When our handler is
// provisioned Caddy has loaded them into an unexported field and forgotten what the
// configuration says. A test over the built binary fails if a later Caddy names the
// field otherwise.
func trustsProxies(s *caddyhttp.Server) bool {
	f := reflect.ValueOf(s).Elem().FieldByName("trustedProxies")
	return s.TrustedProxiesRaw != nil || f.IsValid() && f.Kind() == reflect.Interface && !f.IsNil()
}
