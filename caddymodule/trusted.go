package caddymodule

import (
	"reflect"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// trustsProxies reports whether a server has trusted proxies. When our handler is
// provisioned Caddy has loaded them into an unexported field and forgotten what the
// configuration says. A test over the built binary fails if a later Caddy names the
// field otherwise.
func trustsProxies(s *caddyhttp.Server) bool {
	f := reflect.ValueOf(s).Elem().FieldByName("trustedProxies")
	return s.TrustedProxiesRaw != nil || f.IsValid() && f.Kind() == reflect.Interface && !f.IsNil()
}

// warnNotStrict logs that a server trusts proxies and takes the first address in
// X-Forwarded-For, which is the client's own word, for the client's.
func (a *Background) warnNotStrict(s *caddyhttp.Server) {
	if s == nil || s.TrustedProxiesStrict > 0 || !s.TrustedProxiesUnix && !trustsProxies(s) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.warned[s] {
		return
	}
	if a.warned == nil {
		a.warned = make(map[*caddyhttp.Server]bool)
	}
	a.warned[s] = true
	a.log.Warn("the server has trusted_proxies without trusted_proxies_strict: Caddy then takes the first address in X-Forwarded-For for the client's, which the client may have written; "+
		"login_rate and the limit of wrong service keys can be passed by, and others be locked out",
		zap.String("server", s.Name()), zap.String("remedy", "add trusted_proxies_strict in servers { } of the global options"))
}
