package rig

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// The ports for the tests' servers are below those that systems use for outgoing connections.
// Otherwise such a connection could take a port after it was chosen and before it is used.
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
		// Processes of several packages choose ports at the same time. The process that holds
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
