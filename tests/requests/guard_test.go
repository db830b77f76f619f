package requests

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// guardSite has a path of each kind in front of an upstream: /api/ is protected,
// /optional/ and /public/ are what their names say, and the matcher leaves /free/ out.
func guardSite(options ...string) string {
	return rig.Site("@guarded not path /free/*\nwx_auth @guarded {env.WX_APPID} {env.WX_SECRET} {\n"+
		"public /public/*\noptional /optional/*\nwechat {\napi {$WX_API}\n}\n"+strings.Join(options, "\n")+"\n}\n"+
		"reverse_proxy {$UPSTREAM} {\nstream_close_delay 1h\n}", "servers {\nprotocols h1 h2c\n}")
}

// front is the built binary, together with the WeChat that it calls.
type front struct {
	*rig.Caddy
	wx     *rig.WeChat
	later  sender // sends requests over a later version; nil: HTTP/1.1
	origin string // origin of a page of the site over that version
}

func startFront(t testing.TB, caddyfile, upstream string, env ...string) front {
	t.Helper()
	wx := rig.NewWeChat(t)
	caddy := rig.StartCaddy(t, caddyfile, append(wx.Environ(upstream), env...)...)
	return front{Caddy: caddy, wx: wx, origin: caddy.URL()}
}

// addr2 returns {$ADDR2}.
func (f *front) addr2() string { return f.Getenv("ADDR2") }

// login logs in the user with that number.
func (f *front) login(t testing.TB, number string) rig.Pair {
	t.Helper()
	codes := f.wx.Tap(t, number)
	return f.Client().Login(codes.Code, codes.PhoneCode).Pair(t)
}

// guard is a gateway in front of an upstream that counts requests.
type guard struct {
	front
	up   *rig.Upstream
	site func(caddyfile string) string // completes a Caddyfile
}

func newGuard(t testing.TB, caddyfile string, env ...string) *guard {
	t.Helper()
	return startGuard(t, func(caddyfile string) string { return caddyfile }, caddyfile, env...)
}

// newGuard3 is newGuard with HTTP/2 and HTTP/3, for a Caddyfile with one site.
func newGuard3(t testing.TB, caddyfile string) *guard {
	t.Helper()
	g := startGuard(t, withHTTP3, caddyfile, "ADDR2="+rig.FreeAddress(t), "GODEBUG=http2xconnect=1")
	awaitHTTP3(t, g.addr2())
	return g
}

func startGuard(t testing.TB, site func(string) string, caddyfile string, env ...string) *guard {
	t.Helper()
	up := rig.NewUpstream(t)
	return &guard{startFront(t, site(caddyfile), up.Addr, env...), up, site}
}

// reload also waits until the former listener is closed. Caddy does not wait, and
// connections that it has not accepted by then are reset.
func (g *guard) reload(t testing.TB, caddyfile string) {
	t.Helper()
	if err := g.Reload(g.site(caddyfile)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
}

// ask sends a request with exactly these header lines.
func (g *guard) ask(method, target string, lines ...string) rig.Answer {
	text := method + " " + target + " HTTP/1.1\r\nHost: " + g.Addr + "\r\n"
	for _, line := range lines {
		text += line + "\r\n"
	}
	return g.later.send(g.Addr, text+"\r\n")
}

// wants sends a request and checks the result: either the refusal, with nothing at the
// upstream, or no refusal. It returns what the upstream saw.
func (g *guard) wants(t *testing.T, want refusal, method, target string, lines ...string) rig.Seen {
	t.Helper()
	before := g.up.Hits()
	a := g.ask(method, target, lines...)
	if want.status != 0 {
		a.WantProblem(t, want.status, want.code, nil)
		if g.up.Hits() != before {
			t.Error("the upstream was asked")
		}
		if want.status == http.StatusUnauthorized && !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer ") {
			t.Errorf("challenge %q", a.Header.Get("WWW-Authenticate"))
		}
		return rig.Seen{}
	}
	if a.Err != nil || a.Status != http.StatusOK {
		t.Fatalf("%d %v: %s", a.Status, a.Err, a.Body)
	}
	return a.Seen(t)
}

// refusal is the status and code of an answer; the zero value means that the request
// passes.
type refusal struct {
	status int
	code   string
}

var (
	goesOn        = refusal{}
	twoTokens     = refusal{400, "invalid_request"}
	tokenMissing  = refusal{401, "token_missing"}
	tokenInvalid  = refusal{401, "token_invalid"}
	tokenExpired  = refusal{401, "token_expired"}
	tokenRevoked  = refusal{401, "token_revoked"}
	crossSite     = refusal{403, "cookie_cross_site"}
	kindsOfPaths  = []string{"/api/x", "/optional/x", "/public/x", "/free/x"}
	foreignTokens = []string{"eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl", "opaque", "x.y", "."}
)
