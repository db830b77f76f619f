package requests

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

const forged = "f0rged"

// pathKinds are the kinds of paths of a fortSite. The identity reaches the upstream
// only where the token decides.
var pathKinds = []struct {
	target   string
	token    bool // send a token
	identity bool
}{
	{"/api/x", true, true},
	{"/optional/x", true, true},
	{"/optional/x", false, false},
	{"/public/x", false, false},
	{"/public/x", true, false},
	{"/healthz", false, false},
	{"/free/x", false, false},
	{"/free/x", true, false},
}

// spellings returns a name with each "-" written as "-", "_" or ".".
func spellings(name string) []string {
	before, after, more := strings.Cut(name, "-")
	if !more {
		return []string{name}
	}
	var all []string
	for _, rest := range spellings(after) {
		for _, sep := range []string{"-", "_", "."} {
			all = append(all, before+sep+rest)
		}
	}
	return all
}

// cases returns a name in every mix of cases that could matter.
func cases(name string) []string {
	mixed := []byte(strings.ToLower(name))
	for i := 0; i < len(mixed); i += 2 {
		mixed[i] = strings.ToUpper(string(mixed[i]))[0]
	}
	return []string{name, strings.ToLower(name), strings.ToUpper(name), string(mixed)}
}

// expected returns the global options that make Caddy let these names through. Without
// them it drops names with "_" or ".". A name with both must be listed literally.
func expected(names ...string) string {
	var underscores, dots []string
	for _, name := range names {
		for _, s := range spellings(name) {
			switch {
			case strings.Contains(s, "_"):
				underscores = append(underscores, s)
			case strings.Contains(s, "."):
				dots = append(dots, s)
			}
		}
	}
	return "servers {\nexpected_underscore_headers " + strings.Join(underscores, " ") +
		"\nexpected_dot_headers " + strings.Join(dots, " ") + "\n}"
}

var identityNames = []string{"X-WX-User-Id", "X-WX-Openid", "X-WX-Appid", "X-WX-Unionid", "X-WX-Phone", "X-WX-Session", "X-WX-Source"}

// An attacker sends identity headers in every spelling that a server behind us may read
// as the real name.
func TestAttackIdentityHeadersInEverySpelling(t *testing.T) {
	t.Parallel()
	const custom = "identity X-User-ID id\nidentity Remote-Phone phone\nidentity X-User-Roles claims.roles\nidentity X-User-Union unionid"
	customNames := []string{"X-User-ID", "Remote-Phone", "X-User-Roles", "X-User-Union"}
	for _, site := range []struct {
		name, globals, options string
		names                  []string
	}{
		{"as Caddy is", "", "", identityNames},
		{"with expected headers", expected(append(identityNames, "X-Other-Name")...), "", identityNames},
		{"names of one's own", "", custom, append(customNames, identityNames...)},
		{"names of one's own, expected", expected(append(customNames, append(identityNames, "X-Other-Name")...)...), custom, append(customNames, identityNames...)},
	} {
		t.Run(site.name, func(t *testing.T) {
			t.Parallel()
			f := newFort3(t, fortSite(site.globals, site.options))
			pair := f.login(t, "13800138000")
			want, own := f.identity(t, pair), []string(nil)
			if site.options != "" { // the directory knows no roles, WeChat knows no unionid
				want = []field{{"X-User-Id", pair.UserInfo.ID}, {"Remote-Phone", pair.UserInfo.PhoneNumber}}
				for _, name := range customNames {
					own = append(own, folded(name))
				}
			}
			auth := "Authorization: Bearer " + pair.Token
			everyHTTP(t, f, func(t *testing.T, f *fort) {
				for form := range cases("X-A") {
					if f.later != nil && form > 0 {
						break // over later versions, names are in lower case or refused
					}
					// Send the names of one case at a time, because Caddy drops names
					// that occur twice.
					var once, twice, empty, plain []string
					for _, name := range site.names {
						for _, s := range append(spellings(name), strings.ReplaceAll(name, "-", "~"), strings.ReplaceAll(name, "-", "!")) {
							s = cases(s)[form]
							once = append(once, s+": "+forged)
							twice = append(twice, s+": "+forged, s+": "+forged+"2")
							empty = append(empty, s+":", s+": "+forged)
						}
						plain = append(plain, cases(name)[form]+":")
					}
					for _, path := range pathKinds {
						for _, lines := range [][]string{once, twice, empty, plain} {
							identity := []field(nil)
							if path.token {
								lines = append([]string{auth}, lines...)
							}
							if path.identity {
								identity = want
							}
							f.passes(t, message(f.Addr, "GET", path.target, lines...)).wantIdentity(t, identity, own...)
						}
					}
					// At our own endpoints, only the token decides what the answer
					// says.
					for target, status := range map[string]int{"/auth/wx/verify": 403, "/auth/wx/verify/x": 403, "/auth/wx/me": 200, "/auth/wx/jwks.json": 200, "/auth/wx/nothing": 404} {
						a := f.refuses(t, refusal{status, ""}, message(f.Addr, "GET", target, append([]string{auth}, once...)...))
						if strings.Contains(fmt.Sprint(a), forged) {
							t.Errorf("%s answers what a header claims: %v", target, a)
						}
					}
					f.refuses(t, tokenMissing, message(f.Addr, "GET", "/api/x", twice...))
					f.refuses(t, tokenMissing, message(f.Addr, "GET", "/auth/wx/verify", twice...))
				}
				// Conversely, similar names that are not identity headers reach the
				// upstream.
				for _, s := range spellings("X-Other-Name") {
					w := f.passes(t, message(f.Addr, "GET", "/api/x", auth, s+": shown"))
					caddys := strings.ContainsAny(s, "_.") == (site.globals != "")
					if got := w.values(s); (len(got) == 1 && got[0] == "shown") != caddys {
						t.Errorf("%s: upstream has %q", s, got)
					}
				}
			})
		})
	}
}

