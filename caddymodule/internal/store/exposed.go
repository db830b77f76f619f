package store

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/network"
)

// An address that does not say whether connections are encrypted leaves that to the
// server, or to an attacker in between: PostgreSQL's default falls back to plain text
// when the server has no TLS, MySQL's is plain text. Within a machine or a private network
// plain text is usual; over a public address, anybody on the way could read passwords and
// phone numbers. There such a connection is encrypted or refused, unless the address asks for
// plain text (sslmode=disable, tls=false).

// plainTextOutside is the remedy, up to the words that allow plain text.
const plainTextOutside = "the database has a public address, where connections are encrypted unless the store's address says otherwise: " +
	"switch TLS on at the server, or, to send passwords and phone numbers in plain text all the same, write"

// lookup resolves a host's name. Tests replace it.
type lookup func(ctx context.Context, host string) ([]netip.Addr, error)

func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// exposes reports whether connections to a host leave private networks. It fails for a
// host that cannot be looked up: the driver looks it up again, and may then succeed.
func (l lookup) exposes(ctx context.Context, host string) (bool, error) {
	if host == "" || strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") { // a Unix socket
		return false, nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return public(ip), nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout/2)
	defer cancel()
	ips, err := l(ctx, host)
	return slices.ContainsFunc(ips, public), err
}

func public(a netip.Addr) bool { return !network.Private(a) }
