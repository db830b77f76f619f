package requests

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// onThisMachine changes a page's Caddyfile for a test: its site is at {$ADDR}, and its
// upstream and WeChat are the test's.
func onThisMachine(t testing.TB, block string, oldnew ...string) string {
	t.Helper()
	const app = "wx_auth {env.WX_APPID} {env.WX_SECRET}"
	wechat := " {\nwechat {\napi {$WX_API}\n}\n"
	if strings.Contains(block, app+" {\n") {
		oldnew = append(oldnew, app+" {\n", app+wechat)
	} else {
		oldnew = append(oldnew, app+"\n", app+wechat+"}\n")
	}
	return rig.Replaced(t, block, append(oldnew, "api.example.com {", "http://{$ADDR} {", "localhost:3000", "{$UPSTREAM}")...)
}

// Behind WeChat's own gateway, the log has the client's address, limits count by it, and
// WeChat's risk rank reaches the API. Nobody but WeChat's gateway can set either.
func TestWeChatsGatewayNamesTheClient(t *testing.T) {
	t.Parallel()
	for _, page := range rig.InBothLanguages("deploy.md") {
		block := onThisMachine(t, rig.PageBlock(t, page, "client_ip_headers"),
			"\tservers {", "\tdefault_bind 127.0.0.1\n\tservers {", "reverse_proxy", "log\n\treverse_proxy")
		lines := []string{"X-Wx-Client-Ip: 203.0.113.9", "X-WX-Risk-Rank: 3", "X-WX-USER-ID: 1"}
		g := newGuard(t, block)
		good := "Authorization: Bearer " + g.login(t, "13800138000").Token
		seen := g.ask("GET", "/orders", append(lines, good)...).Seen(t)
		seen.WantHeader(t, "X-WX-Risk-Rank", "3")
		if seen.Header.Get("X-WX-USER-ID") == "1" || seen.Header.Get("X-WX-USER-ID") == "" {
			t.Errorf("docs/%s: the API saw %v", page, seen.Header)
		}
		g.Stop()
		if !strings.Contains(g.Log.String(), `"client_ip":"203.0.113.9"`) {
			t.Errorf("docs/%s: the log lacks the client's address", page)
		}
	}
}

// The configuration for nginx in front is the example's file, which other tests run.
func TestNginxInFrontIsTheExample(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile("../../examples/nginx/front.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	if block := rig.PageBlock(t, "deploy.md", "# nginx on this machine."); block != string(example) {
		t.Error("docs/deploy.md has another text than examples/nginx/front.Caddyfile")
	}
}

// The page's limits per user need a plugin that is not in this build. This test checks what
// those limits take from the gateway: a key for each user, and a header that only requests
// with an identity have. Both must be there when the plugin's directive runs.
func TestLimitsPerUserHaveTheirKey(t *testing.T) {
	t.Parallel()
	block := rig.PageBlock(t, "backends.md", "rate_limit {")
	before, rest, found := strings.Cut(block, "\t\trate_limit {")
	_, after, ended := strings.Cut(rest, "\n\t\t}\n")
	if !found || !ended || !strings.Contains(rest, "header X-WX-USER-ID *") || !strings.Contains(rest, "key {http.auth.user.id}\n") {
		t.Fatalf("the block is another one:\n%s", block)
	}
	stand := "\t\t@known header X-WX-USER-ID *\n\t\theader @known X-Key {http.auth.user.id}\n"
	g := newGuard(t, "{\ndefault_bind 127.0.0.1\n}\n"+onThisMachine(t, before+stand+after))
	one, other := g.login(t, "13800138000"), g.login(t, "13900139000")
	for _, p := range []struct{ token, id string }{{one.Token, one.UserInfo.ID}, {other.Token, other.UserInfo.ID}} {
		a := g.ask("GET", "/orders", "Authorization: Bearer "+p.token, "X-WX-USER-ID: 1")
		if a.Status != http.StatusOK || a.Header.Get("X-Key") != p.id {
			t.Errorf("%d, the key %q, want %q", a.Status, a.Header.Get("X-Key"), p.id)
		}
	}
}
