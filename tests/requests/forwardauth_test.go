package requests

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// These tests protect a service behind another proxy through /auth/wx/verify, with the
// configurations that docs/forward-auth.md prints.

// asker is a proxy that asks /auth/wx/verify before it forwards a request.
type asker struct {
	addr string // the address of the protected service
	app  *rig.Upstream
	auth *guard // the gateway that decides
}

// ask sends a request with exactly these header lines.
func (p *asker) ask(method, target string, lines ...string) rig.Answer {
	text := method + " " + target + " HTTP/1.1\r\nHost: app.example.com\r\n"
	for _, line := range lines {
		text += line + "\r\n"
	}
	return rig.Raw(p.addr, text+"Connection: close\r\n\r\n")
}

// decider starts the gateway that docs/forward-auth.md prints, with more lines in wx_auth.
func decider(t *testing.T, more ...string) *guard {
	_, port, _ := net.SplitHostPort(rig.FreeAddress(t))
	block := rig.Replaced(t, rig.PageBlock(t, "forward-auth.md", "http://:8080 {"), "http://:8080", "http://:"+port,
		"wx_auth {env.WX_APPID} {env.WX_SECRET}", "wx_auth {env.WX_APPID} {env.WX_SECRET} {\ncredential cookie\n"+strings.Join(more, "\n")+"\nwechat {\napi {$WX_API}\n}\n}")
	g := newGuard(t, "{\nauto_https off\n}\n"+block)
	g.Addr = "127.0.0.1:" + port
	return g
}

func behindNginx(t *testing.T) *asker { return nginxBefore(t, decider(t)) }

// nginxBefore runs the nginx of docs/forward-auth.md, with parts of it replaced.
func nginxBefore(t *testing.T, auth *guard, oldnew ...string) *asker {
	p := &asker{addr: rig.FreeAddress(t), app: rig.NewUpstream(t), auth: auth}
	block := rig.Replaced(t, rig.PageBlock(t, "forward-auth.md", "auth_request /_wx_auth"),
		append(oldnew, "listen 80;", "listen "+p.addr+";", "127.0.0.1:8080", p.auth.Addr, "127.0.0.1:3000", p.app.Addr)...)
	rig.StartNginx(t, p.addr, block)
	return p
}

func behindCaddy(t *testing.T) *asker {
	p := &asker{app: rig.NewUpstream(t), auth: decider(t)}
	p.addr = forwardAuth(t, p.auth.Addr, p.app.Addr)
	return p
}

// forwardAuth runs the second Caddy of docs/forward-auth.md, with parts of it replaced.
func forwardAuth(t *testing.T, gateway, service string, oldnew ...string) (addr string) {
	block := rig.Replaced(t, rig.PageBlock(t, "forward-auth.md", "forward_auth 127.0.0.1:8080"), append(oldnew,
		"app.example.com {", "http://app.example.com:{$PORT} {", "127.0.0.1:8080", gateway, "127.0.0.1:3000", service)...)
	c := rig.NewCaddy(t)
	_, port, _ := net.SplitHostPort(c.Addr)
	c.Setenv("PORT", port)
	c.Start("{\nauto_https off\ndefault_bind 127.0.0.1\n}\n" + block)
	return c.Addr
}

// A server that answers 200 to everything, such as a Caddy without a site for that host, must
// not count as a gateway that lets the request pass.
func TestForwardAuthTakesNoStrangersYes(t *testing.T) {
	t.Parallel()
	app := rig.NewUpstream(t)
	stranger := rig.Serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	p := &asker{addr: forwardAuth(t, stranger, app.Addr)}
	for _, lines := range [][]string{nil, {"Authorization: Bearer x"}, {"X-WX-USER-ID: forged"}} {
		if a := p.ask("GET", "/x", lines...); a.Status != http.StatusUnauthorized || app.Hits() != 0 {
			t.Errorf("%q: %d %v, %d hits", lines, a.Status, a.Err, app.Hits())
		}
	}
}

