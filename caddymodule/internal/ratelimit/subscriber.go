package ratelimit

import "net/netip"

// translated is the prefix under which NAT64 represents IPv4 clients (RFC 6052). Each client
// has one address, and all of them are in one /64.
var translated = netip.MustParsePrefix("64:ff9b::/96")

// Subscriber returns the network that one client may own: its IPv4 address, or the /64
// of its IPv6 address. An IPv4 address may be written as IPv6. All invalid addresses
// map to the same result.
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
