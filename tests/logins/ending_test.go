package logins

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// reasonOf returns the reason in the answer of a refresh whose session has ended. The
// test fails if there is none.
func reasonOf(t testing.TB, a rig.Answer) string {
	t.Helper()
	a.WantProblem(t, http.StatusUnauthorized, "session_ended", nil)
	var p struct{ Reason string }
	a.Decode(t, "application/problem+json", &p)
	return p.Reason
}

// A thief holds a token or refresh token of a session that its owner has ended, or
// whose device has moved on to newer tokens. If {"all":true} worked with it, the thief
// could end every session that the owner opens, for ever.
func TestOnlyTheLiveEndAllSessions(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, withKey, "session {\ngrace 2s\n}", "credential cookie")
	const owner, another = "13800138000", "13900139000"
	stranger := g.MustLogin(t, another)
	for _, c := range []struct {
		name string
		// shown prepares the thief's copy of the pair. It returns the tokens that the thief
		// presents.
		shown func(*testing.T, rig.Pair) (token, refreshToken string)
		ended string // the reason why the presented session has ended afterwards
	}{
		{"the token of a session that was logged out", func(t *testing.T, p rig.Pair) (string, string) {
			g.Logout(p.Token, "", false).Want(t, http.StatusNoContent)
			return p.Token, ""
		}, "logout"},
		{"the refresh token of a session that was revoked", func(t *testing.T, p rig.Pair) (string, string) {
			serve(g, http.MethodPost, revokePath, map[string]string{"sessionId": rig.SessionOf(t, p.Token)}).Want(t, http.StatusNoContent)
			return "", p.RefreshToken
		}, "revoked"},
		{"both of an ended session", func(t *testing.T, p rig.Pair) (string, string) {
			g.Logout(p.Token, "", false).Want(t, http.StatusNoContent)
			return p.Token, p.RefreshToken
		}, "logout"},
		{"a refresh token that two have followed", func(t *testing.T, p rig.Pair) (string, string) {
			next := g.Refresh(p.RefreshToken).Pair(t)
			g.Refresh(next.RefreshToken).Pair(t)
			return "", p.RefreshToken
		}, "revoked"},
		{"the one before, after the grace", func(t *testing.T, p rig.Pair) (string, string) {
			g.Refresh(p.RefreshToken).Pair(t)
			time.Sleep(2100 * time.Millisecond)
			return "", p.RefreshToken
		}, "logout"},
		{"the dead of one and a broken token", func(t *testing.T, p rig.Pair) (string, string) {
			g.Logout(p.Token, "", false).Want(t, http.StatusNoContent)
			return p.Token[:len(p.Token)-4] + "AAAA", p.RefreshToken
		}, "logout"},
		{"a dead token and another user's dead refresh token", func(t *testing.T, p rig.Pair) (string, string) {
			other := g.MustLogin(t, "13700137000")
			g.Logout(other.Token, "", false).Want(t, http.StatusNoContent)
			g.Logout(p.Token, "", false).Want(t, http.StatusNoContent)
			return p.Token, other.RefreshToken
		}, "logout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			owners, stolen := g.MustLogin(t, owner), g.MustLogin(t, owner)
			token, refreshToken := c.shown(t, stolen)
			for range 2 {
				a := g.Logout(token, refreshToken, true)
				a.WantProblem(t, http.StatusUnauthorized, "session_ended", nil)
				if cookie := a.Header.Get("Set-Cookie"); !strings.Contains(cookie, "Max-Age=0") {
					t.Errorf("the cookie stays: %q", cookie)
				}
			}
			if why := reasonOf(t, g.Refresh(stolen.RefreshToken)); why != c.ended {
				t.Errorf("its own session ended by %s, want %s", why, c.ended)
			}
			g.WantAlive(t, owners)
			g.Refresh(owners.RefreshToken).Pair(t)
			g.WantAlive(t, stranger)
			// Without `all` the logout counts as done.
			g.Logout(token, refreshToken, false).Want(t, http.StatusNoContent)
			g.WantAlive(t, owners)
		})
	}
	g.Caddy.Log.Wait(t, 20*time.Second, "stolen")

	for _, c := range []struct {
		name  string
		shown func(*testing.T, rig.Pair) (token, refreshToken string)
	}{
		{"a token", func(_ *testing.T, p rig.Pair) (string, string) { return p.Token, "" }},
		{"an older token that is good", func(t *testing.T, p rig.Pair) (string, string) {
			g.Refresh(p.RefreshToken).Pair(t)
			return p.Token, ""
		}},
		{"a refresh token in its grace", func(t *testing.T, p rig.Pair) (string, string) {
			g.Refresh(p.RefreshToken).Pair(t)
			return "", p.RefreshToken
		}},
		{"a live token and a refresh token of an ended session", func(t *testing.T, p rig.Pair) (string, string) {
			dead := g.MustLogin(t, owner)
			g.Logout(dead.Token, "", false).Want(t, http.StatusNoContent)
			return p.Token, dead.RefreshToken
		}},
		{"a token of an ended session and a current refresh token", func(t *testing.T, p rig.Pair) (string, string) {
			dead := g.MustLogin(t, owner)
			g.Logout(dead.Token, "", false).Want(t, http.StatusNoContent)
			return dead.Token, p.RefreshToken
		}},
	} {
		t.Run("all end by "+c.name, func(t *testing.T) {
			one, two := g.MustLogin(t, owner), g.MustLogin(t, owner)
			token, refreshToken := c.shown(t, two)
			g.Logout(token, refreshToken, true).Want(t, http.StatusNoContent)
			g.WantEnded(t, one)
			g.WantEnded(t, two)
			g.WantAlive(t, stranger)
		})
	}
	t.Run("a live token, and one session of another user", func(t *testing.T) {
		mine, theirs, more := g.MustLogin(t, owner), g.MustLogin(t, another), g.MustLogin(t, another)
		next := g.Refresh(g.Refresh(theirs.RefreshToken).Pair(t).RefreshToken).Pair(t)
		g.Logout(mine.Token, theirs.RefreshToken, true).Want(t, http.StatusNoContent)
		g.WantEnded(t, mine)
		g.WantEnded(t, next) // two newer refresh tokens exist, so presenting this one ended the session
		g.WantAlive(t, more)
		g.WantAlive(t, stranger)
	})
}

