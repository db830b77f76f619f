package requests

import (
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// requireSite lets only callers of another mini program use /admin/ and /pay.
func requireSite(around, options string) string {
	return rig.Site(around + "@guarded not path /free/* /admin/*\nwx_auth @guarded {\napp {env.WX_APPID} {env.WX_SECRET}\n" +
		"app wx00000000000000ff {env.WX_SECRET}\nwechat {\napi {$WX_API}\n}\nrequire /admin/* /pay appid wx00000000000000ff\n" + options + "\n}\nreverse_proxy {$UPSTREAM}")
}

// loginToApp logs in to the first mini program of requireSite.
func (f *front) loginToApp(t *testing.T) rig.Pair {
	t.Helper()
	codes := f.wx.Tap(t, "13800138000")
	return f.Client().Do("POST", "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": rig.AppID}).Pair(t)
}

// adminSpellings returns paths that some upstream treats as a path below /admin, or as
// /pay.
func adminSpellings(addr string) []string {
	targets := []string{
		"/admin", "/admin/", "/admin/x", "/ADMIN/x", "/Admin", "/%61dmin/x", "/%41DMIN/x", "/admin%2fx", "/admin%5cx", `/admin\x`, "//admin/x", "/./admin/x", "/%2e/admin/x",
		"/x/../admin/x", "/x/%2e%2e/admin/x", "/x/..%2fadmin/x", "/x/..;/admin/x", "/;/admin/x", "/admin;/x", "/admin;x=y/x", "/admin%3b/x", `/x\..\admin\x`, "/admin./x", "/admin%20/x",
		"/admin%00/x", "/admin::$INDEX_ALLOCATION/x", "/admin%09/x", "/admin/./x", "/admin%252fx", "/%2561dmin/x", "/x/%252e%252e/admin/x", "/x/..%c0%afadmin/x", "/%c1%a1dmin/x", "/%2fadmin/x",
		"/x%00/../admin/x", "/x%23/../admin/x", "/free/../admin/x", "/free/..%2fadmin", "/%u0061dmin/x", "/admin//", "/pay", "/pay/", "/PAY", "/pay%20", "/pay.", "/pay;", "/p%61y", "/pay%2f",
		// These use Unicode: fullwidth letters and signs, the long s, the dotless i,
		// and characters without a width.
		"/%EF%BD%81dmin/x", "/adm%C4%B1n/x", "/ADM%C4%B0N/x", "/ad%C2%ADmin/x", "/admin%E2%80%8B/x", "/free%EF%BC%8F..%EF%BC%8Fadmin", "/free/%EF%BC%8E%EF%BC%8E/admin", "/free/%E2%80%A5/admin",
		"/admin%EF%BC%9Bx", "/admin%EF%BC%BCx", "/p%C2%AAy", "/pay%C2%A0", "/pay%E3%80%80", "/pay%EF%BC%9Fx", "/%EF%BC%8Fpay",
		"http://" + addr + "/admin/x", "http://" + addr + "//admin/x", "http:/admin/x", "http:admin/x",
	}
	for _, climb := range climbs {
		if !strings.HasPrefix(climb, "..?") && !strings.HasPrefix(climb, "#") && strings.Contains(climb, "..") {
			targets = append(targets, "/free/"+climb+"admin/x")
		}
	}
	return targets
}

