package rig

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// The ports for test servers lie below the range that systems use for outgoing
// connections. A connection in that range could take a port between its choice and its
// use.
const (
	firstPort = 12000
	ports     = 10000
)

// FreeAddress returns an address of 127.0.0.1 at which no server listens. No other call
// in any process of these tests returns it while this test runs.
func FreeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		port := firstPort + rand.IntN(ports)
		// The process that holds this socket owns the port, because processes of
		// several packages choose ports at the same time.
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
