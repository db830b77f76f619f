package requests

import (
	"net/http"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// climbs lead from a public directory to a protected path at an upstream that decodes
// twice, treats "\" as "/", cuts at ";" or NUL, or accepts overlong UTF-8.
var climbs = []string{
	"../", "./../", "x/../../", "x/./../../", "x//../../../", ".../", "..../",
	"..%2f", "%2e%2e/", "%2E%2E/", "%2e./", ".%2e/", "%2e%2e%2f", "%2e%2e%2F", "%2f..%2f", "..%2f..%2f",
	"%252e%252e/", "%252e%252e%252f", "..%252f", "%25252e%25252e%25252f", "%25%32%65%25%32%65/", "%%32%65%%32%65/",
	"..;/", "..;x/", "..;x=y/", ";/../", ";x=../", "%2e%2e;/", "..%3b/", "..%3B/", "x;/..;/..;/", ".;./",
	`..\`, `\..\`, `x\..\..\`, "..%5c", "..%5C", "%5c..%5c", "%2e%2e%5c", "..%255c", `..\/`,
	"..%00/", "%00/../", "..%00", "x%00/../../", "..%09/", "..%20/", "%20../", ".. /", "%2e%2e%20/", "..%0a/", "..%0d%0a/",
	"..%c0%af", "%c0%ae%c0%ae/", "%c0%ae%c0%ae%c0%af", "..%e0%80%af", "..%f0%80%80%af", "%c0%2e%c0%2e/", "..%c1%9c",
	"..%u2215", "..%u002f", "%uff0e%uff0e/", "..%ff/", "..%80/", "..\xc0\xaf", "..\xff/",
	"..#/", "..%23/", "..?/../", "..%3f/", "#/../../", "/../", "//", "./", "%2e/", "%2f", "x//", "/",
}

// breakers within a segment are read differently by different servers.
var breakers = []string{
	"%2f", "%2F", "%5c", "%5C", "%00", "%23", "%3f", "%3F", "%3b", "%3B", "%25", "%252f", "%0a", "%0d", "%09", "%7f", "%1b", "%2e%2e",
	`\`, ";", ";jsessionid=1", "#", "%", "%z", "%zz", "%u0041", "%c0%af", "%e0%80%af", "%ed%a0%80", "%ff", "%c3", "%fe%ff", "%41", "%7e",
	"\x80", "\xff", "^", "|", "\"", "<", ">", "`", "{", "[", "::$DATA", ":$I30",
}

// An attacker writes a protected path so that we take it for a public one, or for none,
// while the upstream resolves it to the protected one.
func TestAttackPathsAroundTheRules(t *testing.T) {
	t.Parallel()
	f := newFort3(t, fortSite("servers {\nmax_header_size 1MB\n}"))
	pair := f.login(t, "13800138000")
	identity, auth := f.identity(t, pair), "Authorization: Bearer "+pair.Token

	type attack struct{ method, target string }
	var attacks []attack
	add := func(targets ...string) {
		for _, target := range targets {
			attacks = append(attacks, attack{"GET", target})
		}
	}
	for _, open := range []string{"/public/", "/optional/", "/free/"} {
		for _, climb := range climbs {
			if strings.HasPrefix(climb, "..?") {
				continue // here the dots end the path and stay below it
			}
			add(open+climb+"api/x", open+"x/"+climb+climb+"api/x")
		}
		for _, b := range breakers {
			if strings.ContainsAny(b, "^|\"<>`{[") {
				continue // net/http escapes them, and as %XX they have only one meaning
			}
			add(open+"a"+b+"b", open+b)
		}
		add(open+"..", open+".", open+"x/..", open+"%2e%2e", open+"x.", open+"x%20", open+"x/%20", open+"x. ", open+"x/.%20", open+"a/./b", open+"a//b", open+"a//", open+"/",
			"/"+open+"x", "//"+f.Addr+open+"x", "/."+open+"x", "/x/.."+open+"x", "/%2e"+open+"x", "/x/..;"+open+"x", `\`+open+"x", "/;"+open+"x",
			strings.ToUpper(open[:2])+open[2:len(open)-1]+";/x", open[:len(open)-1]+"%2fx", open[:len(open)-1]+`\x`, open[:len(open)-1]+";/x", open[:len(open)-1], open[:len(open)-1]+"x/y",
			// These targets are complete URLs.
			"http://"+f.Addr+open+"../api/x", "http://"+f.Addr+open+"%2e%2e/api/x", "http://"+f.Addr+"/"+open+"x", "ftp://"+f.Addr+open+"x", "ws://"+f.Addr+open+"x", "x:"+open+"x",
			"http:"+open[1:]+"x", "x:"+open[1:]+"x", "https:"+open[1:]+"x", "unix:"+open+"x")
		// These are very long.
		add(open+strings.Repeat("a/", 32<<10)+"..", open+strings.Repeat("a/", 20<<10)+strings.Repeat("../", 20<<10)+"../api/x", open+strings.Repeat("../", 20<<10)+"api/x",
			open+strings.Repeat("a", 64<<10)+"%2f..", open+strings.Repeat("%2e", 20<<10), open+strings.Repeat("/", 64<<10))
	}
	add("/Public/x", "/PUBLIC/x", "/pUBLIC/x", "/OPTIONAL/x", "/%70ublic/x", "/public%2Fx", "/p%75blic/x", "/healthz/", "/healthz/x", "/healthz//", "/Healthz", "/HEALTHZ",
		"/healthz.", "/healthz%20", "/healthz%00", "/healthz%2f", "/healthz;", "/healthz;x=1", "/healthz%3b", "/healthz%3f", "/healthz%23", "/healthz#", "/healthz#x", "/healthz%0a", "/healthz.json",
		"/healthzx", "/%68ealthz", "/./healthz", "//healthz", "/x/../healthz", `/healthz\`, "/healthz::$DATA", "/healthz%ef%bb%bf", "/healthz/.", "/healthz/..", "/healthz/../api/x",
		"/public/[x]", "/api/x;.css", "/api/x.css", "/api/x/healthz", "/api/x?/public/x", "/api/x?/../public/x", "/api/x#/public/x", "/api/x%23/public/x", "/api/x;/public/x", "/api/..;/public/x", "/api/../public/x",
		"/api/%2e%2e/public/x", "/api/x%00/public/x", "/api/x%3f/public/x", `/api\..\public\x`, "/api/x%0a/public/x", "/", "/..", "/.", "/;", "/%2e", "/%00", "/api/"+strings.Repeat("a", 64<<10),
		"http://"+f.Addr, "http://"+f.Addr+"/", "http://"+f.Addr+"?/public/x", "http://"+f.Addr+"/api/x", "HTTP://"+f.Addr+"/api/x", "https://"+f.Addr+"/api/x", "http://"+f.Addr+"/api/x#/public/x",
		"http://u:p@"+f.Addr+"/api/x", "http:/api/x", "http:///api/x", "http:api/x", "http:", "http:?x", "x:", "javascript:alert(1)", "urn:x:public:y", "mailto:root@localhost")
	// Dots and breakers in a query, or before one, are not part of the path.
	attacks = append(attacks, attack{"OPTIONS", "/public/../api/x"}, attack{"HEAD", "/public/../api/x"}, attack{"POST", "/public/x"}, attack{"get", "/public/x"}, attack{"Get", "/healthz"},
		attack{"PROPFIND", "/public/x"}, attack{"DELETE", "/healthz"}, attack{"HEAD ", "/api/x"})

	preflight := []string{"Origin: https://a.example", "Access-Control-Request-Method: GET"}
	everyHTTP(t, f, func(t *testing.T, f *fort) {
		reached := 0
		for _, a := range attacks {
			// Without a token, nothing reaches the upstream and no endpoint answers.
			for _, lines := range [][]string{nil, {"X-Original-URL: /public/x", "X-Rewrite-URL: /public/x", "X-Forwarded-Uri: /public/x", "X-Forwarded-Method: GET", "X-Forwarded-Prefix: /public"}} {
				answer, got := f.fire(t, message(f.Addr, a.method, a.target, lines...))
				if len(got) > 0 || answer.Status != http.StatusUnauthorized && answer.Status != http.StatusBadRequest {
					t.Errorf("%s %.100q: %d, upstream %s", a.method, a.target, answer.Status, short(got))
				}
				if answer.Status == http.StatusUnauthorized && a.method != "HEAD" {
					answer.WantProblem(t, 401, "token_missing", nil)
				}
			}
			// With a token it may pass unchanged; the input breaks nothing.
			answer, got := f.fire(t, message(f.Addr, a.method, a.target, auth, "X-WX-USER-ID: "+forged))
			switch {
			case answer.Status == http.StatusOK && len(got) == 1:
				reached++
				got[0].wantIdentity(t, identity)
				if got[0].broken != nil {
					t.Errorf("%s %.100q arrives as %s", a.method, a.target, short(got))
				}
			case len(got) == 0 && answer.Status >= 400 && answer.Status != http.StatusUnauthorized:
			default:
				t.Errorf("%s %.100q with a token: %d, upstream %s", a.method, a.target, answer.Status, short(got))
			}
			// A preflight passes only on a canonical path.
			if strings.HasPrefix(a.target, "/public/") && strings.Contains(a.target, "..") && a.method == "GET" {
				if answer, got := f.fire(t, message(f.Addr, "OPTIONS", a.target, preflight...)); len(got) > 0 {
					t.Errorf("preflight %.100q: %d, upstream %s", a.target, answer.Status, short(got))
				}
			}
		}
		t.Logf("%d targets, %d of them reach the upstream with a token", len(attacks), reached)
		if reached < len(attacks)/2 {
			t.Errorf("only %d of %d targets reach the upstream even with a token: it is not the gate that keeps them", reached, len(attacks))
		}

		// A canonical path passes and arrives as it was checked.
		for target, want := range map[string]string{
			"/public/x": "", "/public/": "", "/healthz": "", "/optional/x": "", "/free/x": "", "/free/": "",
			"/healthz?x=/../api": "", "/public/x?../../api/x": "", "/public/x?a=%2e%2e%2f&b;c#": "", "/public/x?": "",
			"/public/a%20b": "", "/public/%E4%BD%A0": "", "/public/%e4%bd%a0": "", "/public/.well-known/x": "", "/public/a..b": "", "/public/..a": "", "/public/...a/b": "",
			"/public/a:b@c": "", "/public/a=b,c!$'()*+&d~e_f-g": "", "/public/%5B%7B%22%7D%5D": "", "/public/x/": "", "/public/" + strings.Repeat("a", 64<<10): "",
			"/public/a{b}|c^\"<>`": "/public/a%7Bb%7D%7Cc%5E%22%3C%3E%60", "/public/{env.WX_SECRET}": "/public/%7Benv.WX_SECRET%7D", "/public/你": "/public/%E4%BD%A0",
			"http://" + f.Addr + "/public/x": "/public/x", "HTTP://" + f.Addr + "/public/x?y": "/public/x?y", "http:/public/x": "/public/x", "http://u:p@" + f.Addr + "/public/x": "/public/x",
			"/FREE/x": "", // Caddy's matcher ignores case, so leaving /free out leaves /FREE out
		} {
			if want == "" {
				want = target
			}
			if f.later != nil && target[0] != '/' {
				continue
			}
			lines := []string{"X-WX-USER-ID: " + forged}
			w := f.passes(t, message(f.Addr, "GET", target, lines...))
			w.wantIdentity(t, nil)
			if got := strings.TrimSuffix(strings.TrimPrefix(w.line, "GET "), " HTTP/1.1"); got != want {
				t.Errorf("%.200q arrives as %.200q", target, got)
			}
			if len(w.values("Authorization")) > 0 {
				t.Errorf("%.200q brings an Authorization: %q", target, w.values("Authorization"))
			}
		}
	})
	// These targets are invalid, as is a method without a path.
	for _, raw := range []string{"GET public/x HTTP/1.1", "GET ?x HTTP/1.1", "GET  HTTP/1.1", "GET  /public/x HTTP/1.1", "GET /public/ x HTTP/1.1", "GET /public/\x00 HTTP/1.1", "GET /public/\x01x HTTP/1.1", "GET /public/\x7f HTTP/1.1",
		"GET\t/public/x\tHTTP/1.1", "GET http://[::1/public/x HTTP/1.1", "GET http://a b/public/x HTTP/1.1", "/public/x HTTP/1.1", "GET /public/x", "G\xffT /public/x HTTP/1.1", "GET /public/x http/1.1", "GET % HTTP/1.1"} {
		for _, lines := range [][]string{nil, {auth}} {
			a, got := f.fire(t, raw+"\r\nHost: "+f.Addr+"\r\n"+strings.Join(append(lines, "", ""), "\r\n"))
			if a.Status != http.StatusBadRequest || len(got) > 0 {
				t.Errorf("%q: %d, upstream %s", raw, a.Status, short(got))
			}
		}
	}
}

// Only some paths are protected. Whatever an upstream could map onto them needs a
// token.
func TestAttackPathsAroundTheMatcher(t *testing.T) {
	t.Parallel()
	f := newFort3(t, rig.Site("wx_auth /admin/* {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}"))
	targets := []string{
		"/admin/x", "/ADMIN/x", "/Admin/x", "/%61dmin/x", "/adm%69n/x", "/%41DMIN/x", "/admin%2fx", "/admin%2Fx", "/admin%5cx", `/admin\x`, "//admin/x", "///admin/x", "/./admin/x", "/%2e/admin/x",
		"/x/../admin/x", "/x/%2e%2e/admin/x", "/x/..%2fadmin/x", "/x%2f..%2fadmin/x", "/x/..;/admin/x", "/;/admin/x", "/admin;/x", "/admin;x=y/x", "/;x/admin/x", "/admin%3b/x", `/\admin/x`, `\admin/x`, `/x\..\admin\x`,
		"/x/..%5cadmin/x", "/admin./x", "/admin%20/x", "/admin%2e/x", "/admin%00/x", "/admin%00", "/admin::$INDEX_ALLOCATION/x", "/admin:$I30:$INDEX_ALLOCATION/x", "/admin%09/x", "/admin%0a/x", "/admin/./x", "/admin/x/..",
		"/admin%252fx", "/%2561dmin/x", "/x/%252e%252e/admin/x", "/x/..%c0%afadmin/x", "/%c1%a1dmin/x", "/%e0%81%a1dmin/x", "/admin%c0%afx", "/%2fadmin/x", "/x%00/../admin/x", "/x#/../admin/x", "/x%23/../admin/x", "/x%3f/../admin/x",
		"http:admin/x", "http:/admin/x", "http://" + f.Addr + "/admin/x", "http://" + f.Addr + "//admin/x", "http://" + f.Addr + "/x/../admin/x", "x:/admin/x", "x:admin/x", "ftp://" + f.Addr + "/x",
		"/open/../admin/x", "/.;/admin/x", "/admin/", "/admin//", "/%u0061dmin/x", "/admin%ff/x",
	}
	everyHTTP(t, f, func(t *testing.T, f *fort) {
		for _, target := range targets {
			for _, method := range []string{"GET", "POST", "OPTIONS", "admin"} {
				a, got := f.fire(t, message(f.Addr, method, target))
				if len(got) > 0 || a.Status != 401 && a.Status != 400 {
					t.Errorf("%s %q: %d, upstream %s", method, target, a.Status, short(got))
				}
			}
		}
		for _, target := range []string{"/open/x", "/open/admin/x", "/administrator/x", "/x?/admin/x", "/x-admin/x", "/admin.x/y"} {
			f.passes(t, message(f.Addr, "GET", target))
		}
	})
}

// The matcher fails, and Caddy treats that as "no match". The request must still need a token.
func TestAttackMatcherThatFails(t *testing.T) {
	t.Parallel()
	for name, matcher := range map[string]string{
		"what to protect":       "expression int({http.request.header.X-N}) > 1",
		"what not to protect":   "not expression int({http.request.header.X-N}) < 2",
		"behind one that holds": "{\npath /*\nexpression int({http.request.header.X-N}) > 1\n}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFort3(t, rig.Site("@guarded "+matcher+"\nwx_auth @guarded {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}"))
			everyHTTP(t, f, func(t *testing.T, f *fort) {
				f.passes(t, message(f.Addr, "GET", "/x", "X-N: 1"))
				f.refuses(t, tokenMissing, message(f.Addr, "GET", "/x", "X-N: 2"))
				for _, n := range []string{"x", "", "1.", "1x", "99999999999999999999"} {
					f.refuses(t, tokenMissing, message(f.Addr, "GET", "/x", "X-N: "+n))
				}
				f.refuses(t, tokenMissing, message(f.Addr, "GET", "/x"))
			})
		})
	}
}