// Requests through nginx and a second Caddy: the proxies must accept and refuse exactly
// as the gateway does, and pass on exactly its identity headers.
func TestForwardAuth(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *asker{"nginx": behindNginx, "caddy": behindCaddy} {
		t.Run(name, func(t *testing.T) {
			p := start(t)
			pair := p.auth.login(t, "13800138000") // this mini program has no unionid
			ended := p.auth.login(t, "13800138000")
			p.auth.Client().Logout(ended.Token, "", false).Want(t, http.StatusNoContent)
			good := "Authorization: Bearer " + pair.Token

			t.Run("refused", func(t *testing.T) {
				for name, lines := range map[string][]string{
					"no token":         nil,
					"a broken token":   {"Authorization: Bearer " + broken(pair.Token)},
					"a revoked token":  {"Authorization: Bearer " + ended.Token},
					"a foreign token":  {"Authorization: Bearer " + foreignTokens[0]},
					"another scheme":   {"Authorization: Basic eDp5"},
					"two headers":      {good, good},
					"two schemes":      {good, "Authorization: Basic eDp5"},
					"comma-joined":     {good + ", Bearer x"},
					"token and cookie": {good, "Cookie: __Host-wx-auth=" + pair.Token},
					"forged identity":  {"X-WX-USER-ID: " + pair.UserInfo.ID, "X-WX-OPENID: x"},
				} {
					for _, target := range []string{"/", "/public/x", "/api/../x", "/x?access_token=" + pair.Token, "//x", "/%2e/auth/wx/verify"} {
						a := p.ask("GET", target, lines...)
						if a.Status != http.StatusUnauthorized && a.Status != http.StatusBadRequest {
							t.Errorf("%s, %s: %d %v %s", name, target, a.Status, a.Err, a.Body)
						}
						if a.Status == http.StatusUnauthorized && !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer ") {
							t.Errorf("%s: challenge %q", name, a.Header.Get("WWW-Authenticate"))
						}
					}
				}
				if n := len(p.app.Requests()); n > 0 {
					t.Errorf("%d requests got through", n)
				}
			})
			seen := func(t *testing.T, method, target string, lines ...string) rig.Seen {
				t.Helper()
				a := p.ask(method, target, append(lines, good)...)
				if a.Err != nil {
					t.Fatal(a.Err)
				}
				s := a.Seen(t)
				for name, values := range s.Header {
					if !strings.Contains(strings.ToLower(name), "wx") {
						continue
					}
					for _, v := range values {
						if strings.Contains(v, "forged") {
							t.Errorf("%s: %q at the service", name, values)
						}
					}
				}
				for header, want := range map[string]string{
					"X-Wx-User-Id": pair.UserInfo.ID, "X-Wx-Phone": "+8613800138000", "X-Wx-Appid": rig.AppID, "X-Wx-Unionid": "", "Authorization": "",
				} {
					if got := strings.Join(s.Header[header], "|"); got != want {
						t.Errorf("%s: %q at the service, want %q", header, got, want)
					}
				}
				if s.Header.Get("X-Wx-Openid") == "" {
					t.Error("no openid at the service")
				}
				return s
			}
			t.Run("let through", func(t *testing.T) {
				s := seen(t, "GET", "/a/b?c=d")
				if s.URI != "/a/b?c=d" || s.Method != "GET" {
					t.Errorf("the service saw %s %s", s.Method, s.URI)
				}
				s = seen(t, "POST", "/upload", "Content-Length: 0")
				if s.Method != "POST" {
					t.Errorf("the service saw %s", s.Method)
				}
				a := rig.Raw(p.addr, fmt.Sprintf("POST /body HTTP/1.1\r\nHost: app.example.com\r\n%s\r\nContent-Length: 5\r\n\r\nhello", good))
				if a.Seen(t).Body != "hello" {
					t.Errorf("the body did not arrive: %s", a.Body)
				}
			})
			t.Run("forged", func(t *testing.T) {
				for _, header := range []string{"USER-ID", "PHONE", "OPENID", "APPID", "UNIONID", "TEST", "SOURCE", "FROM-OPENID", "FROM-APPID", "FROM-UNIONID"} {
					for _, name := range []string{"X-WX-" + header, "x-wx-" + strings.ToLower(header), "X_WX_" + strings.ReplaceAll(header, "-", "_"),
						"X.WX." + strings.ReplaceAll(header, "-", "."), "X-WX_" + header, "X-Wx." + header} {
						for _, value := range []string{"forged", "", "forged, forged"} {
							seen(t, "GET", "/x", name+": "+value, name+": forged")
						}
					}
				}
				if name == "caddy" { // the configuration of nginx names none of these headers
					seen(t, "GET", "/x", "X-WX-SESSION: forged", "x-wx-roles: forged")
				}
				// A proxy deletes the headers that Connection names. The caller must
				// not become anonymous that way.
				for _, line := range []string{"Connection: X-WX-USER-ID", "connection: close, x-wx-phone, X-WX-OPENID", "Connection: Authorization, close", "Connection: X-WX-APPID\r\nConnection: x-wx-user-id"} {
					seen(t, "GET", "/x", line)
				}
				// Only the proxy may set the headers that it sends to the gateway.
				for _, line := range []string{"X-Forwarded-Uri: /public/x", "X-Forwarded-For: 1.2.3.4", "X-Original-URI: /public/x", "X-Forwarded-Host: evil.example"} {
					seen(t, "GET", "/x", line)
					if a := p.ask("GET", "/x", line); a.Status != http.StatusUnauthorized {
						t.Errorf("%s without a token: %d", line, a.Status)
					}
				}
			})
			t.Run("cookie", func(t *testing.T) {
				cookie := "Cookie: __Host-wx-auth=" + pair.Token
				for _, c := range []struct {
					method, site string
					want         int
				}{
					{"GET", "none", 200}, {"GET", "cross-site", 200}, {"POST", "same-origin", 200},
					{"POST", "cross-site", 401}, {"DELETE", "none", 401}, {"POST", "", 401},
				} {
					lines := []string{cookie, "X-Forwarded-Method: GET", "Content-Length: 0"}
					if c.site != "" {
						lines = append(lines, "Sec-Fetch-Site: "+c.site)
					}
					if a := p.ask(c.method, "/x", lines...); a.Status != c.want {
						t.Errorf("%s from %q: %d %v, want %d", c.method, c.site, a.Status, a.Err, c.want)
					}
				}
			})
			t.Run("the question itself", func(t *testing.T) {
				before := p.app.Hits()
				if a := p.ask("GET", "/_wx_auth", "X-WX-USER-ID: forged"); a.Status != 404 && a.Status != 401 {
					t.Errorf("%d", a.Status)
				}
				if p.app.Hits() != before {
					t.Error("it reached the service")
				}
				p.auth.Kill9() // without the gateway, every request is refused
				if a := p.ask("GET", "/x", good); a.Status < 500 {
					t.Errorf("without a gateway: %d", a.Status)
				}
				if p.app.Hits() != before {
					t.Error("something came in without a gateway")
				}
			})
		})
	}
}