// With a good token that does not meet the requirement, no spelling of a required path
// passes, whatever the matcher decides and whatever headers name another path.
func TestRequireHasNoWayAround(t *testing.T) {
	t.Parallel()
	f := newFort3(t, requireSite("", "public /pub/*\noptional /opt/*"))
	pair := f.loginToApp(t)
	auth := "Authorization: Bearer " + pair.Token
	everyHTTP(t, f, func(t *testing.T, f *fort) {
		for _, target := range adminSpellings(f.Addr) {
			for _, lines := range [][]string{{auth}, {auth, "X-Original-URL: /free/x", "X-HTTP-Method-Override: OPTIONS"}, nil} {
				a, got := f.fire(t, message(f.Addr, "GET", target, lines...))
				if len(got) > 0 || a.Status != 403 && a.Status != 401 && a.Status != 400 {
					t.Errorf("%s %q: %d, upstream %s", target, lines, a.Status, short(got))
				}
			}
		}
		f.refuses(t, refusal{403, "forbidden"}, message(f.Addr, "DELETE", "/admin/x", auth))
		f.refuses(t, tokenMissing, message(f.Addr, "GET", "/pay"))
		for _, target := range []string{"/x", "/administrator", "/payments", "/free/x", "/pub/x", "/x?/admin/x"} {
			w := f.passes(t, message(f.Addr, "GET", target, auth, "X-Original-URL: /admin/x", "X-Rewrite-URL: /admin/x", "X-Original-URI: /admin/x", "X-Script-Name: /pub"))
			for _, name := range []string{"X-Original-Url", "X-Rewrite-Url", "X-Original-Uri", "X-Script-Name"} {
				if len(w.values(name)) > 0 {
					t.Errorf("%s: a header names another path: %q", target, w.fields)
				}
			}
		}
		f.passes(t, message(f.Addr, "OPTIONS", "/admin/x", "Origin: https://a.example", "Access-Control-Request-Method: GET"))
	})
}

// The path that counts is the one that wx_auth gets. A required path stays required whatever
// handle_path and uri remove before.
func TestRequireBehindRewrites(t *testing.T) {
	t.Parallel()
	f := newFort3(t, requireSite("uri strip_prefix /v1\n", ""))
	pair := f.loginToApp(t)
	auth := "Authorization: Bearer " + pair.Token
	for _, target := range []string{"/v1/admin/x", "/v1/v1/../admin", "/v1//admin/x", "/%76%31/admin/x", "/v1/%2e%2e/admin/x"} {
		a, got := f.fire(t, message(f.Addr, "GET", target, auth))
		if len(got) > 0 || a.Status != 403 {
			t.Errorf("%s: %d, upstream %s", target, a.Status, short(got))
		}
	}
	f.passes(t, message(f.Addr, "GET", "/v1/x", auth))
}

// A proxy asks /verify about a request for another service. No requirement is applied to that
// request, and the log says so once.
func TestVerifyEnforcesNoRequire(t *testing.T) {
	t.Parallel()
	f := newFort(t, requireSite("", ""))
	pair := f.loginToApp(t)
	for range 3 {
		f.Client().Get("/auth/wx/verify/admin/x", pair.Token).Want(t, 204)
	}
	f.Log.Wait(t, 20*time.Second, "no require holds")
	if lines := f.Log.Lines("no require holds"); len(lines) != 1 {
		t.Errorf("%d lines", len(lines))
	}
}

// phone_within asks for the phone button again once the last login with it is too long
// ago. A refresh and a silent login do not help; a phone login does.
func TestRequireARecentPhoneLogin(t *testing.T) {
	t.Parallel()
	f := newFort(t, rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\nrequire /pay phone_within 4s\n}\nreverse_proxy {$UPSTREAM}"))
	pay := func(token string) string { return message(f.Addr, "GET", "/pay", "Authorization: Bearer "+token) }
	pair := f.login(t, "13800138000")
	f.passes(t, pay(pair.Token))
	time.Sleep(5 * time.Second)
	a := f.refuses(t, refusal{403, "phone_login_required"}, pay(pair.Token))
	if !strings.Contains(string(a.Body), `"renew":["code","phoneCode"]`) {
		t.Errorf("%s", a.Body)
	}
	client := f.Client()
	refreshed := client.Refresh(pair.RefreshToken).Pair(t)
	silent := client.Silent(f.wx.Open(t, "13800138000").Code).Pair(t)
	for name, token := range map[string]string{"refreshed": refreshed.Token, "silent": silent.Token} {
		f.refuses(t, refusal{403, "phone_login_required"}, pay(token))
		if was, is := rig.JWTPart(t, pair.Token, 1)["auth_time"], rig.JWTPart(t, token, 1)["auth_time"]; was == nil || is != was {
			t.Errorf("%s: auth_time %v, want %v", name, is, was)
		}
	}
	f.passes(t, pay(f.login(t, "13800138000").Token))
}
