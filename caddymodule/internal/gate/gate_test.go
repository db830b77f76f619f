package gate

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// stubTokens recognizes tokens by their first segment and verifies them by their name.
type stubTokens struct {
	unavailable bool
	asked       int
}

func (s *stubTokens) Ours(raw string) bool {
	return !s.unavailable && strings.HasPrefix(raw, "ours.")
}

func (s *stubTokens) Verify(raw string, _ time.Time) (*token.Identity, error) {
	s.asked++
	switch {
	case s.unavailable:
		return nil, fmt.Errorf("keys: %w", ErrUnavailable)
	case raw == "ours.good":
		return someone(), nil
	case raw == "ours.expired":
		return nil, fmt.Errorf("exp: %w", token.ErrExpired)
	case raw == "ours.revoked":
		return nil, token.ErrRevoked
	case raw == "ours.odd":
		return nil, errors.New("something else")
	}
	return nil, token.ErrInvalid
}

var now = time.Unix(1_700_000_000, 0)

// outcome is the expected result in one cell of the table.
type outcome struct {
	status   int          // 0: the request proceeds
	code     problem.Code // of the refusal
	identity bool         // the headers are set
	keeps    bool         // the Authorization is kept
}

var (
	onAnonymous = outcome{}
	onIdentity  = outcome{identity: true}
	onLeft      = outcome{keeps: true}
	missing     = outcome{status: 401, code: problem.TokenMissing, keeps: true}
	invalid     = outcome{status: 401, code: problem.TokenInvalid, keeps: true}
	expired     = outcome{status: 401, code: problem.TokenExpired, keeps: true}
	revoked     = outcome{status: 401, code: problem.TokenRevoked, keeps: true}
	twoTokens   = outcome{status: 400, code: problem.InvalidRequest, keeps: true}
	notYet      = outcome{status: 503, code: problem.StoreUnavailable, keeps: true}
)

// matchAPI is a matcher that protects every path outside /free.
func matchAPI(r *http.Request) (bool, error) { return !strings.HasPrefix(r.URL.Path, "/free"), nil }

// paths has a path of each kind.
var paths = map[string]string{
	"protected":           "/api/x",
	"optional":            "/opt/x",
	"public":              "/pub/x",
	"outside the matcher": "/free/x",
}

func tableGate(t testing.TB, forward bool, tokens Tokens) *Gate {
	return newGate(t, Settings{
		Public:       []Rule{{Path: "/pub/*"}, {Methods: []string{"POST"}, Path: "/hook"}},
		Optional:     []Rule{{Path: "/opt/*"}},
		ForwardToken: forward,
	}, tokens)
}

func enter(t *testing.T, g *Gate, r *http.Request) (Decision, *http.Request) {
	t.Helper()
	r = g.Prepare(r, false)
	return g.Enter(r, matchAPI, now), r
}

func check(t *testing.T, name string, v Decision, r *http.Request, want outcome, hadAuthorization bool) {
	t.Helper()
	var got outcome
	if v.Refusal != nil {
		got.status, got.code = v.Refusal.Status, v.Refusal.Code
	}
	got.identity = r.Header.Get("X-Wx-User-Id") != ""
	_, got.keeps = r.Header["Authorization"]
	if !hadAuthorization {
		want.keeps = false
	}
	if got != want {
		t.Errorf("%s: %+v, want %+v", name, got, want)
	}
	if (v.Caller != nil) != want.identity {
		t.Errorf("%s: caller %v", name, v.Caller)
	}
	if v.Refusal != nil && v.Refusal.Detail == "" {
		t.Errorf("%s: no detail", name)
	}
}