// A proxy must delete every header that Connection names, so a client could have our
// identity headers deleted after we have set them.
func TestAttackConnectionNamesWhatWeSet(t *testing.T) {
	t.Parallel()
	f := newFort(t, "{\ndefault_bind 127.0.0.1\n}\nhttp://{$ADDR} {\nhandle /bare/* {\nreverse_proxy {$UPSTREAM}\n}\nhandle {\n"+
		"wx_auth {env.WX_APPID} {env.WX_SECRET} {\noptional /optional/*\npublic /public/*\nforward_token\nwechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}\n}\n}")
	pair := f.login(t, "13800138000")
	id := f.identity(t, pair)
	auth := "Authorization: Bearer " + pair.Token
	all := "X-WX-USER-ID, X-WX-OPENID, X-WX-APPID, X-WX-PHONE, Authorization, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, Via, X-Mine"
	tables := map[string][]string{
		"one":                  {"Connection: X-WX-USER-ID"},
		"lower case":           {"connection: x-wx-user-id"},
		"all":                  {"Connection: " + all},
		"all, lower case":      {"CONNECTION: " + strings.ToLower(all)},
		"several lines":        {"Connection: keep-alive", "connection: X-WX-PHONE, Authorization", "CoNnEcTiOn: X-Forwarded-For,X-WX-USER-ID"},
		"beside keep-alive":    {"Connection: keep-alive, X-WX-USER-ID, " + all},
		"beside close":         {"Connection: " + all + ", close"},
		"empty elements":       {"Connection: ,, ,X-WX-USER-ID,,Authorization,"},
		"tabs":                 {"Connection:\tX-WX-USER-ID\t,\tAuthorization"},
		"quoted":               {`Connection: "X-WX-USER-ID", 'Authorization'`},
		"with parameters":      {"Connection: X-WX-USER-ID;q=1, Authorization; x"},
		"old proxies":          {"Proxy-Connection: " + all},
		"Keep-Alive":           {"Keep-Alive: X-WX-USER-ID", "Connection: Keep-Alive, X-WX-USER-ID"},
		"with an upgrade":      {"Connection: Upgrade, " + all, "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="},
		"with an upgrade last": {"Connection: " + all, "Connection: upgrade", "Upgrade: h2c"},
		"itself":               {"Connection: Connection, Connection, X-WX-USER-ID, Authorization"},
		"what is not shown":    {"Connection: Host, Content-Length, Transfer-Encoding, X-WX-USER-ID"},
	}
	for name, lines := range tables {
		t.Run(name, func(t *testing.T) {
			lines = append(lines, "X-Mine: yes")
			for _, target := range []string{"/api/x", "/optional/x"} {
				w := f.passes(t, message(f.Addr, "GET", target, append(lines, auth)...))
				w.wantIdentity(t, id)
				if got := w.values("Authorization"); len(got) != 1 || got[0] != "Bearer "+pair.Token {
					t.Errorf("%s: the token, which was to be forwarded: %q", target, got)
				}
				w.wantForwarding(t, f.Addr)
			}
			for _, target := range []string{"/optional/x", "/public/x"} {
				w := f.passes(t, message(f.Addr, "GET", target, lines...))
				w.wantIdentity(t, nil)
				w.wantForwarding(t, f.Addr)
			}
			f.refuses(t, tokenMissing, message(f.Addr, "GET", "/api/x", lines...))
			f.refuses(t, tokenMissing, message(f.Addr, "GET", "/auth/wx/verify", lines...))
			// The credential is not lost on the way either.
			f.refuses(t, refusal{204, ""}, message(f.Addr, "GET", "/auth/wx/verify", append(lines, auth)...))
		})
	}
	// Without the gate, Caddy's proxy does delete it.
	w := f.passes(t, message(f.Addr, "GET", "/bare/x", auth, "X-Mine: yes", "Connection: X-Mine, Authorization"))
	if len(w.values("X-Mine")) > 0 || len(w.values("Authorization")) > 0 {
		t.Errorf("the attack does not work without the gate, so it tries nothing: %q", w.fields)
	}
}

