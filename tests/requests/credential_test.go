package requests

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// broken returns a token with one bit of its signature changed.
func broken(token string) string {
	b := []byte(token)
	i := len(b) - 10
	if b[i]++; b[i] == '{' || b[i] == '[' || b[i] == ':' || b[i] == '`' || b[i] == '.' {
		b[i] = 'b'
	}
	return string(b)
}

// tokens are tokens of each kind for the same user.
type tokens struct{ good, broken, revoked, expired string }

func someTokens(t *testing.T, g *guard, final string) tokens {
	t.Helper()
	var ts tokens
	ts.expired = g.login(t, "13800138000").Token // valid for a second
	issued := time.Now()
	g.reload(t, final)
	ts.revoked = g.login(t, "13800138000").Token
	g.Client().Logout(ts.revoked, "", false).Want(t, http.StatusNoContent)
	ts.good = g.login(t, "13800138000").Token
	ts.broken = broken(ts.good)
	time.Sleep(time.Until(issued.Add(2 * time.Second)))
	return ts
}

const (
	shortToken = "token {\nlifetime 1s\nleeway 0s\n}"
	longToken  = "token {\nleeway 0s\n}"
)

// The table of credentials has a cell for each kind of path and each kind of credential. Every
// cell must hold.
func TestEveryCellOfTheCredentialTable(t *testing.T) {
	t.Parallel()
	g := newGuard3(t, guardSite(shortToken))
	ts := someTokens(t, g, guardSite(longToken))

	type outcome struct {
		refusal
		identity bool // the upstream learns the identity
		left     bool // the upstream receives the Authorization header
	}
	on, onLeft, known := outcome{}, outcome{left: true}, outcome{identity: true}
	no := func(r refusal) outcome { return outcome{refusal: r} }
	rows := []struct {
		name, authorization string
		want                [4]outcome // by kindsOfPaths
	}{
		{"no token", "", [4]outcome{no(tokenMissing), on, on, on}},
		{"an empty Authorization", " ", [4]outcome{no(tokenMissing), on, on, on}},
		{"ours, good", "Bearer " + ts.good, [4]outcome{known, known, on, on}},
		{"ours, good, scheme in lower case", "bearer " + ts.good, [4]outcome{known, known, on, on}},
		{"ours, good, several spaces", "BEARER    " + ts.good + "  ", [4]outcome{known, known, on, on}},
		{"ours, broken", "Bearer " + ts.broken, [4]outcome{no(tokenInvalid), no(tokenInvalid), on, on}},
		{"ours, cut", "Bearer " + ts.good[:len(ts.good)-1], [4]outcome{no(tokenInvalid), no(tokenInvalid), on, on}},
		{"ours, revoked", "Bearer " + ts.revoked, [4]outcome{no(tokenRevoked), no(tokenRevoked), on, on}},
		{"ours, expired", "Bearer " + ts.expired, [4]outcome{no(tokenExpired), no(tokenExpired), on, on}},
		{"ours after a tab", "Bearer\t" + ts.good, [4]outcome{no(tokenInvalid), no(tokenInvalid), on, on}},
		{"another scheme", "Basic eDp5", [4]outcome{no(tokenInvalid), onLeft, onLeft, onLeft}},
		{"ours under another scheme", "Token " + ts.good, [4]outcome{no(tokenInvalid), onLeft, onLeft, onLeft}},
		{"a bare token", ts.good, [4]outcome{no(tokenInvalid), onLeft, onLeft, onLeft}},
		{"a scheme alone", "Bearer", [4]outcome{no(tokenInvalid), onLeft, onLeft, onLeft}},
		{"a no-break space", "Bearer\u00a0" + ts.good, [4]outcome{no(tokenInvalid), onLeft, onLeft, onLeft}},
		{"a colon", "Bearer: " + ts.good, [4]outcome{no(tokenInvalid), onLeft, onLeft, onLeft}},
	}
	for _, foreign := range foreignTokens {
		rows = append(rows, struct {
			name, authorization string
			want                [4]outcome
		}{"foreign " + foreign, "Bearer " + foreign, [4]outcome{no(tokenInvalid), onLeft, onLeft, onLeft}})
	}
	// More than one credential is answered with 400 everywhere, because an upstream
	// could read the other one.
	conflicts := map[string][]string{
		"two headers":           {"Authorization: Bearer " + ts.good, "Authorization: Bearer " + ts.broken},
		"the same twice":        {"Authorization: Bearer " + ts.good, "authorization: Bearer " + ts.good},
		"two schemes":           {"Authorization: Bearer " + ts.good, "Authorization: Basic eDp5"},
		"one of two is empty":   {"Authorization:", "Authorization: Bearer " + ts.good},
		"comma-joined":          {"Authorization: Bearer " + ts.good + ", Bearer " + ts.broken},
		"comma-joined, no gap":  {"Authorization: Bearer " + ts.good + ",Basic eDp5"},
		"ours second":           {"Authorization: Basic eDp5, Bearer " + ts.good},
		"two tokens, one space": {"Authorization: Bearer " + ts.good + " " + ts.good},
		"a comma behind":        {"Authorization: Bearer " + ts.good + ","},
	}
	everyHTTP(t, g, func(t *testing.T, g *guard) {
		for i, path := range kindsOfPaths {
			for _, row := range rows {
				t.Run(strings.Trim(path, "/x")+"/"+row.name, func(t *testing.T) {
					var lines []string
					if row.authorization != "" {
						lines = append(lines, "Authorization: "+row.authorization)
					}
					want := row.want[i]
					seen := g.wants(t, want.refusal, "GET", path, append(lines, "X-WX-USER-ID: forged")...)
					if want.status != 0 {
						return
					}
					if id := seen.Header.Get("X-WX-USER-ID"); (id != "") != want.identity || id == "forged" {
						t.Errorf("identity %q", id)
					}
					if left := seen.Header.Get("Authorization") != ""; left != want.left {
						t.Errorf("Authorization at the upstream: %q", seen.Header["Authorization"])
					}
				})
			}
			for name, lines := range conflicts {
				t.Run(strings.Trim(path, "/x")+"/"+name, func(t *testing.T) { g.wants(t, twoTokens, "GET", path, lines...) })
			}
		}
		// A preflight carries no credential (Fetch standard); a request with a
		// credential is not a preflight.
		preflight := []string{"Origin: https://a.example", "Access-Control-Request-Method: PUT"}
		g.wants(t, goesOn, "OPTIONS", "/api/x", preflight...)
		for _, token := range append([]string{ts.broken}, foreignTokens...) {
			g.wants(t, tokenInvalid, "OPTIONS", "/api/x", append(preflight, "Authorization: Bearer "+token)...)
		}
		// Other sources are off by default, so a token there does not count.
		for _, lines := range [][]string{
			{"Cookie: __Host-wx-auth=" + ts.good},
			rig.UpgradeLines("Sec-WebSocket-Protocol: bearer, " + ts.good),
		} {
			g.wants(t, tokenMissing, "GET", "/api/x?access_token="+ts.good, lines...)
		}
	})
}

