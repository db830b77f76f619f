package requests

import (
	"fmt"
	"net/http"
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
				s := p.ask("OPTIONS", "/orders/1", append(preflight, "X-WX-USER-ID: forged", "X-WX-TEST: 1", "Authorization: Bearer x", "X-HTTP-Method-Override: DELETE")...).Seen(t)
				if s.Method != "OPTIONS" || s.Header.Get("Access-Control-Request-Method") != "PUT" {
					t.Errorf("the service saw %+v", s)
				}
				for _, name := range []string{"X-WX-USER-ID", "X-WX-PHONE", "X-WX-TEST", "Authorization", "X-HTTP-Method-Override"} {
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