// wantForwarding checks what Caddy reports to the upstream about the client.
func (w wire) wantForwarding(t testing.TB, host string) {
	t.Helper()
	for name, want := range map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": host, "X-Mine": "yes"} {
		if got := w.values(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s at the upstream: %q, want %q", name, got, want)
		}
	}
}

// An attacker sends identity headers as trailers, which net/http adds to the request
// after the gate has looked at it.
func TestAttackIdentityInTrailers(t *testing.T) {
	t.Parallel()
	f := newFort(t, "{\ndefault_bind 127.0.0.1\nskip_install_trust\nauto_https disable_redirects\nservers {\nprotocols h1 h2 h2c h3\n}\n}\n"+
		"(guarded) {\nhandle /bare/* {\nreverse_proxy {$UPSTREAM}\n}\nhandle {\n"+
		"@guarded not path /free/*\nwx_auth @guarded {env.WX_APPID} {env.WX_SECRET} {\n"+
		"public POST /public/* /healthz\noptional /optional/*\nwechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}\n}\n}\n"+
		"http://{$ADDR} {\nimport guarded\n}\nhttps://{$ADDR2} {\ntls internal\nimport guarded\n}", "ADDR2="+rig.FreeAddress(t))
	tlsAddr := f.addr2()
	awaitHTTP3(t, tlsAddr)
	pair := f.login(t, "13800138000")
	auth := "Bearer " + pair.Token
	names := []string{"X-WX-USER-ID", "x-wx-phone", "X_WX_USER_ID", "X.WX.UNIONID", "X-Wx-Unionid", "Authorization", "X-Late"}
	announced := strings.Join(names, ", ")

	type form struct {
		name     string
		announce []string // values of Trailer
	}
	forms := []form{
		{"declared", []string{announced}},
		{"declared in several lines", []string{"X-Wx-Unionid", "X-WX-USER-ID, x-wx-phone", "X-Late"}},
		{"undeclared", nil},
		{"another declared", []string{"X-Late"}},
	}
	for _, form := range forms {
		var lines, late []string
		var fields2, late2 []field
		for _, v := range form.announce {
			lines = append(lines, "Trailer: "+v)
			fields2 = append(fields2, field{"trailer", v})
		}
		for _, n := range names {
			late = append(late, n+": "+forged, n+":")
			if n != "Authorization" { // net/http ends the stream
				late2 = append(late2, field{strings.ToLower(n), forged})
			}
		}
		chunked := func(target string, more ...string) string {
			return message(f.Addr, "POST", target, append(append([]string{"Transfer-Encoding: chunked", "TE: trailers", "Connection: TE"}, lines...), more...)...) +
				"3\r\nabc\r\n0\r\n" + strings.Join(append(late, "", ""), "\r\n")
		}
		t.Run("HTTP1/"+form.name, func(t *testing.T) {
			for _, path := range pathKinds {
				identity, more := []field(nil), []string(nil)
				if path.token {
					more = []string{"Authorization: " + auth}
				}
				if path.identity {
					identity = f.identity(t, pair)
				}
				w := f.passes(t, chunked(path.target, more...))
				w.wantIdentity(t, identity)
				if w.body != "abc" {
					t.Errorf("body %q", w.body)
				}
			}
			f.refuses(t, tokenMissing, chunked("/api/x"))
			f.refuses(t, refusal{415, ""}, chunked("/auth/wx"))
		})
		for _, over := range []struct {
			name, addr, scheme string
			send               func(message2) rig.Answer
		}{
			{"h2c", f.Addr, "http", func(m message2) rig.Answer { return raw2(f.Addr, nil, m) }},
			{"HTTP2", tlsAddr, "https", func(m message2) rig.Answer {
				return raw2(tlsAddr, &tls.Config{InsecureSkipVerify: true, ServerName: "127.0.0.1", NextProtos: []string{"h2"}}, m)
			}},
			{"HTTP3", tlsAddr, "https", func(m message2) rig.Answer { return raw3(tlsAddr, m) }},
		} {
			t.Run(over.name+"/"+form.name, func(t *testing.T) {
				for _, path := range pathKinds {
					for _, data := range [][]string{{"abc"}, {""}, nil} {
						identity := []field(nil)
						fields := append(get2(over.addr, "POST", path.target), fields2...)
						fields[1].value = over.scheme
						if path.token {
							fields = append(fields, field{"authorization", auth})
						}
						if path.identity {
							identity = f.identity(t, pair)
						}
						a := over.send(message2{fields: fields, data: data, trailers: late2})
						got := f.tap.take()
						if a.Err != nil || a.Status != http.StatusOK || len(got) != 1 {
							t.Fatalf("%d %v, upstream %s", a.Status, a.Err, short(got))
						}
						got[0].wantIdentity(t, identity)
						if got[0].body != strings.Join(data, "") {
							t.Errorf("body %q", got[0].body)
						}
					}
				}
				a := over.send(message2{fields: append(get2(over.addr, "POST", "/api/x"), fields2...), data: []string{"abc"}, trailers: late2})
				if a.WantProblem(t, 401, "token_missing", nil); len(f.tap.take()) > 0 {
					t.Error("reached the upstream")
				}
			})
		}
	}
	// Without the gate, Caddy's proxy forwards trailers.
	w := f.passes(t, message(f.Addr, "POST", "/bare/x", "Transfer-Encoding: chunked", "Trailer: X-WX-USER-ID")+"1\r\na\r\n0\r\nX-WX-USER-ID: "+forged+"\r\n\r\n")
	if len(w.trailers) != 1 {
		t.Errorf("the attack does not work without the gate, so it tries nothing: %+v", w)
	}
}