var allSources = "credential cookie\ncredential query\ncredential websocket_protocol"

// The same table holds for a token from each of the other sources.
func TestEverySourceHasTheSameTable(t *testing.T) {
	t.Parallel()
	g := newGuard3(t, guardSite(allSources, shortToken))
	ts := someTokens(t, g, guardSite(allSources, longToken))
	sources := map[string]struct {
		show func(token string) (query string, lines []string)
		// left checks what the upstream received: the unchanged credential, or nothing
		// of it.
		left func(s rig.Seen, token string) bool
	}{
		"cookie": {
			func(token string) (string, []string) {
				return "a=b", []string{"Cookie: a=b; __Host-wx-auth=" + token + "; c=d"}
			},
			func(s rig.Seen, token string) bool {
				return s.Header.Get("Cookie") == "a=b; __Host-wx-auth="+token+"; c=d"
			},
		},
		"query": {
			func(token string) (string, []string) { return "a=%41&access_token=" + token + "&c", rig.UpgradeLines() },
			func(s rig.Seen, token string) bool {
				return strings.HasSuffix(s.URI, "?a=%41&access_token="+token+"&c")
			},
		},
		"websocket_protocol": {
			func(token string) (string, []string) {
				return "a=b", rig.UpgradeLines("Sec-WebSocket-Protocol: chat, bearer, " + token + ", v2.chat")
			},
			func(s rig.Seen, token string) bool {
				return s.Header.Get("Sec-WebSocket-Protocol") == "chat, bearer, "+token+", v2.chat"
			},
		},
	}
	everyHTTP(t, g, func(t *testing.T, g *guard) {
		for name, src := range sources {
			for i, path := range kindsOfPaths {
				for _, row := range []struct {
					token string
					want  [4]refusal
					ours  bool
				}{
					{ts.good, [4]refusal{}, true},
					{ts.broken, [4]refusal{tokenInvalid, tokenInvalid}, true},
					{ts.revoked, [4]refusal{tokenRevoked, tokenRevoked}, true},
					{ts.expired, [4]refusal{tokenExpired, tokenExpired}, true},
					{foreignTokens[0], [4]refusal{tokenInvalid}, false},
				} {
					t.Run(fmt.Sprintf("%s%s/%.8s", name, path, row.token[len(row.token)-8:]), func(t *testing.T) {
						i := i
						if g.later != nil && name != "cookie" && path == "/public/x" {
							i = 0 // public means GET, but this is CONNECT, so it needs a token as on a protected path
						}
						query, lines := src.show(row.token)
						seen := g.wants(t, row.want[i], "GET", path+"?"+query, lines...)
						if row.want[i].status != 0 {
							return
						}
						if known := seen.Header.Get("X-WX-USER-ID") != ""; known != (row.token == ts.good && i < 2) {
							t.Errorf("identity: %v", known)
						}
						if left := src.left(seen, row.token); left == row.ours {
							t.Errorf("left: %v: %+v", left, seen)
						}
						if row.ours && strings.Contains(fmt.Sprint(seen), row.token) {
							t.Errorf("the token reached the upstream: %+v", seen)
						}
					})
				}
			}
		}
	})
}

