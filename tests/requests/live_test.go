//lint:file-ignore SA1019 net/http's own client does not let :protocol through
package requests

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// soon is the time within which a connection must end.
const soon = time.Second

func (g *guard) open(t testing.TB, target string, lines ...string) *rig.Socket {
	t.Helper()
	return rig.OpenSocketWith(t, g.Addr, target, lines...)
}

// transport2 returns a transport for HTTP/2 without TLS.
func transport2() *http2.Transport {
	return &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
}

// open2 opens a WebSocket by extended CONNECT over HTTP/2 without TLS.
func (g *guard) open2(t testing.TB, target string, headers ...string) *rig.Socket {
	t.Helper()
	transport := transport2()
	pr, pw := io.Pipe()
	r, err := http.NewRequest(http.MethodConnect, g.URL()+target, pr)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pw.Close()
		resp.Body.Close()
		transport.CloseIdleConnections()
	})
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("not upgraded: %s %s", resp.Status, body)
	}
	return &rig.Socket{ReadWriteCloser: struct {
		io.Reader
		io.Writer
		io.Closer
	}{resp.Body, pw, pw}, R: resp.Body}
}

// expiry returns a token's exp.
func expiry(t testing.TB, token string) time.Time {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	var claims struct{ Exp int64 }
	if err == nil {
		err = json.Unmarshal(payload, &claims)
	}
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(claims.Exp, 0)
}

// overHTTP runs a test with a WebSocket over each version of HTTP that supports it.
func overHTTP(t *testing.T, caddyfile string, test func(t *testing.T, g *guard, open func(target string, lines ...string) *rig.Socket)) {
	t.Run("HTTP1", func(t *testing.T) {
		g := newGuard(t, caddyfile)
		g.up.SetHandler(http.HandlerFunc(rig.EchoUpgrade))
		test(t, g, func(target string, lines ...string) *rig.Socket { t.Helper(); return g.open(t, target, lines...) })
	})
	t.Run("HTTP2", func(t *testing.T) {
		g := newGuard(t, caddyfile, "GODEBUG=http2xconnect=1")
		g.up.SetHandler(http.HandlerFunc(rig.EchoUpgrade))
		test(t, g, func(target string, lines ...string) *rig.Socket { t.Helper(); return g.open2(t, target, lines...) })
	})
	t.Run("HTTP3", func(t *testing.T) {
		g := newGuard3(t, caddyfile)
		g.up.SetHandler(http.HandlerFunc(rig.EchoUpgrade))
		test(t, g, func(target string, lines ...string) *rig.Socket { t.Helper(); return g.open3(t, target, lines...) })
	})
}

// A WebSocket is opened just before its token expires. It must not stay open for longer
// than the token is valid.
func TestWebSocketEndsWithItsToken(t *testing.T) {
	t.Parallel()
	overHTTP(t, guardSite("token {\nlifetime 3s\nleeway 0s\n}", "credential query"), func(t *testing.T, g *guard, open func(string, ...string) *rig.Socket) {
		token := g.login(t, "13800138000").Token
		end := expiry(t, token)
		first := open("/api/ws", "Authorization: Bearer "+token)
		second := open("/optional/ws?a=b&access_token=" + token)
		anonymous := open("/optional/ws")
		public := open("/free/ws", "Authorization: Bearer "+token)
		first.Alive(t)
		second.Alive(t)
		time.Sleep(time.Until(end.Add(-200 * time.Millisecond)))
		first.Alive(t)
		for _, s := range []*rig.Socket{first, second} {
			if late := s.Ends(t, 3*time.Second).Sub(end); late > soon || late < 0 {
				t.Errorf("ended %s after the token", late)
			}
		}
		anonymous.Alive(t) // these were opened without a token
		public.Alive(t)
	})
}

// A logout must end the session's WebSockets at once.
func TestWebSocketEndsWithItsSession(t *testing.T) {
	t.Parallel()
	overHTTP(t, guardSite(), func(t *testing.T, g *guard, open func(string, ...string) *rig.Socket) {
		for _, c := range []struct {
			name  string
			all   bool
			other bool // the user's other session ends too
		}{{"logout", false, false}, {"log out all", true, true}} {
			t.Run(c.name, func(t *testing.T) {
				one, two, stranger := g.login(t, "13800138000"), g.login(t, "13800138000"), g.login(t, "13900139000")
				var ending, staying []*rig.Socket
				ending = append(ending, open("/api/ws", "Authorization: Bearer "+one.Token), open("/api/ws", "Authorization: Bearer "+one.Token))
				other := open("/api/ws", "Authorization: Bearer "+two.Token)
				if c.other {
					ending = append(ending, other)
				} else {
					staying = append(staying, other)
				}
				staying = append(staying, open("/api/ws", "Authorization: Bearer "+stranger.Token))
				for _, s := range append(ending, staying...) {
					s.Alive(t)
				}
				start := time.Now()
				g.Client().Logout(one.Token, "", c.all).Want(t, http.StatusNoContent)
				for _, s := range ending {
					if late := s.Ends(t, 3*time.Second).Sub(start); late > soon {
						t.Errorf("ended %s after the logout", late)
					}
				}
				for _, s := range staying {
					s.Alive(t)
				}
			})
		}
	})
}