// Header values that could be read as something else on the way to the upstream.
func TestAttackOddValues(t *testing.T) {
	t.Parallel()
	f := newFort3(t, fortSite(""))
	pair := f.login(t, "13800138000")
	id, auth := f.identity(t, pair), "Authorization: Bearer "+pair.Token
	const (
		arrives = iota
		refused // by net/http inside Caddy
	)
	rows := map[string]struct {
		value string
		want  int
	}{
		"placeholder of the environment": {"{env.WX_SECRET}", arrives},
		"placeholder of a file":          {"{file./etc/passwd}", arrives},
		"placeholder of the identity":    {"{http.auth.user.id}", arrives},
		"placeholder of a header":        {"{http.request.header.Authorization}", arrives},
		"placeholder in a placeholder":   {"{{env.WX_SECRET}}", arrives},
		"placeholder of the Caddyfile":   {"{$WX_SECRET}", arrives},
		"placeholder without end":        {"{env.WX_SECRET", arrives},
		"10 KB":                          {strings.Repeat("a", 10<<10), arrives},
		"UTF-8":                          {"你好, admin", arrives},
		"no UTF-8":                       {"\xff\xfe\x80\xc0\xaf", arrives},
		"C1 controls":                    {"a\x85b\x9fc", arrives},
		"a tab":                          {"a\tb", arrives},
		"NUL":                            {"a\x00b", refused},
		"control":                        {"a\x01b", refused},
		"DEL":                            {"a\x7fb", refused},
		"escape":                         {"\x1b[2Ja", refused},
		"a bare CR":                      {"a\rX-WX-USER-ID: " + forged, refused},
		"another line's look":            {`a%0d%0aX-WX-USER-ID:+` + forged + `\r\nX-WX-USER-ID: ` + forged, arrives},
	}
	everyHTTP(t, f, func(t *testing.T, f *fort) {
		for name, c := range rows {
			t.Run(name, func(t *testing.T) {
				if c.want == refused {
					for _, name := range []string{"X-Custom", "X-WX-USER-ID", "Authorization", "User-Agent"} {
						for _, target := range []string{"/api/x", "/public/x", "/auth/wx/me"} {
							f.refuses(t, refusal{400, ""}, message(f.Addr, "GET", target, name+": "+c.value))
						}
					}
					return
				}
				for _, name := range []string{"X-Custom", "Referer", "X-WX-USER-ID", "x-wx-other"} {
					for _, path := range pathKinds {
						lines, identity, want := []string{name + ": " + c.value}, []field(nil), []string{c.value}
						if path.token {
							lines = append(lines, auth)
						}
						if path.identity {
							identity = id
						}
						w := f.passes(t, message(f.Addr, "GET", path.target+"?q={env.WX_SECRET}", lines...))
						w.wantIdentity(t, identity)
						if strings.HasPrefix(folded(name), "x-wx-") {
							continue
						}
						if got := w.values(name); !slices.Equal(got, want) {
							t.Errorf("%s at the upstream: %s", name, short(got))
						}
						if !strings.Contains(w.line, "?q={env.WX_SECRET} ") {
							t.Errorf("%q at the upstream", w.line)
						}
					}
					f.refuses(t, tokenMissing, message(f.Addr, "GET", "/api/x", name+": "+c.value))
				}
				a := f.refuses(t, tokenInvalid, message(f.Addr, "GET", "/api/x", "Authorization: Token"+strings.NewReplacer(" ", "", ",", "", "\t", "").Replace(c.value)))
				if strings.Contains(fmt.Sprint(a), rig.Secret) || strings.Contains(a.Body, c.value) {
					t.Errorf("the answer holds what was sent, or more: %.300s", a.Body)
				}
			})
		}
	})
	// A folded header is one line: its second half is not a header.
	f.passes(t, message(f.Addr, "GET", "/public/x", "X-Custom: a", " X-WX-USER-ID: "+forged)).wantIdentity(t, nil)
	// These are not valid header names.
	for _, line := range []string{"X-WX-USER-ID : " + forged, " X-WX-USER-ID: " + forged, "X-WX-USER\x00ID: " + forged, "X-WX-USER ID: " + forged, "X-WX-USER\u2010ID: " + forged, ": " + forged, "X-WX-USER-ID"} {
		f.refuses(t, refusal{400, ""}, "GET /public/x HTTP/1.1\r\n"+line+"\r\nHost: "+f.Addr+"\r\n\r\n")
	}
	// A login stores its client's User-Agent. A placeholder in it must stay text: expanded, it
	// would show the client a secret.
	codes := f.wx.Tap(t, "13800138000")
	f.Client().Do("POST", "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode}, "User-Agent: {env.WX_SECRET}").Pair(t)
	if a := f.Client().Get("/auth/wx/sessions", pair.Token); !strings.Contains(a.Body, `"{env.WX_SECRET}"`) || strings.Contains(a.Body, rig.Secret) {
		t.Errorf("sessions: %s", a.Body)
	}
}

// The answer to TRACE repeats the request, with the identity that we have added.
func TestAttackTraceShowsNothing(t *testing.T) {
	t.Parallel()
	f := newFort3(t, fortSite(""))
	auth := "Authorization: Bearer " + f.login(t, "13800138000").Token
	everyHTTP(t, f, func(t *testing.T, f *fort) {
		for _, method := range []string{"TRACE", "trace", "Trace", "tRACE"} {
			for _, target := range []string{"/api/x", "/public/x", "/optional/x", "/free/x", "/healthz", "/auth/wx", "/auth/wx/me", "/auth/wx/nothing", "*", "//x", "http:x"} {
				if f.later != nil && target[0] != '/' {
					continue // no path in this case
				}
				for _, lines := range [][]string{nil, {auth}, {auth, "Max-Forwards: 0"}} {
					want := refusal{405, "method_not_allowed"}
					if target == "/auth/wx/nothing" {
						want = refusal{404, "not_found"}
					}
					a := f.refuses(t, want, message(f.Addr, method, target, append(lines, "X-Mine: "+forged)...))
					if strings.Contains(fmt.Sprint(a), forged) {
						t.Errorf("%s %s is echoed: %v", method, target, a)
					}
				}
			}
		}
		// A header must not turn another method into TRACE either.
		for _, name := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "x-http-method-override", "X-Http-Method~Override"} {
			for _, target := range []string{"/public/x", "/optional/x", "/free/x"} {
				w := f.passes(t, message(f.Addr, "GET", target, name+": TRACE"))
				for _, field := range w.fields {
					if field.value == "TRACE" {
						t.Errorf("%s: %q at the upstream", target, field)
					}
				}
			}
		}
	})
}