// After a token was taken from its place, the rest of the request must reach the
// upstream unchanged.
func TestCredentialIsRemovedAndNothingElse(t *testing.T) {
	t.Parallel()
	g := newGuard3(t, guardSite(allSources))
	token := g.login(t, "13800138000").Token
	everyHTTP(t, g, func(t *testing.T, g *guard) {
		for _, c := range []struct{ query, want string }{
			{"access_token=T", ""},
			{"access_token=T&b=2", "b=2"},
			{"b=%7e&access_token=T&c=+%20&&d", "b=%7e&c=+%20&&d"},
			{"Access_token=x&access_token=T", "Access_token=x"},
			{"%61ccess_token=T&z=;;&a[]=1&a[]=2", "z=;;&a[]=1&a[]=2"},
			{"access_token=&b&access_token=T", "b"},
			{"x=access_token=1&access_token=T&y=%zz", "x=access_token=1&y=%zz"},
		} {
			seen := g.wants(t, goesOn, "GET", "/api/a%2Cb?"+strings.ReplaceAll(c.query, "T", token), rig.UpgradeLines()...)
			if want := strings.TrimSuffix("/api/a%2Cb?"+c.want, "?"); seen.URI != want {
				t.Errorf("%s: the upstream saw %q, want %q", c.query, seen.URI, want)
			}
		}
		for _, c := range []struct {
			lines []string
			want  []string
		}{
			{[]string{"__Host-wx-auth=T"}, nil},
			{[]string{"__Host-wx-auth=T; b=2"}, []string{"b=2"}},
			{[]string{"a=1;__Host-wx-auth=T;  b=\"2\" ;c"}, []string{"a=1;  b=\"2\" ;c"}},
			{[]string{"a=1; __Host-wx-auth=T"}, []string{"a=1"}},
			{[]string{"__host-wx-auth=x; __Host-wx-auth=T; x__Host-wx-auth=y"}, []string{"__host-wx-auth=x; x__Host-wx-auth=y"}},
			{[]string{"a=1", "__Host-wx-auth=T", "b=2"}, []string{"a=1", "b=2"}},
		} {
			var lines []string
			for _, l := range c.lines {
				lines = append(lines, "Cookie: "+strings.ReplaceAll(l, "T", token))
			}
			seen := g.wants(t, goesOn, "GET", "/api/x", lines...)
			sep := "|"
			if g.later != nil { // where each cookie may be a field, and the fields are joined (RFC 9113, section 8.2.3)
				sep = "; "
			}
			if got := seen.Header["Cookie"]; strings.Join(got, sep) != strings.Join(c.want, sep) {
				t.Errorf("%q: the upstream saw %q, want %q", c.lines, got, c.want)
			}
		}
		for _, c := range []struct{ lines, want string }{
			{"bearer, T", ""},
			{"bearer,T", ""},
			{"chat, bearer, T", "chat"},
			{"bearer, T, chat, v2.chat", "chat, v2.chat"},
			{"chat|bearer|T|v2.chat", "chat, v2.chat"},
			{"Bearer, T, chat", "chat"},
		} {
			var lines []string
			for l := range strings.SplitSeq(strings.ReplaceAll(c.lines, "T", token), "|") {
				lines = append(lines, "Sec-WebSocket-Protocol: "+l)
			}
			seen := g.wants(t, goesOn, "GET", "/api/x", rig.UpgradeLines(lines...)...)
			if got := strings.Join(seen.Header["Sec-Websocket-Protocol"], "|"); got != c.want {
				t.Errorf("%q: the upstream saw %q, want %q", c.lines, got, c.want)
			}
		}
	})
	// These are not upgrades, so a token in the query or protocol does not count.
	for _, lines := range [][]string{nil, {"Upgrade: websocket"}, {"Connection: upgrade", "Upgrade: h2c"}} {
		g.wants(t, tokenMissing, "GET", "/api/x?access_token="+token, append(lines, "Sec-WebSocket-Protocol: bearer, "+token)...)
	}
	g.wants(t, tokenMissing, "POST", "/api/x?access_token="+token, rig.UpgradeLines("Content-Length: 0")...)
}

