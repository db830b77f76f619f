package requests

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// In these tests, proxies ask /auth/wx/verify.

// Envoy appends the path that the client requested, and a proxy may use the client's
// method. Only the token may count.
func TestVerifyIgnoresMethodAndWhatFollows(t *testing.T) {
	t.Parallel()
	g := newGuard3(t, guardSite())
	pair := g.login(t, "13800138000")
	good := "Authorization: Bearer " + pair.Token
	everyHTTP(t, g, func(t *testing.T, g *guard) {
		targets := []string{"", "/", "/orders/1", "/orders/1/", "/../me", "/..%2f..%2fme", "//", "/a;b", "/%2e%2e/%2e%2e/auth/wx", "?a=b", "/orders?access_token=x", "/auth/wx/verify"}
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "QUERY"} {
			for _, below := range targets {
				target := "/auth/wx/verify" + below
				a := g.ask(method, target, good)
				if a.Err != nil || a.Status != http.StatusNoContent || a.Header.Get("X-Wx-User-Id") != pair.UserInfo.ID {
					t.Errorf("%s %s: %d %v %s", method, target, a.Status, a.Err, a.Body)
				}
				if a = g.ask(method, target); a.Status != 401 || a.Header.Get("X-Wx-User-Id") != "" || !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer ") {
					t.Errorf("%s %s without a token: %d %v", method, target, a.Status, a.Err)
				}
			}
		}
		// A preflight carries no token, so the proxy must decide whether to let it
		// pass. Nor does /verify accept another name.
		preflight := []string{"Origin: https://page.example", "Access-Control-Request-Method: PUT"}
		g.wants(t, tokenMissing, "OPTIONS", "/auth/wx/verify/orders", preflight...)
		g.wants(t, refusal{404, "not_found"}, "GET", "/auth/wx/verifyx", good)
		g.wants(t, refusal{404, "not_found"}, "GET", "/auth/wx/Verify/x", good)
	})
	if n := g.up.Hits(); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
	if lines := g.Log.Lines(`"uri":"/auth/wx/verify`); len(lines) != 0 {
		t.Errorf("in the access log: %s", lines[0])
	}
}

// A proxy leaves X_WX_USER_ID in the client's request, and PHP reads it as
// X-WX-USER-ID. Only a refusal can stop that, because the proxy does not know such
// names. Caddy drops most of them before any handler sees them.
func TestVerifyRefusesAliases(t *testing.T) {
	t.Parallel()
	g := newGuard3(t, guardSite("identity X-WX-USER-ID id", "identity X-User-Phone phone", "identity Roles claims.roles"))
	pair := g.login(t, "13800138000")
	good := "Authorization: Bearer " + pair.Token
	forbidden := refusal{403, "forbidden"}
	everyHTTP(t, g, func(t *testing.T, g *guard) {
		for _, target := range []string{"/auth/wx/verify", "/auth/wx/verify/orders"} {
			for _, name := range []string{
				"X_WX_USER_ID", "x_wx_user_id", "X.WX.USER.ID", "X-WX_USER-ID", "X-WX-USER_ID", "X_WX.USER-ID", "X~WX~USER~ID", "X-WX-USER!ID", "x-wx-user'id",
				"X_User_Phone", "x.user.phone", "X-User|Phone", "X_WX_SOURCE", "X-WX-FROM_OPENID", "x.wx.from.unionid",
			} {
				if g.later != nil {
					name = strings.ToLower(name)
				}
				if strings.HasPrefix(g.origin, "https") && strings.ContainsAny(name, "_.") {
					continue // no proxy asks over HTTP/3, and only Caddy itself would see the names there
				}
				g.wants(t, forbidden, "GET", target, good, name+": forged")
				g.wants(t, forbidden, "POST", target, good, name+":")
				g.wants(t, forbidden, "GET", target, good, name+": forged", name+": forged", "X-WX-USER-ID: forged")
				// Without a good token there is no identity to forge.
				g.wants(t, tokenMissing, "GET", target, name+": forged")
				// This does not apply to the other endpoints, nor to what the gateway
				// itself protects.
				if a := g.ask("GET", "/auth/wx/me", good, name+": forged"); a.Status != http.StatusOK {
					t.Errorf("%s at /me: %d", name, a.Status)
				}
				g.wants(t, goesOn, "GET", "/api/x", good, name+": forged").WantHeader(t, "X-WX-USER-ID", pair.UserInfo.ID)
			}
			for _, name := range []string{"X-WX-USER-ID", "x-wx-user-id", "X-WX-OPENID", "X_WX_OPENID", "X_Other", "X_WX_USER_IDS", "X__WX_USER_ID", "X-User-Phone", "Roles"} {
				if g.later != nil {
					name = strings.ToLower(name)
				}
				a := g.ask("GET", target, good, name+": forged")
				if a.Status != http.StatusNoContent || a.Header.Get("X-WX-USER-ID") != pair.UserInfo.ID || strings.Contains(strings.Join(a.Header.Values(name), ""), "forged") {
					t.Errorf("%s: %d %v", name, a.Status, a.Header)
				}
			}
		}
	})
}

