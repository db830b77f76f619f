package ratelimit

import "net/netip"

// translated is where NAT64 puts IPv4 clients (RFC 6052): one address each, all in
// one /64.
var translated = netip.MustParsePrefix("64:ff9b::/96")

// Subscriber returns the network that one client may have: its IPv4 address, or
// the /64 of an IPv6 address. An IPv4 address may come written as IPv6. All
// addresses that are not valid are one.
func Subscriber(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 32
	} else if translated.Contains(addr) {
		bits = 128
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
