package rig

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Ports for what the tests start lie below those that systems give to outgoing
// connections: one of these could take a port between its choice and its use.
const (
	firstPort = 12000
	ports     = 10000
)

// FreeAddress is an address of 127.0.0.1 where nobody listens, and that no other
// call in any process of these tests returns while this test runs.
func FreeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		port := firstPort + rand.IntN(ports)
		// Who has this socket owns the port: processes of several packages choose at once.
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