// A team gives forward auth a path of its own, which Caddy rewrites to /auth/wx/verify. A name that
// Caddy drops before that must be refused there too.
func TestRewrittenVerifyRefusesAliases(t *testing.T) {
	t.Parallel()
	f := newFort(t, strings.Replace(guardSite(), "wx_auth @guarded", "rewrite /check /auth/wx/verify\nwx_auth @guarded", 1))
	pair := f.login(t, "13800138000")
	for _, target := range []string{"/auth/wx/verify", "/check"} {
		for _, name := range []string{"X_WX_USER_ID", "X.WX.PHONE", "X~WX~OPENID"} {
			f.Client().Get(target, pair.Token, name+": forged").WantProblem(t, http.StatusForbidden, "forbidden", nil)
		}
		if a := f.Client().Get(target, pair.Token, "X_Other: kept"); a.Status != http.StatusNoContent {
			t.Errorf("%s: %d", target, a.Status)
		}
	}
}

// Envoy keeps a client's header unless the answer sets it or lists it in
// X-Envoy-Auth-Headers-To-Remove.
func TestVerifyNamesWhatEnvoyIsToRemove(t *testing.T) {
	t.Parallel()
	g := newGuard(t, guardSite())
	pair := g.login(t, "13800138000") // this mini program has no unionid
	a := g.ask("GET", "/auth/wx/verify", "Authorization: Bearer "+pair.Token)
	a.Want(t, http.StatusNoContent)
	named := make(map[string]bool)
	for name := range strings.SplitSeq(a.Header.Get("X-Envoy-Auth-Headers-To-Remove"), ",") {
		named[strings.TrimSpace(name)] = true
	}
	for _, name := range []string{"x-wx-user-id", "x-wx-openid", "x-wx-appid", "x-wx-unionid", "x-wx-phone"} {
		if set := a.Header.Get(name) != ""; named[name] == set {
			t.Errorf("%s: set %t, named %t", name, set, named[name])
		}
		if !named[strings.ReplaceAll(name, "-", "_")] {
			t.Errorf("%s with _ is not named", name)
		}
	}
	if a.Header.Get("X-Wx-Unionid") != "" {
		t.Error("the user has a unionid: nothing was tried")
	}
	for _, name := range []string{"x-wx-source", "x-wx-from-openid", "x-wx-from-appid", "x-wx-from-unionid"} {
		if !named[name] {
			t.Errorf("%s is not named", name)
		}
	}
	a = g.ask("GET", "/auth/wx/verify", "Authorization: Bearer "+pair.Token, "X-WX-Roles: forged", "X_WX_Level: forged", "X-WX-OPENID: forged", "X-Other: x")
	a.Want(t, http.StatusNoContent)
	list := "," + strings.ToLower(a.Header.Get("X-Envoy-Auth-Headers-To-Remove")) + ","
	for name, want := range map[string]bool{"x-wx-roles": true, "x_wx_level": true, "x-wx-openid": false, "x-other": false} {
		if strings.Contains(list, ","+name+",") != want {
			t.Errorf("%s: want named %t in %s", name, want, list)
		}
	}
	// The list is bounded. A client with more names cannot push one of them out of it.
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("X-WX-%d-%s: forged", i, strings.Repeat("x", 30)))
	}
	g.wants(t, refusal{403, "forbidden"}, "GET", "/auth/wx/verify", append(many, "Authorization: Bearer "+pair.Token)...)
	if a := g.ask("GET", "/auth/wx/verify"); a.Header.Get("X-Envoy-Auth-Headers-To-Remove") != "" {
		t.Error("a refusal names headers")
	}
}

// To nginx's auth_request a 503 is an error that it answers with 500, and Envoy may be
// set to let requests pass then. So /verify answers 401, with a code that does not ask
// the client to log in.
func TestVerifyBeforeTheStoreIsOpen(t *testing.T) {
	t.Parallel()
	g := newUploadGuard(t)
	pair := g.login(t, "13800138000")
	a := g.ask("GET", "/store/auth/wx/verify/x", "Authorization: Bearer "+pair.Token)
	a.WantProblem(t, http.StatusUnauthorized, "store_unavailable", nil)
	if a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	g.ask("GET", "/store/auth/wx/verify/x").WantProblem(t, http.StatusUnauthorized, "token_missing", nil)
}