// Another site's page sends a logout. It carries no cookie, and must not make the
// browser delete it.
func TestLogoutClearsOnlyItsOwnCookie(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, "credential cookie")
	p := g.MustLogin(t, someNumber)
	cleared := func(a rig.Answer) bool { return strings.Contains(a.Header.Get("Set-Cookie"), "Max-Age=0") }
	if a := g.Logout("", "", true); a.Status != http.StatusUnauthorized || a.Header.Get("Set-Cookie") != "" {
		t.Errorf("without anything: %d %q", a.Status, a.Header.Get("Set-Cookie"))
	}
	foreign := g.Do(http.MethodPost, "/auth/wx/logout", nil, "Cookie: __Host-wx-auth="+p.Token, "Sec-Fetch-Site: cross-site")
	if foreign.Status != http.StatusForbidden || foreign.Header.Get("Set-Cookie") != "" {
		t.Errorf("from another site: %d %q", foreign.Status, foreign.Header.Get("Set-Cookie"))
	}
	g.WantAlive(t, p)
	if a := g.Do(http.MethodPost, "/auth/wx/logout", nil, "Cookie: __Host-wx-auth=a.b.c", "Sec-Fetch-Site: same-origin"); a.Status != http.StatusUnauthorized || !cleared(a) {
		t.Errorf("a broken cookie: %d %q", a.Status, a.Header.Get("Set-Cookie"))
	}
	if a := g.Do(http.MethodDelete, "/auth/wx/sessions/"+rig.SessionOf(t, p.Token), nil, "Cookie: __Host-wx-auth="+p.Token, "Sec-Fetch-Site: same-origin"); a.Status != http.StatusNoContent || !cleared(a) {
		t.Errorf("the current device: %d %q", a.Status, a.Header.Get("Set-Cookie"))
	}
	g.WantEnded(t, p)
}

