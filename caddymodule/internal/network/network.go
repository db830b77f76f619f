// Package network decides which addresses and host names belong to a private network. It does no
// I/O and knows nothing of what connects to them.
package network

import (
	"net/netip"
	"strings"
)

// carrierNAT is a range in which some clouds put their load balancers (RFC 6598).
var carrierNAT = netip.MustParsePrefix("100.64.0.0/10")

// Private reports whether an address belongs to this machine or to a private network.
// The zero address does, because a Unix socket has none.
func Private(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || carrierNAT.Contains(a)
}

// LoopbackHost reports whether a URL's host is this machine.
func LoopbackHost(host string) bool {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return strings.EqualFold(host, "localhost")
	}
	return a.Unmap().IsLoopback()
}

// InternalHost reports whether a URL's host, judged by its address or name alone, is in
// the operator's own network. It is stricter than [Private], because secrets are sent
// there in plain text.
func InternalHost(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap()
		return a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast()
	}
	host = strings.ToLower(host)
	return !strings.Contains(host, ".") || strings.HasSuffix(host, ".internal") || strings.HasSuffix(host, ".local")
}