// TestWhichRequestsGoOn presents each kind of credential on each kind of path: the
// table of the documentation, cell by cell.
func TestWhichRequestsGoOn(t *testing.T) {
	credentials := []struct{ name, line string }{
		{"no token", ""},
		{"good", "Bearer ours.good"},
		{"good, other case", "bEARER  ours.good"},
		{"bad", "Bearer ours.bad"},
		{"expired", "Bearer ours.expired"},
		{"revoked", "Bearer ours.revoked"},
		{"odd error", "Bearer ours.odd"},
		{"good but malformed", "Bearer\tours.good"},
		{"foreign token", "Bearer theirs.good"},
		{"another scheme", "Basic eDp5"},
		{"bare", "ours.good"},
		{"scheme only", "Bearer"},
		{"two", "Bearer ours.good, Basic eDp5"},
	}
	want := map[string][]outcome{
		"protected": {
			missing, onIdentity, onIdentity, invalid, expired, revoked, invalid, invalid, invalid, invalid, invalid, invalid, twoTokens,
		},
		"optional": {
			onAnonymous, onIdentity, onIdentity, invalid, expired, revoked, invalid, invalid, onLeft, onLeft, onLeft, onLeft, twoTokens,
		},
		"public": {
			onAnonymous, onAnonymous, onAnonymous, onAnonymous, onAnonymous, onAnonymous, onAnonymous, onAnonymous, onLeft, onLeft, onLeft, onLeft, twoTokens,
		},
	}
	want["outside the matcher"] = want["public"]
	for kind, path := range paths {
		for i, c := range credentials {
			g := tableGate(t, false, &stubTokens{})
			lines := "GET " + path + " HTTP/1.1\nHost: h\nX-WX-User-ID: forged\n"
			if c.line != "" {
				lines += "Authorization: " + c.line + "\n"
			}
			v, r := enter(t, g, request(t, lines))
			check(t, kind+", "+c.name, v, r, want[kind][i], c.line != "")
		}
	}
}

// TestForwardedTokensAreGoodOnes configures the gate to pass tokens on to the upstream. An
// invalid or revoked token must not reach the upstream, which may check only the signature.
func TestForwardedTokensAreGoodOnes(t *testing.T) {
	credentials := []string{"Bearer ours.good", "Bearer ours.bad", "Bearer ours.revoked", "Bearer\tours.good", "Bearer theirs.good"}
	withToken := outcome{identity: true, keeps: true}
	want := map[string][]outcome{
		"protected":           {withToken, invalid, revoked, invalid, invalid},
		"optional":            {withToken, invalid, revoked, invalid, onLeft},
		"public":              {onLeft, onAnonymous, onAnonymous, onAnonymous, onLeft},
		"outside the matcher": {onLeft, onAnonymous, onAnonymous, onAnonymous, onLeft},
	}
	for kind, path := range paths {
		for i, line := range credentials {
			g := tableGate(t, true, &stubTokens{})
			v, r := enter(t, g, request(t, "GET "+path+" HTTP/1.1\nHost: h\nAuthorization: "+line+"\n"))
			check(t, kind+", "+line, v, r, want[kind][i], true)
		}
	}
}

// TestBeforeTheKeysAreLoaded sends requests while the store is unreachable at start:
// those that need a token get 503 rather than 401, or every client would log in again.
func TestBeforeTheKeysAreLoaded(t *testing.T) {
	for _, c := range []struct {
		kind, line string
		want       outcome
	}{
		{"protected", "", missing},
		{"protected", "Bearer ours.good", notYet},
		{"protected", "Basic eDp5", invalid},
		{"optional", "", onAnonymous},
		{"optional", "Bearer ours.good", notYet},
		{"optional", "Basic eDp5", onLeft},
		{"public", "", onAnonymous},
		{"public", "Bearer ours.good", onLeft}, // without keys it is not recognized as ours
		{"outside the matcher", "Bearer theirs.good", onLeft},
	} {
		g := tableGate(t, false, &stubTokens{unavailable: true})
		lines := "GET " + paths[c.kind] + " HTTP/1.1\nHost: h\n"
		if c.line != "" {
			lines += "Authorization: " + c.line + "\n"
		}
		v, r := enter(t, g, request(t, lines))
		check(t, c.kind+", "+c.line, v, r, c.want, c.line != "")
		if c.want == notYet && (v.Refusal == nil || v.Refusal.RetryAfter <= 0) {
			t.Errorf("%s, %s: no Retry-After", c.kind, c.line)
		}
	}
}