// Paths that almost name an endpoint are not served as one, and without a token they reach
// nothing.
func TestAttackPathsAroundThePrefix(t *testing.T) {
	t.Parallel()
	f := newFort3(t, fortSite(""))
	pair := f.login(t, "13800138000")
	auth := "Authorization: Bearer " + pair.Token
	everyHTTP(t, f, func(t *testing.T, f *fort) {
		absent := func(target string) bool { return f.later != nil && target[0] != '/' } // not a path there
		// A target that has the prefix byte for byte is ours, whatever follows.
		for _, target := range []string{"/auth/wx/nothing", "/auth/wx/../wx/me", "/auth/wx/..", "/auth/wx/../../api/x", "/auth/wx/./me", "/auth/wx//me", "/auth/wx//", "/auth/wx/me//", "/auth/wx/me/.", "/auth/wx/ME", "/auth/wx/me/x",
			"/auth/wx/..;/x", "/auth/wx/me;x", "/auth/wx/me;/", "/auth/wx/sessions/a/b", "/auth/wx/sessions//", "/auth/wx/jwks", "/auth/wx/public/x", "/auth/wx/service", "/auth/wx/service/users", "http://" + f.Addr + "/auth/wx/../../api/x",
			"/auth/wx/%6de", "/auth/wx/me%20", "/auth/wx/%2e%2e/me", "/auth/wx/..%2fme", "/auth/wx/me%2f", "/auth/wx/%2e%2e/%2e%2e/api/x", "/auth/wx/%00", "/auth/wx/me%00", "/auth/wx/me#", "/auth/wx/me%3fx", `/auth/wx/..\x`, "/auth/wx/\xff", "/auth/wx/{env.WX_SECRET}"} {
			if absent(target) {
				continue
			}
			for _, lines := range [][]string{nil, {auth}} {
				f.refuses(t, refusal{404, "not_found"}, message(f.Addr, "GET", target, lines...))
			}
		}
		for _, id := range []string{"%00", "..", "%2e%2e", "a%2fb", "..%2f..%2fapi", ";x", "%", "'--"} {
			want := refusal{404, "not_found"}
			if id == "%" {
				want = refusal{400, ""}
			}
			f.refuses(t, want, message(f.Addr, "DELETE", "/auth/wx/sessions/"+id, auth))
		}
		// Another spelling of the prefix is not ours. Below a public path it is not
		// canonical, so without a token nothing passes.
		for _, target := range []string{"/AUTH/WX/me", "/Auth/wx/me", "/auth/WX", "/auth//wx/me", "//auth/wx/me", "/auth/wx%2fme", "/auth%2fwx/me", "/auth/wx%2Fme", "/%61uth/wx/me", "/auth/w%78/me", "/auth/wx%20/me", "/auth/wx./me",
			"/auth/wx;/me", "/auth;/wx/me", "/auth/wx;x=y", "/auth/wx%3b/me", "/auth/wx%00", "/auth/wx%00/me", "/auth/wx%23", "/auth/wx#", "/auth/wx%3f", `/auth/wx\me`, `/auth\wx/me`, "/auth/wx%5cme", "/auth/./wx/me", "/auth/x/../wx/me",
			"/auth/%2e/wx/me", "/x/../auth/wx/me", "/public/../auth/wx/me", "/public/..%2fauth/wx/me", "/public/..;/auth/wx/me", "/free/../auth/wx/me",
			"/auth/wx%c0%afme", "/auth/wxx", "/auth/wx.json", "/auth", "/auth/", "http:auth/wx/me", "x:/auth/wx", "http:auth/wx", "ftp://" + f.Addr + "/auth/wx.x"} {
			for _, method := range []string{"GET", "POST", "DELETE"} {
				a, got := f.fire(t, message(f.Addr, method, target, "Content-Length: 0"))
				if len(got) > 0 || a.Status != 401 && a.Status != 400 && a.Status != 404 {
					t.Errorf("%s %q: %d %s, upstream %s", method, target, a.Status, a.Body, short(got))
				}
				a, got = f.fire(t, message(f.Addr, method, target, "Content-Length: 0", auth))
				if len(got) == 0 && a.Status < 400 || strings.Contains(a.Body, "phoneNumber") {
					t.Errorf("%s %q is served as an endpoint: %d %s", method, target, a.Status, a.Body)
				}
			}
		}
		// One trailing slash is accepted.
		for target, status := range map[string]int{"/auth/wx/me/": 200, "/auth/wx/verify/": 204, "/auth/wx/jwks.json/": 200, "/auth/wx/health/": 200, "/auth/wx/": 405, "http://" + f.Addr + "/auth/wx/me": 200} {
			if !absent(target) {
				f.refuses(t, refusal{status, ""}, message(f.Addr, "GET", target, auth))
			}
		}
		f.Client().Me(pair.Token).Want(t, http.StatusOK) // none of this has ended the session
	})
}
