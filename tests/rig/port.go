package rig

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Ports for servers of the tests lie below those that systems use for outgoing
// connections: otherwise such a connection could take a port between its choice and its
// use.
const (
	firstPort = 12000
	ports     = 10000
)

// FreeAddress returns an address of 127.0.0.1 where no server listens. No other call in
// any process of these tests returns the same address while this test runs.
func FreeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		port := firstPort + rand.IntN(ports)
		// Processes of several packages choose ports at the same time. Whoever holds
		// this socket owns the port.
		claim, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", port+ports))
		if err != nil {
			continue
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			claim.Close()
			continue
		}
		ln.Close()
		t.Cleanup(func() { claim.Close() })
		return addr
	}
	t.Fatal("no free port")
	return ""
}
