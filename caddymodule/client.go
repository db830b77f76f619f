package caddymodule

import (
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/network"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
)

// client returns the network that the limits count the request by; false if it is
// not known. Where a load balancer that Caddy does not trust passes requests on, all
// clients have its address, and a limit by address would lock all of them out.
func (c *call) client() (netip.Prefix, bool) {
	addr, _ := netip.ParseAddr(clientIP(c.r))
	if addr = addr.Unmap(); network.Private(addr) {
		c.site.warnPrivate(c.r)
		return netip.Prefix{}, false
	}
	if !trustedProxy(c.r) && len(c.r.Header["X-Forwarded-For"]) > 0 {
		c.site.warnForwarded()
	}
	return ratelimit.Subscriber(addr), true
}

// clientIP is the client's address as Caddy resolves it: a header counts only from a
// proxy that Caddy trusts.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// trustedProxy reports whether Caddy takes the peer for one of its trusted proxies.
func trustedProxy(r *http.Request) bool {
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted
}

// The remedies for requests whose client is not known.
const (
	remedyProxies = "behind a load balancer set in the global options: servers { trusted_proxies static private_ranges, and in the next line trusted_proxies_strict }"
	remedyUnix    = "behind a proxy that connects over a Unix socket set in the global options: servers { trusted_proxies_unix, and in the next line trusted_proxies_strict }"
)

// warnPrivate logs, once for each configuration, that the limits by address are off.
func (s *site) warnPrivate(r *http.Request) {
	if !s.warnedPrivate.CompareAndSwap(false, true) {
		return
	}
	if _, err := netip.ParseAddrPort(r.RemoteAddr); err != nil {
		s.log.Warn("login_rate, and the limit of wrong service keys, are off: requests come over a Unix socket, and Caddy does not know their clients' addresses",
			zap.String("remedy", remedyUnix))
		return
	}
	s.log.Warn("login_rate, and the limit of wrong service keys, are off: to Caddy, clients have a loopback, private or link-local address, so all of them may look like one",
		zap.String("remedy", remedyProxies))
}

// warnForwarded logs, once for each configuration, that a proxy may not be trusted.
func (s *site) warnForwarded() {
	if s.warnedForwarded.CompareAndSwap(false, true) {
		s.log.Warn("a request with X-Forwarded-For came from a public address that is not one of Caddy's trusted proxies: if that is your load balancer or CDN, all its clients count as one in login_rate",
			zap.String("remedy", "if it is your proxy, name its addresses in the global options: servers { trusted_proxies static <addresses>, and in the next line trusted_proxies_strict }; else a client made the header up, and there is nothing to do"))
	}
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