// A WebSocket on a public path is open to everybody, if the rule names CONNECT, which
// is its method over HTTP/2 and HTTP/3.
func TestPublicWebSocket(t *testing.T) {
	t.Parallel()
	overHTTP(t, guardSite("public GET CONNECT /live"), func(t *testing.T, g *guard, open func(string, ...string) *rig.Socket) {
		open("/live").Alive(t)
	})
}

// A client neither reads nor sends, so the proxy is blocked in a write. The connection
// must end all the same.
func TestStalledWebSocketEndsToo(t *testing.T) {
	t.Parallel()
	overHTTP(t, guardSite(), func(t *testing.T, g *guard, open func(string, ...string) *rig.Socket) {
		pair := g.login(t, "13800138000")
		open("/api/flood", "Authorization: Bearer "+pair.Token)
		time.Sleep(300 * time.Millisecond) // until all buffers are full
		if g.Log.Lines("connection closed") != nil {
			t.Fatal("it has ended already")
		}
		g.Client().Logout(pair.Token, "", false).Want(t, http.StatusNoContent)
		g.Log.Wait(t, soon, "connection closed")
	})
}

// A WebSocket opened before a reload still ends with its token and its session.
func TestReloadKeepsTheWatch(t *testing.T) {
	t.Parallel()
	overHTTP(t, guardSite(), func(t *testing.T, g *guard, open func(string, ...string) *rig.Socket) {
		// On a busy machine, the reloads may take longer than the token is valid.
		for lifetime := 6 * time.Second; !reloadKeepsTheWatch(t, g, open, lifetime); lifetime *= 2 {
			if lifetime > time.Minute {
				t.Fatalf("three reloads take longer than %s", lifetime)
			}
			t.Logf("three reloads take longer than %s", lifetime)
		}
	})
}

// reloadKeepsTheWatch returns false if the token expired during the reloads.
func reloadKeepsTheWatch(t *testing.T, g *guard, open func(string, ...string) *rig.Socket, lifetime time.Duration) bool {
	g.reload(t, guardSite(fmt.Sprintf("token {\nlifetime %s\nleeway 0s\n}", lifetime)))
	expiring := g.login(t, "13800138000")
	end := expiry(t, expiring.Token)
	byExpiry := open("/api/ws", "Authorization: Bearer "+expiring.Token)
	g.reload(t, guardSite("register off"))
	pair := g.login(t, "13800138000")
	byLogout := open("/api/ws", "Authorization: Bearer "+pair.Token)
	g.reload(t, guardSite("login_rate 40/m"))
	g.reload(t, guardSite())
	byLogout.Alive(t)
	if time.Until(end) < time.Second {
		return false
	}
	byExpiry.Alive(t)
	start := time.Now()
	g.Client().Logout(pair.Token, "", false).Want(t, http.StatusNoContent)
	if late := byLogout.Ends(t, 3*time.Second).Sub(start); late > soon {
		t.Errorf("ended %s after the logout", late)
	}
	if late := byExpiry.Ends(t, lifetime+3*time.Second).Sub(end); late > soon || late < 0 {
		t.Errorf("ended %s after the token", late)
	}
	return true
}

// Once no configuration has a wx_auth with this store, nothing would end the
// connections later, so they end now.
func TestConnectionsEndWithTheDirective(t *testing.T) {
	t.Parallel()
	g := newGuard(t, guardSite())
	g.up.SetHandler(http.HandlerFunc(rig.EchoUpgrade))
	s := g.open(t, "/api/ws", "Authorization: Bearer "+g.login(t, "13800138000").Token)
	s.Alive(t)
	g.reload(t, rig.Site("reverse_proxy {$UPSTREAM} {\nstream_close_delay 1h\n}"))
	s.Ends(t, soon)
}

// A token in Sec-WebSocket-Protocol must not be repeated in the answer, where logs and
// other servers see it.
func TestAnswerNamesNoCredentialAsProtocol(t *testing.T) {
	t.Parallel()
	g := newGuard3(t, guardSite("credential websocket_protocol"))
	g.up.SetHandler(http.HandlerFunc(rig.EchoUpgrade))
	token := g.login(t, "13800138000").Token
	everyHTTP(t, g, func(t *testing.T, g *guard) {
		upgraded := http.StatusSwitchingProtocols
		if g.later != nil {
			upgraded = http.StatusOK
		}
		for _, c := range []struct{ offered, chosen, want string }{
			{"bearer, " + token, "", ""},
			{"bearer, " + token, "bearer", ""},
			{"bearer, " + token, token, ""},
			{"bearer, " + token + ", chat", "chat", "chat"},
			{"chat, bearer, " + token, "bearer, chat", "chat"},
		} {
			a := g.ask("GET", "/api/ws", rig.UpgradeLines("Sec-WebSocket-Protocol: "+c.offered, "X-Protocol: "+c.chosen)...)
			if a.Status != upgraded || a.Header.Get("Sec-WebSocket-Protocol") != c.want {
				t.Errorf("chosen %.10q: %d, the answer says %q", c.chosen, a.Status, a.Header.Get("Sec-WebSocket-Protocol"))
			}
		}
	})
}

