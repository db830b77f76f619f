package requests

import (
	"fmt"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// Handlers behind the gate read the caller's placeholders. They also read the placeholders
// that would contain the token if it had not been removed.
func TestPlaceholdersShowTheCallerOnly(t *testing.T) {
	t.Parallel()
	var proxy strings.Builder
	for _, name := range []string{"id", "openid", "appid", "unionid", "session", "phone", "claims.role"} {
		fmt.Fprintf(&proxy, "header_up P-%s {http.auth.user.%[1]s}\n", name)
	}
	for i, name := range []string{"orig_uri", "orig_uri.query", "orig_uri.prefixed_query", "uri", "uri.query", "uri.query.access_token", "uri_escaped", "header.Authorization", "header.Cookie",
		"cookie.__Host-wx-auth", "header.Sec-WebSocket-Protocol"} {
		fmt.Fprintf(&proxy, "header_up S-%d {http.request.%s}\n", i, name)
	}
	f := newFort3(t, strings.Replace(fortSite("", allSources), "reverse_proxy {$UPSTREAM}", "reverse_proxy {$UPSTREAM} {\n"+proxy.String()+"}", 1), "GODEBUG=http2xconnect=1")
	pair := f.login(t, "13800138000")
	claims := rig.JWTPart(t, pair.Token, 1)
	want := map[string]any{"id": pair.UserInfo.ID, "openid": claims["openid"], "appid": rig.AppID, "unionid": "", "session": claims["sid"], "phone": pair.UserInfo.PhoneNumber, "claims.role": ""}
	everyHTTP(t, f, func(t *testing.T, f *fort) {
		for source, show := range map[string]struct {
			query string
			lines []string
		}{
			"no token": {"", nil},
			"header":   {"", []string{"Authorization: Bearer " + pair.Token}},
			"cookie":   {"", []string{"Cookie: a=b; __Host-wx-auth=" + pair.Token}},
			"query":    {"&access_token=" + pair.Token, rig.UpgradeLines()},
			"protocol": {"", rig.UpgradeLines("Sec-WebSocket-Protocol: bearer, " + pair.Token)},
		} {
			for _, path := range []string{"/api/x", "/optional/x", "/free/x"} {
				if path == "/api/x" && source == "no token" {
					continue
				}
				w := f.passes(t, message(f.Addr, "GET", path+"?a=%7e"+show.query, show.lines...))
				known := source != "no token" && path != "/free/x"
				for name, value := range want {
					if !known {
						value = ""
					}
					if got := strings.Join(w.values("P-"+name), "|"); got != value {
						t.Errorf("%s by %s: %s is %q, want %q", path, source, name, got, value)
					}
				}
				if got := strings.Join(w.values("S-0"), "|"); got != path+"?a=%7e" {
					t.Errorf("%s by %s: the first URI is %q", path, source, got)
				}
				if strings.Contains(fmt.Sprint(w), pair.Token) {
					t.Errorf("%s by %s: the token is in %s", path, source, short(w))
				}
			}
		}
	})
}
