package gate

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// FuzzSources checks that every credential that the gate finds is also removed: afterwards no
// source presents one, and the rest of the request is a subsequence of the original.
func FuzzSources(f *testing.F) {
	f.Add("a=1&access_token=ours.good&b=%zz", "a=1; __Host-wx-auth=ours.good; b", "chat, bearer, ours.good")
	f.Add("%61ccess_token=a+b&access_token", " __Host-wx-auth = x ;;__Host-wx-auth", "bearer,bearer,bearer")
	f.Add("access_token=%&&access_token==", "__Host-wx-auth=;=;__Host-wx-auth==", ",,bearer,\t,")
	f.Fuzz(func(t *testing.T, query, cookie, protocol string) {
		g := newGate(t, Settings{Sources: Sources{Cookie: DefaultCookie, Query: DefaultQuery, WebSocketProtocol: true}}, &stubTokens{})
		r := httptest.NewRequest("GET", "/x", nil)
		r.URL.RawQuery = query
		r.Header = http.Header{
			"Cookie": {cookie}, "Sec-Websocket-Protocol": {protocol}, "Connection": {"keep-alive, Upgrade"}, "Upgrade": {"WebSocket"},
		}
		for _, s := range g.presented(nil, r, true) {
			g.drop(r, s.from)
		}
		if left := g.presented(nil, r, true); len(left) > 0 {
			t.Errorf("still presented: %+v", left)
		}
		for _, part := range []struct{ before, after, sep string }{
			{query, r.URL.RawQuery, "&"},
			{cookie, r.Header.Get("Cookie"), ";"},
			{strings.Join(protocols([]string{protocol}), ","), strings.Join(protocols(r.Header["Sec-Websocket-Protocol"]), ","), ","},
		} {
			was := strings.Split(part.before, part.sep)
			for i, piece := range strings.Split(part.after, part.sep) {
				at := slices.IndexFunc(was, func(p string) bool {
					return p == piece || (i == 0 && strings.TrimLeft(p, " \t") == piece)
				})
				if at < 0 && part.after != "" {
					t.Fatalf("%q became %q", part.before, part.after)
				}
				was = was[at+1:]
			}
		}
	})
}

// TestOnlyWebSocketsAreUpgrades checks which requests open a WebSocket. A token in the
// query of any other request must be ignored, because it would end up in logs and in
// Referer.
func TestOnlyWebSocketsAreUpgrades(t *testing.T) {
	for _, c := range []struct {
		method string
		major  int
		proto  string
		header http.Header
		want   bool
	}{
		{"GET", 1, "HTTP/1.1", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}, true},
		{"GET", 1, "HTTP/1.1", http.Header{"Connection": {"keep-alive", "x, uPGRADE "}, "Upgrade": {"WebSocket"}}, true},
		{"GET", 1, "HTTP/1.1", http.Header{"Upgrade": {"websocket"}}, false},
		{"GET", 1, "HTTP/1.1", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket", "websocket"}}, false},
		{"GET", 1, "HTTP/1.1", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"h2c"}}, false},
		{"POST", 1, "HTTP/1.1", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}, false},
		{"GET", 2, "HTTP/2.0", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}, false},
		{"CONNECT", 2, "HTTP/2.0", http.Header{":protocol": {"websocket"}}, true},
		{"CONNECT", 2, "HTTP/2.0", http.Header{":protocol": {"connect-udp"}}, false},
		{"CONNECT", 2, "HTTP/2.0", nil, false},
		{"CONNECT", 3, "websocket", nil, true},
		{"CONNECT", 3, "HTTP/3.0", nil, false},
	} {
		r := &http.Request{Method: c.method, ProtoMajor: c.major, Proto: c.proto, Header: c.header}
		if got := IsWebSocket(r); got != c.want {
			t.Errorf("%s %s %v: %v", c.method, c.proto, c.header, got)
		}
	}
}
