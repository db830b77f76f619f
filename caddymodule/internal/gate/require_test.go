package gate

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/text/unicode/norm"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// parse reads a requirement written as in a Caddyfile.
func parse(line string) (Requirement, error) {
	args := strings.Fields(line)
	n := 0
	for n < len(args) && args[n][0] == '/' {
		n++
	}
	field, values := "", []string(nil)
	if n < len(args) {
		field, values = args[n], args[n+1:]
	}
	return NewRequirement(args[:n], field, values, time.ParseDuration)
}

func require(t testing.TB, args string) Requirement {
	t.Helper()
	r, err := parse(args)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// holder accepts every token as one caller's.
func holder(c token.Claims) cached {
	id := c.Identity()
	return cached{&id}
}

func at(path string) *http.Request {
	u, err := url.ParseRequestURI(path)
	if err != nil {
		panic(err)
	}
	return &http.Request{Method: "GET", URL: u, Header: http.Header{"Authorization": {"Bearer ours.good"}}}
}

// A caller passes with one of the values, compared byte by byte, and with nothing that
// only resembles one. A claim that is missing, null or an object is no value.
func TestRequireComparesValues(t *testing.T) {
	for name, c := range map[string]struct {
		value any
		pass  bool
	}{
		"the value": {"admin", true}, "another of the values": {"ops", true}, "an item of a list": {[]any{"x", "admin"}, true},
		"other case": {"Admin", false}, "with a space": {"admin ", false}, "both in one": {"admin,ops", false},
		"missing": {nil, false}, "empty": {"", false}, "object": {map[string]any{"admin": true}, false},
		"a list in a list": {[]any{[]any{"admin"}}, false}, "number": {7.0, true}, "bool": {true, true}, "empty list": {[]any{}, false},
	} {
		g := newGate(t, Settings{Require: []Requirement{require(t, "/a claims.role admin ops 7 true")}},
			holder(token.Claims{Subject: "u1", Extra: map[string]any{"role": c.value}}))
		v := g.Enter(at("/a"), nil, now)
		if (v.Refusal == nil) != c.pass || !c.pass && v.Refusal.Code != problem.Forbidden {
			t.Errorf("%s: %+v", name, v.Refusal)
		}
	}
}

// Two rules that match must both hold. A caller that lacks only a recent login with the
// phone number gets a code that says so, but never on a path that is not canonical.
func TestRequireSaysWhatIsMissing(t *testing.T) {
	rules := []Requirement{require(t, "/pay/* phone_within 15m"), require(t, "/pay/large/* claims.role boss"), require(t, "/app appid wx1")}
	fresh, old := now.Add(-15*time.Minute), now.Add(-15*time.Minute-time.Second)
	boss := map[string]any{"role": "boss"}
	for name, c := range map[string]struct {
		path string
		who  token.Claims
		code problem.Code
	}{
		"fresh enough":               {"/pay/x", token.Claims{AuthTime: fresh}, ""},
		"too old":                    {"/pay/x", token.Claims{AuthTime: old}, problem.PhoneLoginRequired},
		"never logged in by phone":   {"/pay/x", token.Claims{}, problem.PhoneLoginRequired},
		"both hold":                  {"/pay/large/x", token.Claims{AuthTime: fresh, Extra: boss}, ""},
		"only the login is missing":  {"/pay/large/x", token.Claims{AuthTime: old, Extra: boss}, problem.PhoneLoginRequired},
		"only the claim is missing":  {"/pay/large/x", token.Claims{AuthTime: fresh}, problem.Forbidden},
		"both are missing":           {"/pay/large/x", token.Claims{AuthTime: old}, problem.Forbidden},
		"the app":                    {"/app", token.Claims{AppID: "wx1"}, ""},
		"another app":                {"/app", token.Claims{AppID: "wx2"}, problem.Forbidden},
		"no rule":                    {"/free", token.Claims{}, ""},
		"not canonical, all hold":    {"/free//x", token.Claims{AppID: "wx1", AuthTime: fresh, Extra: boss}, ""},
		"not canonical, one misses":  {"/free//x", token.Claims{AppID: "wx1", AuthTime: old, Extra: boss}, problem.Forbidden},
		"canonical until normalized": {"/free%EF%BC%8F%EF%BC%8Fx", token.Claims{AppID: "wx1", Extra: boss}, problem.Forbidden},
	} {
		v := newGate(t, Settings{Require: rules}, holder(c.who)).Enter(at(c.path), nil, now)
		switch {
		case c.code == "" && v.Refusal != nil:
			t.Errorf("%s: %+v", name, v.Refusal)
		case c.code != "" && (v.Refusal == nil || v.Refusal.Code != c.code || v.Refusal.Status != 403):
			t.Errorf("%s: %+v, want %s", name, v.Refusal, c.code)
		case c.code == problem.PhoneLoginRequired && strings.Join(*v.Refusal.Renew, " ") != "code phoneCode":
			t.Errorf("%s: renew %q", name, v.Refusal.Renew)
		}
	}
}

// A required path needs a token, whatever the matcher and the rules around it say, in every
// spelling that some upstream reads as that path. A preflight needs none.
func TestRequireIsAheadOfOpenRules(t *testing.T) {
	g := newGate(t, Settings{
		Public: []Rule{{Path: "/docs/*"}}, Optional: []Rule{{Path: "/*"}},
		Require: []Requirement{require(t, "/docs/inner/* /Straße claims.role admin")},
	}, &stubTokens{})
	open := func(*http.Request) (bool, error) { return false, nil }
	for path, want := range map[string]problem.Code{
		"/docs/x": "", "/docs/innerx": "", "/x": "",
		"/docs/inner": problem.TokenMissing, "/docs/inner/": problem.TokenMissing, "/docs/inner/x": problem.TokenMissing,
		"/DOCS/Inner/x": problem.TokenMissing, "/docs/%EF%BD%89nner/x": problem.TokenMissing, "/docs/%C4%B1nner": problem.TokenMissing,
		"/docs/%C4%B0nner": problem.TokenMissing, "/docs/in%C2%ADner": problem.TokenMissing, "/docs//inner": problem.TokenMissing,
		"/strasse": problem.TokenMissing, "/STRASSE/": problem.TokenMissing, "/stra%C5%BF%C5%BFe": problem.TokenMissing, "/stra%C3%9Fe/x": "",
	} {
		r := at(path)
		r.Header.Del("Authorization")
		v := g.Enter(r, open, now)
		if got := code(v.Refusal); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	r := at("/docs/inner/x")
	r.Method, r.Header = "OPTIONS", http.Header{"Origin": {"https://a.example"}, "Access-Control-Request-Method": {"GET"}}
	if v := g.Enter(r, open, now); v.Refusal != nil {
		t.Errorf("a preflight: %+v", v.Refusal)
	}
	for _, name := range []string{"X-Original-Url", "X-Original-Uri", "X-Script-Name", "X-Http-Path-Override"} {
		r = at("/free")
		r.Header.Set(name, "/docs/inner/x")
		if v := g.Enter(g.Prepare(r, false), open, now); v.Refusal != nil || r.Header.Get(name) != "" {
			t.Errorf("%s beside a good token: %+v, %q", name, v.Refusal, r.Header)
		}
	}
}

func code(r *problem.Problem) problem.Code {
	if r == nil {
		return ""
	}
	return r.Code
}

// A requirement that could never mean what it says is refused. The error shows the correct
// form.
func TestRequireIsCheckedAtLoad(t *testing.T) {
	for args, want := range map[string]string{
		"": "names no path", "claims.role admin": "names no path", "/a": "names no field", "/a claims.role": "a value is missing",
		"/a role admin": "claims.<name>", "/a id u1": "claims.<name>", "/a claims. x": "claims.<name>", "/a phone_within": "one age",
		"/a phone_within 1h 2h": "one age", "/a phone_within 0s": "not an age", "/a phone_within -1h": "not an age",
		"/a phone_within soon": "not an age", "/a*b claims.x y": "stands at the end", "/a//b claims.x y": "empty", "/a/{x} claims.x y": "placeholder",
		"* appid x": "write /* for all", "GET /a appid x": "takes no method", "/a appid": "require /a appid {env.WX_APPID}",
		"/a phone_within 1ms": "not an age", "/a phone_within 900000h": "not an age",
	} {
		if _, err := parse(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("require %s: %v, want %q", args, err, want)
		}
	}
	for _, c := range []struct {
		require, public, optional string
		refused                   bool
	}{
		{"/a/* appid x", "/a/b", "", true}, {"/a/* appid x", "/a", "", true}, {"/a/* appid x", "/A/b/*", "", true}, {"/a/* appid x", "", "/a/", true},
		{"/a appid x", "/a/", "", true}, {"/* appid x", "", "/b/*", true}, {"/a appid x", "/a/*", "", false}, {"/a/* appid x", "/b", "/*", false},
		{"/a/* appid x", "/ab", "", false}, {"/a/b/* appid x", "/a/*", "", false},
		{"/a appid x", "/公告？", "", true}, {"/a appid x", "/公告？/*", "", true}, {"/a appid x", "/公告/*", "/ｂ", false},
	} {
		s := Settings{Require: []Requirement{require(t, c.require)}}
		if c.public != "" {
			s.Public = []Rule{{Path: c.public}}
		}
		if c.optional != "" {
			s.Optional = []Rule{{Path: c.optional}}
		}
		if _, err := New(s, nil); (err != nil) != c.refused || c.refused && !strings.Contains(err.Error(), "has no effect") {
			t.Errorf("require %s, public %s, optional %s: %v", c.require, c.public, c.optional, err)
		}
	}
}

// FuzzRequire looks for a path that no requirement applies to, although some upstream serves
// it as a required one: without regard to case, or after Unicode normalization.
func FuzzRequire(f *testing.F) {
	required, err := compileRequirements([]Requirement{require(f, "/admin/* /pay /caf\u00e9/* claims.role admin")}, nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	for _, target := range []string{
		"/admin", "/ADMIN/x", "/pay/", "/Pay", "/caf%C3%A9/x", "/cafe%CC%81/x", "/%EF%BD%81dmin", "/pub/%EF%BC%8E%EF%BC%8E/admin", "/adm%C4%B1n",
		"/pub%EF%BC%8F..%EF%BC%8Fadmin", "/x/..;/admin", "/admin%E2%80%8B", "/pub/%E2%80%A5/admin", "/%EF%BC%8Fpay", "/admin%EF%BC%9Bx", "/p%C2%AAy",
		"/admin%EF%BC%9Fx", "/x%EF%BC%BC..%EF%BC%BCadmin", "/pay%C2%A0", "/pay%E3%80%80", "/pay%EF%BC%8F",
	} {
		f.Add(target)
	}
	served := func(resource string) bool {
		for _, p := range []string{resource, strings.ToLower(resource), strings.ToUpper(resource)} {
			for _, own := range []string{"/admin", "/caf\u00e9", "/pay"} {
				for _, own := range []string{own, strings.ToUpper(own)} {
					if p == own || p == own+"/" || !strings.EqualFold(own, "/pay") && strings.HasPrefix(p, own+"/") {
						return true
					}
				}
			}
		}
		return false
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		r := &http.Request{URL: u}
		wire, canonical := Path(r)
		if len(required.placeOf(r, wire, canonical).required) > 0 {
			return
		}
		for _, up := range upstreams {
			resource := up.resource(wire)
			for _, form := range []string{resource, norm.NFC.String(resource), norm.NFKC.String(resource), keepSlash(norm.NFKC.String(resource)),
				keepSlash(strings.ReplaceAll(cutAt(norm.NFKC.String(resource), ";?#"), `\`, "/")), keepSlash(trimmed(norm.NFKC.String(resource)))} {
				if served(form) {
					t.Errorf("%q meets no requirement; %s serves %q", target, up.name, form)
				}
			}
		}
	})
}

// BenchmarkRequire decides on a request with and without requirements.
func BenchmarkRequire(b *testing.B) {
	who := holder(token.Claims{Subject: "u1", Extra: map[string]any{"role": "admin"}})
	for name, rules := range map[string][]Requirement{
		"none": nil,
		"one":  {require(b, "/api/v1/orders/* claims.role admin")},
		"four": {require(b, "/admin/* claims.role admin"), require(b, "/pay/* phone_within 15m"), require(b, "/api/v1/reports/* claims.role admin"), require(b, "/api/v1/orders/* claims.role admin")},
	} {
		g := newGate(b, Settings{Require: rules}, who)
		b.Run(name, func(b *testing.B) {
			r := at("/api/v1/orders/0190b5c0-7c1e-7a4e/items?page=2")
			r.Header = browserHeaders()
			b.ReportAllocs()
			for b.Loop() {
				r.Header["Authorization"] = []string{"Bearer ours.good"}
				if v := g.Enter(g.Prepare(r, false), nil, now); v.Refusal != nil {
					b.Fatal(v.Refusal)
				}
			}
		})
	}
}