// TestTwoHeadersAreRefusedEverywhere sends two Authorization headers, of which the gate
// and an upstream might each read another.
func TestTwoHeadersAreRefusedEverywhere(t *testing.T) {
	for kind, path := range paths {
		g := tableGate(t, false, &stubTokens{})
		v, r := enter(t, g, request(t, "GET "+path+" HTTP/1.1\nHost: h\nAuthorization: Bearer ours.good\nauthorization: Bearer ours.good\n"))
		check(t, kind, v, r, twoTokens, true)
	}
}

// TestPathsThatAreNotCanonicalNeedAToken reaches for a protected path through a public
// one. Such a path needs a token, and the matcher is not consulted.
func TestPathsThatAreNotCanonicalNeedAToken(t *testing.T) {
	nothing := func(*http.Request) (bool, error) { return false, nil }
	for _, path := range []string{"/pub/../api", "/pub//x", "/opt/..;/x", "/free/%2e%2e/api", "/pub/%2e%2e/api", "/free;x", "http:free/x", "ftp://h/free"} {
		g := tableGate(t, false, &stubTokens{})
		r := g.Prepare(request(t, "GET "+path+" HTTP/1.1\nHost: h\n"), false)
		asked := false
		v := g.Enter(r, func(r *http.Request) (bool, error) { asked = true; return nothing(r) }, now)
		check(t, path, v, r, missing, false)
		if asked {
			t.Errorf("%s: the matcher was asked", path)
		}
		r = g.Prepare(request(t, "GET "+path+" HTTP/1.1\nHost: h\nAuthorization: Bearer ours.good\n"), false)
		check(t, path+" with a token", g.Enter(r, nothing, now), r, onIdentity, true)
	}
}

// TestAMatcherThatFailsProtects uses a matcher that returns an error, and no matcher: in both
// cases the request needs a token.
func TestAMatcherThatFailsProtects(t *testing.T) {
	g := tableGate(t, false, &stubTokens{})
	for name, matcher := range map[string]func(*http.Request) (bool, error){
		"error and no match": func(*http.Request) (bool, error) { return false, errors.New("cel: no such key") },
		"none":               nil,
	} {
		r := g.Prepare(request(t, "GET /free/x HTTP/1.1\nHost: h\n"), false)
		check(t, name, g.Enter(r, matcher, now), r, missing, false)
	}
}

// TestRulesAreForTheirMethods sends other methods to public paths: everybody may read such a
// page, but not everybody may change it.
func TestRulesAreForTheirMethods(t *testing.T) {
	for _, c := range []struct {
		line string
		want outcome
	}{
		{"GET /pub/x", onAnonymous},
		{"HEAD /pub/x", onAnonymous},
		{"POST /pub/x", missing},
		{"DELETE /pub/x", missing},
		{"OPTIONS /pub/x", missing},
		{"get /pub/x", missing},
		{"POST /hook", onAnonymous},
		{"GET /hook", missing},
		{"DELETE /opt/x", onAnonymous},
		{"DELETE /free/x", onAnonymous},
		{"GET /pub", missing},
		{"GET /Pub/x", missing},
		{"GET /pub%2Fx", missing},
	} {
		g := tableGate(t, false, &stubTokens{})
		v, r := enter(t, g, request(t, c.line+" HTTP/1.1\nHost: h\n"))
		check(t, c.line, v, r, c.want, false)
	}
}

// TestPreflightsPass sends CORS preflights, which carry no credential, and requests
// that merely resemble one.
func TestPreflightsPass(t *testing.T) {
	const origin, method = "Origin: https://page.example\n", "Access-Control-Request-Method: PUT\n"
	for _, c := range []struct {
		name, lines string
		want        outcome
	}{
		{"preflight", "OPTIONS /api/x HTTP/1.1\nHost: h\n" + origin + method, onAnonymous},
		{"no origin", "OPTIONS /api/x HTTP/1.1\nHost: h\n" + method, missing},
		{"empty origin", "OPTIONS /api/x HTTP/1.1\nHost: h\nOrigin:\n" + method, missing},
		{"no method", "OPTIONS /api/x HTTP/1.1\nHost: h\n" + origin, missing},
		{"another method", "GET /api/x HTTP/1.1\nHost: h\n" + origin + method, missing},
		{"lower case", "options /api/x HTTP/1.1\nHost: h\n" + origin + method, missing},
		{"odd path", "OPTIONS /api/../x HTTP/1.1\nHost: h\n" + origin + method, missing},
		{"asterisk", "OPTIONS * HTTP/1.1\nHost: h\n" + origin + method, missing},
	} {
		g := tableGate(t, false, &stubTokens{})
		v, r := enter(t, g, request(t, c.lines))
		check(t, c.name, v, r, c.want, false)
	}
	// Browsers send no credential with a preflight, so a request with one is treated
	// like any other.
	for line, want := range map[string]outcome{"Bearer ours.good": onIdentity, "Bearer ours.bad": invalid, "Basic eDp5": invalid} {
		g := tableGate(t, false, &stubTokens{})
		v, r := enter(t, g, request(t, "OPTIONS /api/x HTTP/1.1\nHost: h\n"+origin+method+"Authorization: "+line+"\n"))
		check(t, line, v, r, want, true)
	}
}

