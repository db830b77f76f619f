package requests

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// A page of another site makes the browser send a request with the cookie (CSRF). The
// cookie must not count then.
func TestCookieCountsOnlyFromTheSameSite(t *testing.T) {
	t.Parallel()
	g := newGuard3(t, guardSite("credential cookie"))
	token := g.login(t, "13800138000").Token
	cookie := "Cookie: __Host-wx-auth=" + token
	everyHTTP(t, g, func(t *testing.T, g *guard) {
		own := "Origin: " + g.origin
		unsafe := goesOn // if the request comes from our own site
		if strings.HasPrefix(g.origin, "https://") {
			unsafe = crossSite
		}
		for _, c := range []struct {
			name  string
			lines []string
			want  refusal
		}{
			{"nothing", nil, crossSite},
			{"same-origin", []string{"Sec-Fetch-Site: same-origin"}, goesOn},
			{"same-site", []string{"Sec-Fetch-Site: same-site"}, goesOn},
			{"cross-site", []string{"Sec-Fetch-Site: cross-site"}, crossSite},
			{"none", []string{"Sec-Fetch-Site: none"}, crossSite},
			{"cross-site with our origin", []string{"Sec-Fetch-Site: cross-site", own}, crossSite},
			{"twice", []string{"Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"}, crossSite},
			{"in capitals", []string{"Sec-Fetch-Site: Same-Origin"}, crossSite},
			{"empty", []string{"Sec-Fetch-Site:", own}, crossSite},
			{"own origin", []string{own}, goesOn},
			{"own origin behind a proxy that ends TLS", []string{"Origin: https://" + g.origin[strings.LastIndex(g.origin, "/")+1:]}, goesOn},
			{"our host without TLS", []string{"Origin: http://" + g.origin[strings.LastIndex(g.origin, "/")+1:]}, unsafe},
			{"another origin", []string{"Origin: https://evil.example"}, crossSite},
			{"another port", []string{"Origin: http://127.0.0.1:1"}, crossSite},
			{"longer host", []string{own + ".evil.example"}, crossSite},
			{"user name", []string{own + "@evil.example"}, crossSite},
			{"null", []string{"Origin: null"}, crossSite},
			{"no scheme", []string{"Origin: " + own[strings.LastIndex(own, "/")+1:]}, crossSite},
			{"another scheme", []string{"Origin: ftp://" + g.Addr}, crossSite},
			{"two origins", []string{own, own}, crossSite},
			{"only a Referer", []string{"Referer: " + g.origin + "/"}, crossSite},
		} {
			t.Run(c.name, func(t *testing.T) {
				for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "get"} {
					g.wants(t, c.want, method, "/api/x", append(c.lines, cookie, "Content-Length: 0")...)
				}
				g.wants(t, c.want, "POST", "/optional/x", append(c.lines, cookie, "Content-Length: 0")...)
				// A page of another origin may open a WebSocket without a preflight.
				g.wants(t, c.want, "GET", "/api/x", rig.UpgradeLines(append(c.lines, cookie)...)...)
				g.wants(t, goesOn, "GET", "/api/x", append(c.lines, cookie)...)
				// Such a request is anonymous, so nothing can be done in the user's
				// name.
				seen := g.wants(t, goesOn, "GET", "/public/x", append(c.lines, cookie)...)
				if seen.Header.Get("Cookie") != "" || seen.Header.Get("X-WX-USER-ID") != "" {
					t.Errorf("%+v", seen)
				}
				// At our own endpoints too: another site must not be able to end a
				// session.
				want := c.want
				if want == goesOn {
					want = refusal{404, "not_found"}
				}
				g.wants(t, want, "DELETE", "/auth/wx/sessions/x", append(c.lines, cookie)...)
				if c.want != goesOn {
					g.wants(t, c.want, "POST", "/auth/wx/logout", append(c.lines, cookie, "Content-Length: 0")...)
				}
				// A proxy that asks /verify knows the method. If it does not say which,
				// the method counts as unsafe.
				for method, safe := range map[string]bool{"GET": true, "POST": false, "": false} {
					verify := append(c.lines, cookie, "X-Forwarded-Method: "+method)
					if a := g.ask("GET", "/auth/wx/verify", verify...); (a.Status == 204) != (safe || c.want == goesOn) {
						t.Errorf("verify for %q: %d %s", method, a.Status, a.Body)
					}
				}
			})
		}
		// The method decided, so no header may replace it later.
		seen := g.wants(t, goesOn, "GET", "/api/x", cookie, "X-HTTP-Method-Override: DELETE")
		if seen.Header.Get("X-HTTP-Method-Override") != "" {
			t.Error("a GET by cookie can act as a DELETE")
		}
		// A page cannot set Authorization, so no further check is needed.
		g.wants(t, goesOn, "POST", "/api/x", "Authorization: Bearer "+token, "Sec-Fetch-Site: cross-site", "Content-Length: 0")
	})
}

// A web client gets the token in a cookie that scripts cannot read, and a logout clears
// it.
func TestCookieIsSetAndCleared(t *testing.T) {
	t.Parallel()
	g := newGuard(t, guardSite("credential cookie __Host-shop"))
	client := g.Client()
	codes := g.wx.Tap(t, "13800138000")
	a := client.Login(codes.Code, codes.PhoneCode)
	pair := a.Pair(t)
	check := func(a rig.Answer, value string, seconds int) {
		t.Helper()
		want := fmt.Sprintf("__Host-shop=%s; Path=/; Max-Age=%d; HttpOnly; Secure; SameSite=Lax", value, seconds)
		if got := a.Header["Set-Cookie"]; len(got) != 1 || got[0] != want {
			t.Errorf("set %q, want %q", got, want)
		}
	}
	check(a, pair.Token, pair.ExpiresIn)
	a = client.Refresh(pair.RefreshToken)
	next := a.Pair(t)
	check(a, next.Token, next.ExpiresIn)

	cookie := "Cookie: __Host-shop=" + next.Token
	client.Get("/auth/wx/me", "", cookie).UserInfo(t)
	a = client.Do("POST", "/auth/wx/logout", nil, cookie, "Sec-Fetch-Site: same-origin")
	a.Want(t, http.StatusNoContent)
	check(a, "", 0)
	client.Get("/api/x", "", cookie).WantProblem(t, 401, "token_revoked", nil)
	if a := newGuard(t, guardSite()).Client().Refresh("x"); a.Header["Set-Cookie"] != nil {
		t.Error("a cookie is set though none is a source")
	}
}
