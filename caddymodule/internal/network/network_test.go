package network

import (
	"net/netip"
	"testing"
)

// The limits by client address, and the store's rule about plain text, both depend on whether a
// stranger could have an address.
func TestPrivate(t *testing.T) {
	for text, want := range map[string]bool{
		"":            true, // a Unix socket
		"127.0.0.1":   true,
		"::1":         true,
		"0.0.0.0":     true,
		"10.1.2.3":    true,
		"172.16.0.1":  true,
		"192.168.1.1": true,
		"169.254.1.1": true,
		"100.64.0.1":  true,
		"fd00::1":     true,
		"fe80::1%eth": true,

		"::ffff:10.0.0.1":  true,
		"::ffff:192.0.2.1": false,
		"192.0.2.1":        false,
		"172.32.0.1":       false,
		"100.128.0.1":      false,
		"2001:db8::1":      false,
	} {
		a, _ := netip.ParseAddr(text)
		if got := Private(a); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// A secret may be sent over plain HTTP only to a host that must be in the operator's
// network.
func TestHosts(t *testing.T) {
	for host, want := range map[string]struct{ loopback, internal bool }{
		"localhost":      {true, true},
		"LocalHost":      {true, true},
		"127.0.0.1":      {true, true},
		"::1":            {true, true},
		"10.0.0.1":       {false, true},
		"tokens":         {false, true},
		"a.b.internal":   {false, true},
		"printer.local":  {false, true},
		"100.64.0.1":     {false, false},
		"0.0.0.0":        {false, false},
		"example.com":    {false, false},
		"local.example":  {false, false},
		"93.184.216.34":  {false, false},
		"a.internal.com": {false, false},
	} {
		if LoopbackHost(host) != want.loopback || InternalHost(host) != want.internal {
			t.Errorf("%s: loopback %v, internal %v", host, LoopbackHost(host), InternalHost(host))
		}
	}
}
