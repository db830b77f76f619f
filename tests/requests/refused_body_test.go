package requests

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// A team uses the block of docs/backends.md for clients that expect {"code":401}. They
// must get that body, with its own length, even during an upload.
func TestRefusalsInATeamsOwnForm(t *testing.T) {
	t.Parallel()
	block := rig.Replaced(t, rig.PageBlock(t, "backends.md", "intercept {"), "api.example.com {", "http://{$ADDR} {", "localhost:3000", "{$UPSTREAM}",
		"wx_auth {env.WX_APPID} {env.WX_SECRET}", "wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n}")
	g := newGuard(t, "{\ndefault_bind 127.0.0.1\n}\n"+block)
	pair := g.login(t, "13800138000")
	const theirs = `{"code":401,"message":"please log in"}`
	check := func(name string, a rig.Answer) {
		t.Helper()
		if a.Err != nil || a.Status != http.StatusUnauthorized || a.Body != theirs || a.Header.Get("Content-Type") != "application/json" || !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer ") {
			t.Errorf("%s: %d %v %v %q", name, a.Status, a.Err, a.Header, a.Body)
		}
		if length := a.Header.Get("Content-Length"); length != "" && length != fmt.Sprint(len(theirs)) {
			t.Errorf("%s: a length of %s", name, length)
		}
	}
	for range 2 { // the connection of the first one stays open
		check("no token", g.ask("GET", "/x"))
	}
	check("bad token", g.ask("POST", "/x", "Authorization: Bearer x", "Content-Length: 0"))
	check("endpoint", g.ask("GET", "/auth/wx/me"))
	for _, chunked := range []bool{false, true} {
		for _, size := range []int{1000, 300 << 10, 2 << 20, 20 << 20} {
			check(fmt.Sprintf("%d bytes", size), uploader{g.Addr, false, chunked}.send("POST", "/up", size))
		}
	}
	// Other refusals than 401 are still ours, and answers of the upstream are the
	// upstream's.
	g.ask("PUT", "/auth/wx").WantProblem(t, 405, "method_not_allowed", nil)
	g.ask("GET", "/x", "Authorization: Bearer "+pair.Token).Seen(t).WantHeader(t, "X-WX-USER-ID", pair.UserInfo.ID)
	a := g.ask("HEAD", "/x")
	if a.Err != nil || a.Status != 401 || a.Body != "" {
		t.Errorf("HEAD: %d %v %q", a.Status, a.Err, a.Body)
	}
}

// Directives that read or rewrite answers must go on working around a refusal that is
// sent early.
func TestRefusedUploadsAndOtherDirectives(t *testing.T) {
	t.Parallel()
	const auth = "wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}\n"
	for _, c := range []struct {
		name, site string
		status     int
		contains   string
		lines      []string
	}{
		{"encode", "route {\nencode {\ngzip\nminimum_length 1\nmatch {\nheader Content-Type application/*\n}\n}\n" + auth + "}", 401, "\x1f\x8b", []string{"Accept-Encoding: gzip"}},
		{"replace_status", "route {\nintercept {\n@u status 401\nreplace_status @u 499\n}\n" + auth + "}", 499, `"code":"token_missing"`, nil},
		{"templates", "route {\ntemplates {\nmime application/problem+json\n}\n" + auth + "}", 401, `"code":"token_missing"`, nil},
		{"header", "header X-Mine yes\nheader -Connection\n" + auth, 401, `"code":"token_missing"`, nil},
		{"handle_errors", auth + "handle_errors {\nrespond \"theirs\" 418\n}", 401, `"code":"token_missing"`, nil},
		{"metrics and log", "log {\noutput stderr\n}\nmetrics /metrics\n" + auth, 401, `"code":"token_missing"`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newGuard(t, rig.Site(c.site, "metrics"))
			for _, size := range []int{10, 2 << 20} {
				a := uploader{g.Addr, false, false}.send("POST", "/up", size, c.lines...)
				if a.Err != nil || a.Status != c.status || !strings.Contains(a.Body, c.contains) {
					t.Errorf("%d bytes: %d %v %q", size, a.Status, a.Err, a.Body)
				}
			}
		})
	}
}
