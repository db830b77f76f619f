package requests

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// post sends a JSON body.
func (p *asker) post(target, body string) rig.Answer {
	return rig.Raw(p.addr, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: app.example.com\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", target, len(body), body))
}

// A team uses the configurations of docs/forward-auth.md for nginx and a second Caddy.
// Clients log in through the proxy and read our refusals, and a page of another origin
// may send requests. Headers meant for the proxies must not reach the client.
func TestForwardAuthRecipes(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *asker{"nginx": behindNginx, "caddy": behindCaddy} {
		t.Run(name, func(t *testing.T) {
			p := start(t)
			codes := p.auth.wx.Tap(t, "13800138000")
			pair := p.post("/auth/wx", `{"code":"`+codes.Code+`","phoneCode":"`+codes.PhoneCode+`"}`).Pair(t)
			good := "Authorization: Bearer " + pair.Token

			t.Run("the client's endpoints", func(t *testing.T) {
				next := p.post("/auth/wx/refresh", `{"refreshToken":"`+pair.RefreshToken+`"}`).Pair(t)
				good = "Authorization: Bearer " + next.Token
				for _, target := range []string{"/auth/wx/me", "/auth/wx/me/", "/auth/wx/sessions", "/auth/wx/jwks.json"} {
					if a := p.ask("GET", target, good); a.Status != http.StatusOK || p.app.Hits() != 0 {
						t.Errorf("%s: %d %v %s", target, a.Status, a.Err, a.Body)
					}
				}
				p.ask("GET", "/auth/wx").WantProblem(t, 405, "method_not_allowed", nil)
				p.ask("GET", "/auth/wx/me").WantProblem(t, 401, "token_missing", nil)
			})
			t.Run("refusals are ours", func(t *testing.T) {
				for want, lines := range map[string][]string{
					"token_missing": nil, "token_invalid": {"Authorization: Bearer x"}, "cookie_cross_site": {"Cookie: __Host-wx-auth=" + pair.Token, "Sec-Fetch-Site: cross-site"},
				} {
					for _, method := range []string{"GET", "POST", "DELETE"} {
						if want == "cookie_cross_site" && method == "GET" {
							continue
						}
						a := p.ask(method, "/orders?a=b", append(lines, "Content-Length: 0")...)
						a.WantProblem(t, 401, want, nil)
						if c := a.Header.Values("WWW-Authenticate"); len(c) != 1 || !strings.HasPrefix(c[0], "Bearer ") {
							t.Errorf("%s %s: challenges %q", method, want, c)
						}
					}
				}
				if p.app.Hits() != 0 {
					t.Error("a refused request reached the service")
				}
			})
			t.Run("inside", func(t *testing.T) {
				for _, target := range []string{
					"/auth/wx/verify", "/auth/wx/verify/", "/auth/wx/verify/x", "/auth/wx/verify/..", "/auth/wx/verify/../me", "/auth/wx/verify/%2e%2e/me", "/auth/wx/me/../verify", "/auth/wx/%76erify", "/auth//wx/verify",
					"/auth/wx/verify/../", "/auth/wx/verify%2f..%2fme", "/auth/wx/verify?x=/auth/wx/me", "/x/../auth/wx/verify", "http://app.example.com/auth/wx/verify", "http://app.example.com/auth/wx/verify/../me", "/auth/wx/service/users/x", "/auth/wx/health/..",
				} {
					for _, method := range []string{"GET", "OPTIONS", "HEAD"} {
						a := p.ask(method, target, good)
						for header := range a.Header {
							if strings.HasPrefix(header, "X-Wx-") || strings.HasPrefix(header, "X-Envoy-") {
								t.Errorf("%s %s: %d shows %s", method, target, a.Status, header)
							}
						}
						if a := p.ask(method, target); a.Status == http.StatusNoContent || a.Status == http.StatusOK && !strings.Contains(target, "/me") {
							t.Errorf("%s %s without a token: %d", method, target, a.Status)
						}
					}
				}
			})
			t.Run("preflight", func(t *testing.T) {
				preflight := []string{"Origin: https://page.example", "Access-Control-Request-Method: PUT"}
				removed := append(slices.Concat(gatewayNames, cloudNames, overrideNames), "Authorization")
				lines := slices.Clone(preflight)
				for _, name := range removed {
					lines = append(lines, name+": forged")
				}
				s := p.ask("OPTIONS", "/orders/1", lines...).Seen(t)
				if s.Method != "OPTIONS" || s.Header.Get("Access-Control-Request-Method") != "PUT" {
					t.Errorf("the service saw %+v", s)
				}
				for _, name := range removed {
					s.WantHeader(t, name, "")
				}
				before := p.app.Hits()
				for _, c := range []struct {
					method string
					lines  []string
				}{{"OPTIONS", nil}, {"OPTIONS", preflight[:1]}, {"OPTIONS", preflight[1:]}, {"GET", preflight}, {"POST", append(preflight, "Content-Length: 0", "X-HTTP-Method-Override: OPTIONS")}} {
					if a := p.ask(c.method, "/orders/1", c.lines...); a.Status != http.StatusUnauthorized || p.app.Hits() != before {
						t.Errorf("%s %q: %d", c.method, c.lines, a.Status)
					}
				}
			})
		})
	}
}

// Headers that a service may trust. The recipes remove the client's own: the identity headers,
// those of WeChat Cloud Hosting, and, of preflights, those that name another path or method.
var (
	gatewayNames  = []string{"X-WX-USER-ID", "X-WX-PHONE", "X-WX-OPENID", "X-WX-APPID", "X-WX-UNIONID", "X-WX-TEST"}
	cloudNames    = []string{"X-WX-SOURCE", "X-WX-FROM-OPENID", "X-WX-FROM-APPID", "X-WX-FROM-UNIONID"}
	overrideNames = []string{
		"X-HTTP-Method", "X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Path-Override",
		"X-Original-URI", "X-Original-URL", "X-Rewrite-URL", "X-Script-Name",
	}
)

// A team adds the identity header X-User-Role, as the page says for its proxy. A client can
// neither set it, not even in a preflight, nor have it deleted by Connection.
func TestForwardAuthAddedHeader(t *testing.T) {
	t.Parallel()
	const remove = "request_header -*wx*"
	for name, start := range map[string]func(*testing.T, ...string) *asker{
		"nginx": func(t *testing.T, identity ...string) *asker {
			return nginxBefore(t, decider(t, identity...),
				"auth_request /_wx_auth;", "auth_request /_wx_auth;\nauth_request_set $wx_role $upstream_http_x_user_role;",
				"proxy_set_header X-WX-PHONE", "proxy_set_header X-User-Role $wx_role;\nproxy_set_header X-WX-PHONE")
		},
		"caddy": func(t *testing.T, identity ...string) *asker {
			p := &asker{app: rig.NewUpstream(t), auth: decider(t, identity...)}
			p.addr = forwardAuth(t, p.auth.Addr, p.app.Addr, remove, remove+"\nrequest_header -X-User-Role", " X-WX-TEST\n", " X-WX-TEST X-User-Role\n")
			return p
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "identity X-WX-USER-ID id", "identity X-User-Role appid")
			good := "Authorization: Bearer " + p.auth.login(t, "13800138000").Token
			for _, line := range []string{
				"X-User-Role: forged", "X_User_Role: forged", "Connection: X-User-Role", "connection: close, x-user-role",
				"Connection: Upgrade, X-User-Role", "Connection: keep-alive\r\nConnection: X-User-Role",
			} {
				s := p.ask("GET", "/x", good, line).Seen(t)
				if got := strings.Join(s.Header["X-User-Role"], "|"); got != rig.AppID || s.Header.Get("X_User_Role") != "" {
					t.Errorf("%s: %q at the service", line, s.Header)
				}
			}
			if name == "caddy" { // the configuration of nginx upgrades nothing
				s := p.ask("GET", "/x", good, "Connection: keep-alive, X-User-Role , UPGRADE", "Upgrade: websocket").Seen(t)
				s.WantHeader(t, "Upgrade", "websocket")
				s.WantHeader(t, "X-User-Role", rig.AppID)
			}
			preflight := []string{"Origin: https://page.example", "Access-Control-Request-Method: PUT", "X-User-Role: forged"}
			p.ask("OPTIONS", "/x", preflight...).Seen(t).WantHeader(t, "X-User-Role", "")
		})
	}
}