// TestTraceIsNeverLetThrough sends TRACE, whose answer would show the client the
// headers that the gateway adds.
func TestTraceIsNeverLetThrough(t *testing.T) {
	for _, method := range []string{"TRACE", "trace", "Trace"} {
		for kind, path := range paths {
			for _, auth := range []string{"", "Authorization: Bearer ours.good\n"} {
				g := tableGate(t, false, &stubTokens{})
				v, r := enter(t, g, request(t, method+" "+path+" HTTP/1.1\nHost: h\n"+auth))
				check(t, method+" "+kind, v, r, outcome{status: 405, code: problem.MethodNotAllowed, keeps: true}, auth != "")
				if v.Refusal != nil && (v.Refusal.Allow == "" || strings.Contains(v.Refusal.Allow, "TRACE")) {
					t.Errorf("Allow: %q", v.Refusal.Allow)
				}
			}
		}
	}
}

// TestChallengesAreThoseOfRFC6750 checks WWW-Authenticate: a request without a
// credential gets no error code, and each other refusal gets its own.
func TestChallengesAreThoseOfRFC6750(t *testing.T) {
	for _, c := range []struct {
		line, contains, lacks string
	}{
		{"", `Bearer realm="`, "error"},
		{"Authorization: Bearer ours.bad\n", `error="invalid_token"`, "invalid_request"},
		{"Authorization: Bearer ours.expired\n", `error="invalid_token"`, "invalid_request"},
		{"Authorization: Bearer ours.revoked\n", `error="invalid_token"`, "invalid_request"},
		{"Authorization: Basic eDp5\n", `error="invalid_token"`, "invalid_request"},
		{"Authorization: Bearer a, Bearer b\n", `error="invalid_request"`, "invalid_token"},
	} {
		g := tableGate(t, false, &stubTokens{})
		v, _ := enter(t, g, request(t, "GET /api/x HTTP/1.1\nHost: h\n"+c.line))
		if v.Refusal == nil || !strings.HasPrefix(v.Refusal.Challenge, `Bearer realm="`) ||
			!strings.Contains(v.Refusal.Challenge, c.contains) || strings.Contains(v.Refusal.Challenge, c.lacks) {
			t.Errorf("%q: %+v", c.line, v.Refusal)
		}
	}
}