// Only upgraded connections end with their token. Java's client asks for h2c in every
// request and gets an ordinary answer, which must not be cut off.
func TestStreamsOutliveTheirToken(t *testing.T) {
	g := newGuard3(t, guardSite("token {\nlifetime 2s\nleeway 0s\n}"))
	three := &http3.Transport{TLSClientConfig: config3()}
	t.Cleanup(func() { three.Close() })
	const steps, step = 16, 250 * time.Millisecond
	g.up.SetHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "%d %v", n, err)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/events") {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		for i := range steps {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(step)
		}
	}))
	for _, c := range []struct {
		name    string
		client  http.RoundTripper
		origin  string
		headers http.Header
	}{
		{"plain", http.DefaultTransport, g.URL(), http.Header{}},
		{"asking for an h2c", http.DefaultTransport, g.URL(),
			http.Header{"Connection": {"Upgrade, HTTP2-Settings"}, "Upgrade": {"h2c"}, "Http2-Settings": {"AAMAAABkAAQAAP__"}}},
		{"asking for a socket that nobody gives", http.DefaultTransport, g.URL(), http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
			"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}},
		{"HTTP2", transport2(), g.URL(), http.Header{}},
		{"HTTP3", three, "https://" + g.addr2(), http.Header{}},
	} {
		for _, path := range []string{"/api/events", "/api/download", "/api/upload"} {
			t.Run(c.name+path, func(t *testing.T) {
				t.Parallel()
				token := g.login(t, "13800138000").Token
				method, want := http.MethodGet, fmt.Sprintf("data: %d\n\n", steps-1)
				var body io.Reader
				if path == "/api/upload" {
					method, want = http.MethodPost, fmt.Sprintf("%d <nil>", steps)
					pr, pw := io.Pipe()
					body = pr
					go func() {
						for range steps {
							time.Sleep(step)
							if _, err := pw.Write([]byte{1}); err != nil {
								return
							}
						}
						pw.Close()
					}()
				}
				r, err := http.NewRequest(method, c.origin+path, body)
				if err != nil {
					t.Fatal(err)
				}
				r.Header = c.headers.Clone()
				r.Header.Set("Authorization", "Bearer "+token)
				resp, err := c.client.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				if a := rig.ReadAnswer(resp); a.Err != nil || a.Status != http.StatusOK || !strings.HasSuffix(a.Body, want) {
					t.Errorf("cut: %d %v %q", a.Status, a.Err, a.Body)
				}
				if time.Now().Before(expiry(t, token).Add(soon)) {
					t.Error("it ended before that showed anything")
				}
			})
		}
	}
}

// Many idle sockets are held open, and the processor time of the process is compared
// with its time without them. WX_AUTH_TEST_SOCKETS sets their number; the default is
// low enough for any limit of open files.
func TestIdleWebSocketsCostNoTimers(t *testing.T) {
	n := 1000
	if v := os.Getenv("WX_AUTH_TEST_SOCKETS"); v != "" {
		if _, err := fmt.Sscan(v, &n); err != nil {
			t.Fatal(err)
		}
	}
	g := newGuard(t, guardSite())
	g.up.SetHandler(http.HandlerFunc(rig.EchoUpgrade))
	pair := g.login(t, "13800138000")
	busy := func() time.Duration {
		start := rig.ProcessorTime(t, g.PID())
		time.Sleep(2 * time.Second)
		return rig.ProcessorTime(t, g.PID()) - start
	}
	before := busy()
	sockets := make([]*rig.Socket, n)
	for i := range sockets {
		sockets[i] = g.open(t, "/api/ws", "Authorization: Bearer "+pair.Token)
	}
	time.Sleep(time.Second) // the work of opening them is over by then
	idle := busy()
	t.Logf("on the processor in 2 s: %s without sockets, %s with %d", before, idle, n)
	if idle-before > 200*time.Millisecond {
		t.Errorf("%d idle sockets cost %s in 2 s", n, idle-before)
	}
	start := time.Now()
	g.Client().Logout(pair.Token, "", false).Want(t, http.StatusNoContent)
	for _, s := range sockets {
		s.Ends(t, 10*time.Second)
	}
	took := time.Since(start)
	t.Logf("all %d ended %s after the logout", n, took)
	if took > soon && !rig.RaceDetector {
		t.Errorf("the last of %d sockets ended %s after the logout", n, took)
	}
}