// A request carries two credentials from different sources. If we used one and the
// upstream the other, an attacker could mix identities.
func TestConflictingSourcesAreRefused(t *testing.T) {
	t.Parallel()
	g := newGuard3(t, guardSite(allSources))
	one, two := g.login(t, "13800138000").Token, g.login(t, "13900139000").Token
	places := map[string]func(token string) (query, line string){
		"authorization": func(tok string) (string, string) { return "", "Authorization: Bearer " + tok },
		"cookie":        func(tok string) (string, string) { return "", "Cookie: __Host-wx-auth=" + tok },
		"query":         func(tok string) (string, string) { return "access_token=" + tok, "" },
		"protocol":      func(tok string) (string, string) { return "", "Sec-WebSocket-Protocol: bearer, " + tok },
	}
	everyHTTP(t, g, func(t *testing.T, g *guard) {
		for nameA, a := range places {
			for nameB, b := range places {
				for kind, second := range map[string]string{"other": two, "equal": one, "broken": broken(two)} {
					for _, path := range kindsOfPaths {
						t.Run(nameA+"+"+nameB+"/"+kind+path, func(t *testing.T) {
							queryA, lineA := a(one)
							queryB, lineB := b(second)
							lines := rig.UpgradeLines("Origin: " + g.origin)
							for _, l := range []string{lineA, lineB} {
								if l != "" {
									lines = append(lines, l)
								}
							}
							g.wants(t, twoTokens, "GET", path+"?"+queryA+"&"+queryB, lines...)
						})
					}
				}
			}
		}
		// Where the token decides, another credential beside it is a conflict. On other
		// paths it does not concern us.
		both := []string{"Authorization: Basic eDp5", "Cookie: __Host-wx-auth=" + one}
		g.wants(t, twoTokens, "GET", "/api/x", both...)
		g.wants(t, twoTokens, "GET", "/optional/x", both...)
		seen := g.wants(t, goesOn, "GET", "/public/x", both...)
		if seen.Header.Get("Authorization") != "Basic eDp5" || seen.Header.Get("Cookie") != "" {
			t.Errorf("%+v", seen)
		}
		// The endpoints and /verify do the same.
		for _, path := range []string{"/auth/wx/me", "/auth/wx/sessions"} {
			g.wants(t, twoTokens, "GET", path, "Authorization: Bearer "+one, "Cookie: __Host-wx-auth="+one)
			g.wants(t, twoTokens, "GET", path, "Cookie: __Host-wx-auth="+one+"; __Host-wx-auth="+two)
		}
		g.wants(t, refusal{401, "invalid_request"}, "GET", "/auth/wx/verify", "Authorization: Bearer "+one, "Cookie: __Host-wx-auth="+two)
	})
}