// A client explains to its user why a new login is needed. The operator finds every end
// of a session in the log, without a token in it.
func TestEndedSessionsSayWhy(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, withKey, "session {\ngrace 1s\n}")
	one := func() rig.Pair { return g.MustLogin(t, someNumber) }
	ended := func(name, want string, end func(p rig.Pair)) {
		t.Helper()
		p := one()
		end(p)
		for range 2 {
			if got := reasonOf(t, g.Refresh(p.RefreshToken)); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	}
	ended("logout", "logout", func(p rig.Pair) { g.Logout(p.Token, "", false).Want(t, http.StatusNoContent) })
	ended("all devices", "logout", func(rig.Pair) { g.Logout(one().Token, "", true).Want(t, http.StatusNoContent) })
	ended("another device", "logout", func(p rig.Pair) {
		g.Do(http.MethodDelete, "/auth/wx/sessions/"+rig.SessionOf(t, p.Token), nil, rig.Bearer(one().Token)...).Want(t, http.StatusNoContent)
	})
	ended("revoked by the backend", "revoked", func(p rig.Pair) {
		serve(g, http.MethodPost, revokePath, map[string]string{"userId": p.UserInfo.ID}).Want(t, http.StatusNoContent)
	})
	ended("another WeChat account of this number", "replaced", func(rig.Pair) {
		codes := g.WeChat.TapAs(t, rig.AppID, "a second phone", wechattest.Phone{Number: someNumber})
		g.Login(codes.Code, codes.PhoneCode).Pair(t)
	})
	ended("shown after the grace", "expired", func(p rig.Pair) {
		g.Refresh(p.RefreshToken).Pair(t)
		time.Sleep(1100 * time.Millisecond)
		if got := reasonOf(t, g.Refresh(p.RefreshToken)); got != "expired" {
			t.Errorf("at once: %q", got)
		}
		line := g.Caddy.Log.Wait(t, 20*time.Second, "after the grace", rig.SessionOf(t, p.Token))
		if strings.Contains(line, p.RefreshToken) {
			t.Errorf("a token in the log: %s", line)
		}
		g.Refresh(p.RefreshToken)
		if lines := g.Caddy.Log.Lines("after the grace", rig.SessionOf(t, p.Token)); len(lines) != 1 {
			t.Errorf("%d lines", len(lines))
		}
	})
	ended("disabled", "revoked", func(p rig.Pair) {
		serve(g, http.MethodPatch, userPath+p.UserInfo.ID, map[string]bool{"disabled": true}).Want(t, http.StatusNoContent)
		serve(g, http.MethodPatch, userPath+p.UserInfo.ID, map[string]bool{"disabled": false}).Want(t, http.StatusNoContent)
	})
	ended("erased", "revoked", func(p rig.Pair) {
		serve(g, http.MethodDelete, userPath+p.UserInfo.ID, nil).Want(t, http.StatusNoContent)
	})
	g.Caddy.Log.Wait(t, 20*time.Second, `"msg":"logout"`, `"all":true`)
}

// Two sites share a store and differ only in their audience. A refresh token of the
// shop must not open the administration, nor end anything there.
func TestSessionsStayWithTheirAudience(t *testing.T) {
	t.Parallel()
	wx := func(audience string) string {
		return "wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\nendpoints /" + audience + "/wx\ntoken {\nissuer one\naudience " + audience + "\n}\n}\nreverse_proxy {$UPSTREAM}\n"
	}
	g := rig.NewGatewayWith(t, rig.Site("handle /shop/* {\n"+wx("shop")+"}\nhandle /admin/* {\n"+wx("admin")+"}\n"))
	at := func(audience, path string, body map[string]any, headers ...string) rig.Answer {
		return g.Do(http.MethodPost, "/"+audience+"/wx"+path, body, headers...)
	}
	login := func(audience string, codes wechattest.Codes, more map[string]any) rig.Answer {
		body := map[string]any{"code": codes.Code, "phoneCode": codes.PhoneCode}
		maps.Copy(body, more)
		return at(audience, "", body)
	}
	codes := g.WeChat.Tap(t, someNumber)
	shop := login("shop", codes, nil).Pair(t)
	next := at("shop", "/refresh", map[string]any{"refreshToken": shop.RefreshToken}).Pair(t)
	for _, shown := range []string{next.RefreshToken, shop.RefreshToken} {
		body := map[string]any{"refreshToken": shown}
		at("admin", "/refresh", body).WantProblem(t, http.StatusUnauthorized, "refresh_invalid", nil)
		at("admin", "/logout", body).WantProblem(t, http.StatusUnauthorized, "refresh_invalid", nil)
		body["all"] = true
		at("admin", "/logout", body).WantProblem(t, http.StatusUnauthorized, "refresh_invalid", nil)
	}
	g.Get("/admin/x", shop.Token).WantProblem(t, http.StatusUnauthorized, "token_invalid", nil)
	// The codes of one login do not open its session at the other site.
	login("admin", codes, nil).WantProblem(t, http.StatusBadRequest, "login_code_invalid", []string{"code"})
	// A session of the administration does not replace the shop's session.
	admin := login("admin", g.WeChat.Tap(t, someNumber), map[string]any{"refreshToken": next.RefreshToken}).Pair(t)
	next = at("shop", "/refresh", map[string]any{"refreshToken": next.RefreshToken}).Pair(t)
	g.Get("/shop/x", next.Token).Want(t, http.StatusOK)
	g.Get("/admin/x", admin.Token).Want(t, http.StatusOK)

	// A session from before audiences were kept belongs to the first site that
	// refreshes it.
	db := g.Caddy.OpenStore(t)
	defer db.Close()
	if _, err := db.Exec("UPDATE wx_auth_sessions SET audience = ''"); err != nil {
		t.Fatal(err)
	}
	next = at("shop", "/refresh", map[string]any{"refreshToken": next.RefreshToken}).Pair(t)
	at("admin", "/refresh", map[string]any{"refreshToken": next.RefreshToken}).WantProblem(t, http.StatusUnauthorized, "refresh_invalid", nil)
	at("shop", "/refresh", map[string]any{"refreshToken": next.RefreshToken}).Pair(t)
}
