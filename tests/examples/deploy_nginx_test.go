package examples

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// The tests of forward auth run nginx with the configuration of docs/forward-auth.md. The
// example has the same text in a file, and the two must stay equal.
func TestNginxExampleIsThePages(t *testing.T) {
	t.Parallel()
	if example, block := readExample(t, "nginx/auth_request.conf"), rig.PageBlock(t, "forward-auth.md", "auth_request /_wx_auth"); !strings.HasSuffix(example, block) {
		t.Error("examples/nginx/auth_request.conf is not the block of docs/forward-auth.md")
	}
	if err := rig.NewCaddy(t).Validate(strings.ReplaceAll(readExample(t, "nginx/auth_request.Caddyfile"), "wx_auth {env.WX_APPID} {env.WX_SECRET}", "respond ok")); err != nil {
		t.Error(err)
	}
}

// A team keeps nginx in front. Logins, refusals and uploads pass through it. A client can
// neither choose the address by which limits count it, nor send a header that the API takes
// for an identity.
func TestNginxInFront(t *testing.T) {
	t.Parallel()
	g := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	_, port, _ := net.SplitHostPort(rig.FreeAddress(t))
	caddyfile := rig.Replaced(t, readExample(t, "nginx/front.Caddyfile"), "http://:8080 {", "http://:"+port+" {\n\tlog",
		"wx_auth {env.WX_APPID} {env.WX_SECRET}", "wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n}", "localhost:3000", "{$UPSTREAM}")
	g.Caddy = rig.StartCaddy(t, caddyfile, g.WeChat.Environ(g.Upstream.Addr)...)
	addr := rig.FreeAddress(t)
	rig.StartNginx(t, addr, rig.Replaced(t, readExample(t, "nginx/front.conf"), "listen 443 ssl;", "listen "+addr+";",
		"ssl_certificate /etc/nginx/tls/api.example.com.pem;", "", "ssl_certificate_key /etc/nginx/tls/api.example.com.key;", "", "127.0.0.1:8080", "127.0.0.1:"+port))
	g.Client = rig.NewClient(t, "http://"+addr)
	p := g.MustLogin(t, "13800138000")
	seen := g.Get("/orders?a=b", p.Token, "X-WX-PHONE: +8613900139000", "X-Forwarded-For: 203.0.113.9").Seen(t)
	seen.WantHeader(t, "X-WX-USER-ID", p.UserInfo.ID)
	seen.WantHeader(t, "X-WX-PHONE", "+8613800138000")
	seen.WantHeader(t, "X-Forwarded-For", "127.0.0.1, 127.0.0.1")
	if seen.URI != "/orders?a=b" {
		t.Errorf("the API saw %s", seen.URI)
	}
	g.Get("/orders", "x").WantProblem(t, http.StatusUnauthorized, "token_invalid", nil)
	g.Do(http.MethodPost, "/orders", strings.Repeat("x", 2<<20), "Content-Type: application/octet-stream").WantProblem(t, http.StatusUnauthorized, "token_missing", nil)
	g.Caddy.Stop()
	if log := g.Caddy.Log.String(); strings.Contains(log, `"client_ip":"203.0.113.9"`) || !strings.Contains(log, `"client_ip":"127.0.0.1"`) {
		t.Error("the client chose its address")
	}
}