// The log filter in docs/browsers.md must keep tokens in a query out of the access log.
func TestPagesLogFilterHidesTokens(t *testing.T) {
	t.Parallel()
	block := rig.Replaced(t, rig.PageBlock(t, "browsers.md", "format filter"),
		"{\n\tlog {\n", "{\n\tdefault_bind 127.0.0.1\n\tdebug\n\tlog {\n",
		"api.example.com {", "http://{$ADDR} {", "localhost:3000", "{$UPSTREAM}",
		"credential query", "wechat {\napi {$WX_API}\n}\ncredential query")
	unfiltered := rig.Replaced(t, block, "format filter", "format json\n#", "request>uri", "#", "replace access_token REDACTED\n\t\t\t}", "#",
		"request>headers", "#", "\t\t}\n\t}\n}", "\t}\n}")
	for name, caddyfile := range map[string]string{"filtered": block, "unfiltered": unfiltered} {
		t.Run(name, func(t *testing.T) {
			g := newGuard(t, caddyfile)
			token := g.login(t, "13800138000").Token
			secret := token[len(token)-40:]
			send := func() {
				for _, target := range []string{
					"/x?access_token=" + token, "/x?a=b&%61ccess_token=" + token + "&c=d", "/x?access_token=" + token + "&y=%zz",
					"http://" + g.Addr + "/x?access_token=" + token,
				} {
					if a := g.ask("GET", target, rig.UpgradeLines()...); a.Err != nil || a.Status == 401 {
						t.Errorf("%s: %d %v %s", target[:6], a.Status, a.Err, a.Body)
					}
				}
				g.ask("GET", "/x", rig.UpgradeLines("Sec-WebSocket-Protocol: bearer, "+token)...)
				g.ask("GET", "/x?access_token="+token+"#f", rig.UpgradeLines()...)
			}
			send()
			g.Log.Wait(t, 20*time.Second, "handled request", `"status":200`)
			g.Setenv("UPSTREAM", "127.0.0.1:1") // failures are logged by another logger
			g.reload(t, caddyfile)
			send()
			g.Log.Wait(t, 20*time.Second, "http.log.error", `"status":502`)
			g.Log.Wait(t, 20*time.Second, "handled request", `"status":502`)
			g.Stop()
			shown := len(g.Log.Lines(secret)) + len(g.Log.Lines(strings.Split(token, ".")[1]))
			if (shown > 0) != (name == "unfiltered") {
				t.Errorf("%d lines with the token", shown)
			}
			if name == "filtered" && len(g.Log.Lines("access_token=REDACTED")) == 0 {
				t.Error("nothing was filtered")
			}
		})
	}
}
