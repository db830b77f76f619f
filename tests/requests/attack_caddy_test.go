package requests

import (
	"maps"
	"net"
	"net/http"
	"net/http/fcgi"
	"strings"
	"sync"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// Caddy's error routes get the original request with its original URL, so a forged
// header or a token in the query could reach an upstream through them.
func TestAttackThroughErrorHandlers(t *testing.T) {
	t.Parallel()
	for name, failing := range map[string]string{"upstream away": "reverse_proxy 127.0.0.1:1", "no such file": "file_server", "error": "error 503"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			caddyfile := strings.Replace(fortSite("", allSources), "reverse_proxy {$UPSTREAM}",
				failing+"\nhandle_errors {\nreverse_proxy {$UPSTREAM}\n}", 1)
			f := newFort3(t, caddyfile, "GODEBUG=http2xconnect=1")
			pair := f.login(t, "13800138000")
			auth := "Authorization: Bearer " + pair.Token
			everyHTTP(t, f, func(t *testing.T, f *fort) {
				for _, path := range pathKinds {
					identity, lines := []field(nil), []string{"X-WX-USER-ID: " + forged, "X_WX_USER_ID: " + forged, "Transfer-Encoding: chunked", "Trailer: X-WX-USER-ID, X-WX-Unionid"}
					if f.later == nil {
						lines = append(lines, "Connection: X-WX-USER-ID")
					}
					if path.token {
						lines = append(lines, auth)
					}
					if path.identity {
						identity = f.identity(t, pair)
					}
					method := "GET"
					_, got := f.handled(t, message(f.Addr, method, path.target, lines...)+"1\r\na\r\n0\r\nX-WX-USER-ID: "+forged+"\r\nX-WX-Unionid: "+forged+"\r\nX-WX-Late: "+forged+"\r\n\r\n")
					got.wantIdentity(t, identity)
					if got.body != "a" {
						t.Errorf("%s: its body arrives as %q", path.target, got.body)
					}
					if len(got.values("Authorization")) > 0 {
						t.Errorf("%s: the token reached the upstream", path.target)
					}
					if !path.token {
						continue
					}
					// This token comes from another source than the header. In later
					// versions of HTTP, a public path does not count as an upgrade.
					socket := identity
					if f.later != nil && path.target == "/public/x" {
						socket = f.identity(t, pair)
					}
					_, got = f.handled(t, message(f.Addr, "GET", path.target+"?a=%7e&access_token="+pair.Token+"&b", rig.UpgradeLines()...))
					if got.wantIdentity(t, socket); strings.Contains(got.line, pair.Token) || !strings.Contains(got.line, path.target+"?a=%7e&b ") {
						t.Errorf("at the upstream: %.200q", got.line)
					}
					_, got = f.handled(t, message(f.Addr, "GET", path.target, "Cookie: a=b; __Host-wx-auth="+pair.Token))
					if got.wantIdentity(t, identity); strings.Join(got.values("Cookie"), "|") != "a=b" {
						t.Errorf("at the upstream: %.200q", got.values("Cookie"))
					}
				}
				// The gateway writes its refusals itself, so no error route sees them.
				f.refuses(t, tokenMissing, message(f.Addr, "GET", "/api/x"))
				f.refuses(t, tokenInvalid, message(f.Addr, "GET", "/api/x", auth+"x"))
				f.refuses(t, refusal{404, "not_found"}, message(f.Addr, "GET", "/auth/wx/nothing"))
			})
		})
	}
}

// handled sends a request that an error route must pass on exactly once.
func (f *fort) handled(t testing.TB, raw string) (rig.Answer, wire) {
	t.Helper()
	a := f.later.send(f.Addr, raw)
	got := whole(f.tap.take(), "")
	if a.Err != nil || len(got) != 1 {
		t.Fatalf("%d %v, upstream %s\n%.300q", a.Status, a.Err, short(got), raw)
	}
	return a, got[0]
}

