//go:build linux

package bench

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// memory measures what stays of a WebSocket; the cache and the revoked sessions
// are among what is measured in process.
func memory(t *testing.T, p *page) {
	p.heading("Memory")
	p.text("Of a cached token and of a million revoked sessions see `CacheMemory` and `RevokedMemory` above. An idle WebSocket, in the heap and the stacks of the proxy after a collection:")
	upstream := rig.Serve(t, http.HandlerFunc(upgrade))
	wx, key := rig.NewWeChat(t), newSigning(t, "ES256")
	plain := rig.StartCaddy(t, site(), wx.Environ(upstream)...)
	gateway := rig.StartCaddy(t, site(wxAuth(key.options())), wx.Environ(upstream)...)
	token := login(t, gateway, wx)

	n := often(3000, 30)
	p.table("WebSockets", "plain, each", "with the gateway, each", "difference")
	var each [2]float64
	for i, c := range []*rig.Caddy{plain, gateway} {
		openSockets(t, c, token, 10) // what the first ones make ready stays
		before := heap(t, c)
		openSockets(t, c, token, n)
		each[i] = float64(heap(t, c)-before) / float64(n)
	}
	cells := []string{fmt.Sprint(n), fmt.Sprintf("%.0f B", each[0]), fmt.Sprintf("%.0f B", each[1]), fmt.Sprintf("%+.0f B", each[1]-each[0])}
	t.Log(cells)
	p.row(cells...)
	p.end()
	plain.Kill9() // or it would wait for the connections
	gateway.Kill9()
}

// openSockets opens WebSockets, on which nothing is sent, for the time of the test.
func openSockets(t testing.TB, c *rig.Caddy, token string, n int) {
	for range n {
		conn, err := net.Dial("tcp", c.Addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nPragma: no-cache\r\n"+
			"Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (iPhone) MicroMessenger/8.0.50\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\nAuthorization: Bearer %s\r\n\r\n", token)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("not upgraded: %v, %v", resp, err)
		}
	}
}

// upgrade turns what asks for it into a connection that says nothing.
func upgrade(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
	_, _ = io.Copy(io.Discard, conn)
}
