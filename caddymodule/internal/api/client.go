package api

import (
	"net/http"
	"net/netip"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/network"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
)

// client returns the network that identifies the client to the limits, or false if it is
// unknown. Behind a load balancer that Caddy does not trust, all clients have the load
// balancer's address, and a limit by address would lock all of them out.
func (c *call) client() (netip.Prefix, bool) {
	client := c.subscriber(c.r)
	if !client.IsValid() {
		c.warnPrivate(c.r)
		return client, false
	}
	if !c.Host.TrustedProxy(c.r) && len(c.r.Header["X-Forwarded-For"]) > 0 {
		c.warnForwarded()
	}
	return client, true
}

// subscriber returns the network that a request came from, or zero if it is private.
func (s *Server) subscriber(r *http.Request) netip.Prefix {
	addr, _ := netip.ParseAddr(s.Host.ClientIP(r))
	if network.Private(addr) {
		return netip.Prefix{}
	}
	return ratelimit.Subscriber(addr)
}

// address returns the client's address for logs and sessions.
func (c *call) address() string { return c.Host.ClientIP(c.r) }

// These are the remedies for requests whose client is unknown.
const (
	remedyProxies = "behind a load balancer set in the global options: servers { trusted_proxies static private_ranges, and in the next line trusted_proxies_strict }"
	remedyUnix    = "behind a proxy that connects over a Unix socket set in the global options: servers { trusted_proxies_unix, and in the next line trusted_proxies_strict }"
)

// warnPrivate logs, once for each configuration, that the limits by address are off.
func (s *Server) warnPrivate(r *http.Request) {
	if !s.warnedPrivate.CompareAndSwap(false, true) {
		return
	}
	if _, err := netip.ParseAddrPort(r.RemoteAddr); err != nil {
		s.Log.Warn("login_rate, and the limit of wrong service keys, are off: requests come over a Unix socket, and Caddy does not know their clients' addresses",
			remedy.ClientUnknown.Field(remedyUnix))
		return
	}
	s.Log.Warn("login_rate, and the limit of wrong service keys, are off: to Caddy, clients have a loopback, private or link-local address, so all of them may look like one",
		remedy.ClientUnknown.Field(remedyProxies))
}

// warnForwarded logs, once for each configuration, that a proxy in front of Caddy seems not to
// be among its trusted proxies.
func (s *Server) warnForwarded() {
	if s.warnedForwarded.CompareAndSwap(false, true) {
		s.Log.Warn("a request with X-Forwarded-For came from a public address that is not one of Caddy's trusted proxies: if that is your load balancer or CDN, all its clients count as one in login_rate",
			remedy.ClientUnknown.Field("if it is your proxy, name its addresses in the global options: servers { trusted_proxies static <addresses>, and in the next line trusted_proxies_strict }; else a client made the header up, and there is nothing to do"))
	}
}
