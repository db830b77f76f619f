//go:build linux

package bench

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// memory measures the memory that a WebSocket holds. The cache and the set of revoked
// sessions are measured in process.
func memory(t *testing.T, p *page) {
	p.heading("Memory")
	p.text("For a cached token and for a million revoked sessions, see `CacheMemory` and `RevokedMemory` above. An idle WebSocket, in the proxy's heap and stacks after a garbage collection:")
	upstream := rig.Serve(t, http.HandlerFunc(upgrade))
	wx, key := rig.NewWeChat(t), newSigning(t, "ES256")
	environ := append(wx.Environ(upstream), "GODEBUG=memprofilerate=8192")
	plain := rig.StartCaddy(t, site(), environ...)
	gateway := rig.StartCaddy(t, site(wxAuth(key.options())), environ...)
	token := login(t, gateway, wx)

	rounds, n := often(5, 1), often(600, 30)
	var each [2][]float64
	var before [2]string
	for i, c := range []*rig.Caddy{plain, gateway} {
		openSockets(t, c, token, 10) // the first ones allocate memory that is kept
		before[i] = heapProfile(t, c)
	}
	for range rounds {
		for i, c := range []*rig.Caddy{plain, gateway} {
			used := heap(t, c)
			openSockets(t, c, token, n)
			each[i] = append(each[i], float64(heap(t, c)-used)/float64(n))
		}
	}
	p.table("WebSockets", "plain, each", "with the gateway, each", "difference")
	a, b := spreadOf(each[0]).median, spreadOf(each[1]).median
	cells := []string{fmt.Sprintf("%d times %d", rounds, n), fmt.Sprintf("%.0f B", a), fmt.Sprintf("%.0f B", b), fmt.Sprintf("%+.0f B", b-a)}
	t.Log(cells)
	p.row(cells...)
	p.end()

	p.text("How much more heap a socket takes with the gateway than without, by allocating function, where it is 100 bytes or more (values from pools and buffers vary by chance):")
	p.table("function", "difference")
	var grown [2]map[string]float64
	for i, c := range []*rig.Caddy{plain, gateway} {
		grown[i] = allocated(pprof(t, heapProfile(t, c), "-sample_index=inuse_space", "-unit=B", "-diff_base="+keep(t, before[i])))
	}
	for _, name := range slices.Sorted(maps.Keys(grown[1])) {
		if more := (grown[1][name] - grown[0][name]) / float64(rounds*n); more >= 100 {
			p.row("`"+name+"`", fmt.Sprintf("%+.0f B", more))
		}
	}
	p.end()
	plain.Kill9() // a clean stop would wait for the connections
	gateway.Kill9()
}

// heapProfile returns a profile of a Caddy's heap in use.
func heapProfile(t testing.TB, c *rig.Caddy) string {
	t.Helper()
	profile, err := c.Admin("/debug/pprof/heap?gc=1")
	if err != nil {
		t.Fatal(err)
	}
	return profile
}

// allocated reads from pprof's table how many bytes each function has allocated.
func allocated(top string) map[string]float64 {
	flat := make(map[string]float64)
	for line := range strings.Lines(top) {
		f := strings.Fields(line)
		if len(f) < 6 {
			continue
		}
		if bytes, err := strconv.ParseFloat(strings.TrimSuffix(f[0], "B"), 64); err == nil {
			flat[f[5]] = bytes
		}
	}
	return flat
}

// openSockets opens WebSockets until the end of the test and sends nothing on them.
func openSockets(t testing.TB, c *rig.Caddy, token string, n int) {
	for range n {
		rig.OpenSocketWith(t, c.Addr, "/live", "Pragma: no-cache", "Cache-Control: no-cache", "User-Agent: Mozilla/5.0 (iPhone) MicroMessenger/8.0.50",
			"Sec-WebSocket-Extensions: permessage-deflate", "Authorization: Bearer "+token)
	}
}

// upgrade upgrades a connection and then sends nothing.
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
