package sqldb

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/network"
)

// If the address does not set whether connections are encrypted, the server decides that. So does
// an attacker between us and the server: by default PostgreSQL clients fall back to plain text if
// the server has no TLS, and MySQL clients use plain text. Within a machine or a private network
// plain text is common. To a public address, anybody on the path could read passwords and phone
// numbers. So connections to a public address are encrypted or refused, unless the address asks for
// plain text (sslmode=disable, tls=false).

// plainTextOutside is the remedy. The name of the setting that allows plain text follows it.
const plainTextOutside = "the database has a public address, where connections are encrypted unless the store's address says otherwise: " +
	"switch TLS on at the server, or, to send passwords and phone numbers in plain text all the same, write"

// lookup resolves a host's name. Tests replace it.
type lookup func(ctx context.Context, host string) ([]netip.Addr, error)

func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// exposes reports whether connections to a host leave private networks. It returns an error if the
// host's name cannot be looked up. The driver then looks it up again, and may succeed.
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