// TestAnonymousRequestsCannotBecomeOthers sends overriding headers with requests that
// need no token: a public GET must not become a DELETE, or a request for another URL,
// at the upstream. The counts include the identity headers.
func TestAnonymousRequestsCannotBecomeOthers(t *testing.T) {
	const overrides = "X-HTTP-Method: DELETE\nX-HTTP-Method-Override: DELETE\nX-Method-Override: DELETE\n" +
		"X_HTTP_Method_Override: DELETE\nX.HTTP-Method: DELETE\nX-HTTP-Methods: kept\n" +
		"X-Original-URL: /api/x\nx-rewrite-url: /api/x\nX_Original_Url: /api/x\nX-Original-URLs: kept\n" +
		"X-Original-URI: /api/x\nx_script_name: /pub\nX-HTTP-Path-Override: /api/x\nX-Script-Names: kept\nX-Forwarded-Prefix: kept\n"
	for _, c := range []struct {
		lines string
		kept  int
	}{
		{"GET /pub/x HTTP/1.1\nHost: h\n", 4},
		{"GET /pub/x HTTP/1.1\nHost: h\nAuthorization: Bearer ours.good\n", 4},
		{"GET /pub/x HTTP/1.1\nHost: h\nAuthorization: Basic eDp5\n", 4},
		{"GET /opt/x HTTP/1.1\nHost: h\n", 4},
		{"POST /free/x HTTP/1.1\nHost: h\n", 4},
		{"OPTIONS /api/x HTTP/1.1\nHost: h\nOrigin: o\nAccess-Control-Request-Method: PUT\n", 4},
		{"POST /api/x HTTP/1.1\nHost: h\nAuthorization: Bearer ours.good\n", 20},
		{"POST /opt/x HTTP/1.1\nHost: h\nAuthorization: Bearer ours.good\n", 20},
	} {
		g := tableGate(t, false, &stubTokens{})
		v, r := enter(t, g, request(t, c.lines+overrides))
		if v.Refusal != nil {
			t.Fatalf("%q: %+v", c.lines, v.Refusal)
		}
		n := 0
		for name := range r.Header {
			if strings.HasPrefix(strings.ToLower(name), "x") {
				n++
			}
		}
		if n != c.kept {
			t.Errorf("%q: %d headers kept, want %d: %v", c.lines, n, c.kept, r.Header)
		}
	}
}

// TestMethodsThatAreNone sends methods with blanks, line breaks and other characters,
// which would become request smuggling in HTTP/1.1.
func TestMethodsThatAreNone(t *testing.T) {
	for method, ok := range map[string]bool{"GET": true, "get": true, "M-SEARCH": true, "!#$%&'*+-.^_`|~09AZaz": true,
		"": false, "GET /admin": false, "GET\r\nX-WX-USER-ID: 1": false, "GÄT": false, "GET,POST": false, "(GET)": false, "GET\x00": false, "\x7f": false} {
		g := tableGate(t, false, &stubTokens{})
		r := request(t, "GET /opt/x HTTP/1.1\nHost: h\n")
		r.Method = method
		v, _ := enter(t, g, r)
		if ok != (v.Refusal == nil) || !ok && (v.Refusal.Status != http.StatusBadRequest || v.Refusal.Code != problem.InvalidRequest) {
			t.Errorf("%q: %+v", method, v.Refusal)
		}
	}
}

// TestPublicPathsCostNoVerification sends a token to a public path: it must not cost a
// signature check.
func TestPublicPathsCostNoVerification(t *testing.T) {
	tokens := &stubTokens{}
	g := tableGate(t, false, tokens)
	enter(t, g, request(t, "GET /pub/x HTTP/1.1\nHost: h\nAuthorization: Bearer ours.good\n"))
	if tokens.asked != 0 {
		t.Errorf("the token was verified %d times", tokens.asked)
	}
}

// TestAuthenticateLooksAtTheTokenAlone calls our own endpoints: public and optional
// rules do not apply to them, and the request stays unchanged.
func TestAuthenticateLooksAtTheTokenAlone(t *testing.T) {
	for _, c := range []struct {
		lines string
		want  outcome
	}{
		{"GET /pub/x HTTP/1.1\nHost: h\n", missing},
		{"GET /pub/x HTTP/1.1\nHost: h\nAuthorization: Bearer ours.bad\n", invalid},
		{"GET /opt/x HTTP/1.1\nHost: h\nAuthorization: Basic eDp5\n", invalid},
		{"GET /free//x HTTP/1.1\nHost: h\nAuthorization: Bearer a,b\n", twoTokens},
	} {
		g := tableGate(t, false, &stubTokens{})
		r := request(t, c.lines)
		check(t, c.lines, g.Authenticate(r, now), r, c.want, strings.Contains(c.lines, "Authorization"))
	}
	g := tableGate(t, false, &stubTokens{})
	r := request(t, "POST /any HTTP/1.1\nHost: h\nAuthorization: Bearer ours.good\n")
	v := g.Authenticate(r, now)
	if v.Caller == nil || v.Refusal != nil || r.Header.Get("Authorization") == "" || r.Header.Get("X-Wx-User-Id") != "" {
		t.Errorf("%+v, %v", v, r.Header)
	}
}