// Other handlers change the path before or after the gate. The decision must be about
// the path that reaches the upstream.
func TestAttackThroughRewrites(t *testing.T) {
	t.Parallel()
	f := newFort3(t, rig.Site("uri strip_prefix /v1\nrewrite /old/* /public{uri}\nrewrite /hidden/* /api{uri}\n@guarded not path /free/*\n"+
		"wx_auth @guarded {env.WX_APPID} {env.WX_SECRET} {\npublic /public/*\nwechat {\napi {$WX_API}\n}\n}\n"+
		"handle_path /public/below/* {\nreverse_proxy {$UPSTREAM}\n}\nhandle {\nreverse_proxy {$UPSTREAM}\n}"))
	everyHTTP(t, f, func(t *testing.T, f *fort) {
		for target, want := range map[string]string{
			"/v1/public/x": "/public/x", "/old/x?y": "/public/old/x?y", "/public/below/api/x": "/api/x", "/v1/free/x": "/free/x",
			"/v1//public/x": "/public/x", // strip_prefix merges the slashes before any handler looks
		} {
			if w := f.passes(t, message(f.Addr, "GET", target)); w.line != "GET "+want+" HTTP/1.1" {
				t.Errorf("%s arrives as %q, want %s", target, w.line, want)
			}
		}
		for _, target := range []string{
			"/v1/api/x", "/hidden/x", "/v1/hidden/x", "/v1", "/v1/public/../api/x", "/old/../api/x", "/old/%2e%2e/%2e%2e/api/x", "/old/..;/x", "/old/..%2fapi", "/old/x%2f..%2f..%2f..%2fapi",
			"/%76%31/public/../x", "/v1/v1/public/x", "/v1;/public/x", "/public/below/../../api/x", "/public/below/%2e%2e/api/x", "/public/below/..%2fx", "/public%2fbelow/api/x", "/v1/%2e%2e/api/x", "/v1/free/../api/x",
		} {
			a, got := f.fire(t, message(f.Addr, "GET", target))
			if len(got) > 0 || a.Status != 401 {
				t.Errorf("%s: %d, upstream %s", target, a.Status, short(got))
			}
		}
	})
}

// Some frameworks take headers such as X-Original-URL for the real path or method.
func TestAttackByNamesOfOtherPaths(t *testing.T) {
	t.Parallel()
	names := []string{"X-Original-URL", "X-Original-URI", "X-Rewrite-URL", "X-Script-Name", "X-HTTP-Path-Override", "X-HTTP-Method-Override"}
	f := newFort3(t, fortSite(expected(names...)))
	everyHTTP(t, f, func(t *testing.T, f *fort) {
		for _, target := range []string{"/public/x", "/optional/x", "/free/x", "/healthz"} {
			for _, name := range names {
				for _, s := range spellings(name) {
					w := f.passes(t, message(f.Addr, "GET", target, s+": /api/"+forged, strings.ToLower(s)+"~: kept"))
					for _, got := range w.fields {
						if strings.Contains(got.value, forged) {
							t.Errorf("%s: %s at the upstream", target, got.name)
						}
					}
				}
			}
		}
	})
}

// An upstream behind FastCGI gets every header as a variable, in whose name every sign becomes
// "_".
func TestAttackFastCGI(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var env map[string]string
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = fcgi.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			env = maps.Clone(fcgi.ProcessEnv(r))
			for name, values := range r.Header { // from HTTP_*, as net/http/fcgi reads them
				env[name] = strings.Join(values, "|")
			}
			env["URI"] = r.RequestURI
			w.WriteHeader(http.StatusOK)
		}))
	}()
	t.Cleanup(func() { ln.Close(); <-served })
	take := func() map[string]string {
		mu.Lock()
		defer mu.Unlock()
		got := env
		env = nil
		return got
	}
	f := newFort3(t, strings.Replace(fortSite(expected("X-WX-User-Id"), allSources), "reverse_proxy {$UPSTREAM}", "reverse_proxy "+ln.Addr().String()+" {\ntransport fastcgi\n}", 1), "GODEBUG=http2xconnect=1")
	pair := f.login(t, "13800138000")
	var lines []string
	for _, s := range spellings("X-WX-USER-ID") {
		lines = append(lines, s+": "+forged)
	}
	lines = append(lines, "X~WX~USER~ID: "+forged, "HTTP_X_WX_USER_ID: "+forged)
	everyHTTP(t, f, func(t *testing.T, f *fort) {
		for _, path := range pathKinds {
			all := lines
			if path.token {
				all = append(all, "Authorization: Bearer "+pair.Token)
			}
			a := f.later.send(f.Addr, message(f.Addr, "GET", path.target, all...))
			got := take()
			if a.Status != 200 || got == nil {
				t.Fatalf("%s: %d %v", path.target, a.Status, a.Err)
			}
			want := ""
			if path.identity {
				want = pair.UserInfo.ID
			}
			if got["X-Wx-User-Id"] != want || got["Authorization"] != "" {
				t.Errorf("%s: identity %q, Authorization %q", path.target, got["X-Wx-User-Id"], got["Authorization"])
			}
			for name, value := range got {
				if strings.Contains(value, forged) && name != "Http-X-Wx-User-Id" {
					t.Errorf("%s: %s is %q", path.target, name, value)
				}
			}
		}
	})
	// Over HTTP/3 the protocol is "websocket", for which net/http/fcgi knows no
	// version.
	for _, over := range []sender{nil, later2(f.Addr)} {
		a := over.send(f.Addr, message(f.Addr, "GET", "/api/x?a=b&access_token="+pair.Token, rig.UpgradeLines()...))
		got := take()
		if a.Status != 200 || got["X-Wx-User-Id"] != pair.UserInfo.ID {
			t.Errorf("%d %v: %q", a.Status, a.Err, got["X-Wx-User-Id"])
		}
		for name, value := range got {
			if strings.Contains(value, pair.Token) {
				t.Errorf("the token reached the upstream as %s", name)
			}
		}
	}
}