// Two proxies that are not installed here are simulated from their documented
// protocols: which of the client's headers reach /verify, and what happens to the
// client's request.
func TestForwardAuthAsRecorded(t *testing.T) {
	t.Parallel()
	g := newGuard(t, guardSite("credential cookie"))
	pair := g.login(t, "13800138000")
	good := "Authorization: Bearer " + pair.Token
	ours := traefikNames(t)
	for _, proxy := range []struct {
		name   string
		ask    func(method, path string, client http.Header) rig.Answer
		change func(client, answer http.Header)
	}{
		// Traefik sends GET, all headers of the client and its own X-Forwarded-*. It
		// deletes the headers in authResponseHeaders, then sets those of the answer.
		{"traefik", func(method, path string, client http.Header) rig.Answer {
			lines := []string{"X-Forwarded-Method: " + method, "X-Forwarded-Uri: " + path, "X-Forwarded-Host: app.example.com", "X-Forwarded-Proto: https"}
			return g.ask("GET", "/auth/wx/verify", append(lines, linesOf(client)...)...)
		}, func(client, answer http.Header) {
			for _, name := range ours {
				delete(client, name)
				if v := answer.Values(name); len(v) > 0 {
					client[name] = v
				}
			}
		}},
		// Envoy sends the client's method, path_prefix and path. Of the headers it
		// sends Authorization and those in allowed_headers: here Cookie, and names that
		// begin with x-wx or x_wx.
		{"envoy", func(method, path string, client http.Header) rig.Answer {
			asked := make(http.Header)
			for name, v := range client {
				if lower := strings.ToLower(name); name == "Authorization" || name == "Cookie" || strings.HasPrefix(lower, "x-wx") || strings.HasPrefix(lower, "x_wx") {
					asked[name] = v
				}
			}
			return g.ask(method, "/auth/wx/verify"+path, append(linesOf(asked), "Content-Length: 0", "X-Envoy-Internal: true")...)
		}, func(client, answer http.Header) {
			for _, name := range ours {
				if v := answer.Values(name); len(v) > 0 {
					client[name] = v
				}
			}
			for remove := range strings.SplitSeq(answer.Get("X-Envoy-Auth-Headers-To-Remove"), ",") {
				for name := range client {
					if strings.EqualFold(name, remove) {
						delete(client, name)
					}
				}
			}
		}},
	} {
		t.Run(proxy.name, func(t *testing.T) {
			for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS"} {
				client := http.Header{"Authorization": {"Bearer " + pair.Token}, "X-Wx-User-Id": {"forged"}, "X-Wx-Unionid": {"forged"}, "X-Wx-Phone": {"forged", "forged"}}
				for _, name := range cloudNames {
					client.Set(name, "forged")
				}
				a := proxy.ask(method, "/orders/1?a=b", client)
				a.Want(t, http.StatusNoContent)
				proxy.change(client, a.Header)
				if got := client.Get("X-Wx-User-Id"); got != pair.UserInfo.ID || len(client["X-Wx-Unionid"]) != 0 || len(client["X-Wx-Phone"]) != 1 || client.Get("X-Wx-Phone") != "+8613800138000" {
					t.Errorf("%s: the service gets %v", method, client)
				}
				for _, name := range cloudNames {
					if client.Get(name) != "" {
						t.Errorf("%s: the service gets the client's %s", method, name)
					}
				}
				for _, alias := range []string{"X_WX_USER_ID", "x_wx_unionid", "X_WX-PHONE"} {
					if a := proxy.ask(method, "/orders/1", http.Header{"Authorization": {"Bearer " + pair.Token}, alias: {"forged"}}); a.Status != http.StatusForbidden {
						t.Errorf("%s, %s: %d", method, alias, a.Status)
					}
				}
				if a := proxy.ask(method, "/orders/1", http.Header{"X-Wx-User-Id": {"forged"}}); a.Status != http.StatusUnauthorized {
					t.Errorf("%s without a token: %d", method, a.Status)
				}
			}
		})
	}
	// Without allowed_headers Envoy sends no header but Authorization. Then only the
	// list of headers to remove protects the service.
	a := g.ask("GET", "/auth/wx/verify/orders/1", good)
	if list := a.Header.Get("X-Envoy-Auth-Headers-To-Remove"); !strings.Contains(list, "x_wx_user_id") {
		t.Errorf("to remove: %s", list)
	}
}

// traefikNames returns the headers that the page lets Traefik set or remove. Its two pages name
// the same ones, and remove them from preflights together with each override.
func traefikNames(t *testing.T) (names []string) {
	for _, page := range rig.InBothLanguages("forward-auth.md") {
		block := rig.PageBlock(t, page, "authResponseHeaders:")
		_, rest, _ := strings.Cut(block, "authResponseHeaders: [")
		list, rest, _ := strings.Cut(rest, "]")
		_, rest, _ = strings.Cut(rest, "{")
		removed, _, _ := strings.Cut(rest, "}")
		names = nil
		for name := range strings.SplitSeq(list, ",") {
			name = strings.TrimSpace(name)
			names = append(names, http.CanonicalHeaderKey(name))
			if !strings.Contains(removed, name+`: ""`) {
				t.Errorf("%s: preflights keep the client's %s", page, name)
			}
		}
		for _, name := range append(slices.Concat(gatewayNames, cloudNames), overrideNames...) {
			if !strings.Contains(removed, name+`: ""`) {
				t.Errorf("%s: preflights keep the client's %s", page, name)
			}
		}
	}
	return names
}

// linesOf returns headers as header lines.
func linesOf(h http.Header) (lines []string) {
	for name, values := range h {
		for _, v := range values {
			lines = append(lines, name+": "+v)
		}
	}
	return lines
}
