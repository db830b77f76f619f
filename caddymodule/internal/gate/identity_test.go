package gate

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

func someone() *token.Identity {
	return identity(token.Claims{
		Subject: "u-1", AppID: "wx0123", SessionID: "0190-sid", OpenID: "oABC", UnionID: "uABC", Phone: "+8613800138000",
		Extra: map[string]any{"roles": []any{"admin", "editor"}, "name": "王小明", "level": json.Number("7"), "vip": true},
		Plain: map[string]any{"plan": "gold", "name": "the sealed one counts"},
	})
}

func identity(c token.Claims) *token.Identity {
	id := c.Identity()
	return &id
}

func newGate(t testing.TB, s Settings, tokens Tokens) *Gate {
	t.Helper()
	g, err := New(s, tokens)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestDefaultHeadersHoldWhatTheTokenSays sets the headers of a caller with every field.
func TestDefaultHeadersHoldWhatTheTokenSays(t *testing.T) {
	g := newGate(t, Settings{}, nil)
	h := http.Header{}
	g.SetIdentity(h, someone())
	want := http.Header{
		"X-Wx-User-Id": {"u-1"}, "X-Wx-Openid": {"oABC"}, "X-Wx-Appid": {"wx0123"}, "X-Wx-Unionid": {"uABC"}, "X-Wx-Phone": {"+8613800138000"},
	}
	if !reflect.DeepEqual(h, want) {
		t.Errorf("got %v", h)
	}
}

// TestWhatTheTokenLacksIsAbsent sets the headers of a caller without unionid and roles.
// An upstream must find no header rather than an empty one, which it might take for a
// value.
func TestWhatTheTokenLacksIsAbsent(t *testing.T) {
	g := newGate(t, Settings{Headers: []Header{{"X-User", "id"}, {"X-Union", "unionid"}, {"X-Roles", "claims.roles"}, {"X-None", "claims.none"}, {"X-Nil", "claims.nil"}}}, nil)
	h := http.Header{}
	g.SetIdentity(h, identity(token.Claims{Subject: "u", Extra: map[string]any{"roles": []any{}, "nil": nil}}))
	if !reflect.DeepEqual(h, http.Header{"X-User": {"u"}}) {
		t.Errorf("got %v", h)
	}
}

// TestClaimsAsHeaders encodes claims of every type. A line break must not add a header,
// a comma must not add a role, and decoding once must give the original text.
func TestClaimsAsHeaders(t *testing.T) {
	for _, c := range []struct {
		name  string
		value any
		want  string
	}{
		{"text", "editor", "editor"},
		{"space and comma", "a, b", "a,%20b"},
		{"non-ASCII", "王", "%E7%8E%8B"},
		{"latin-1 byte", "\xe9", "%E9"},
		{"an escape", "%E7%8E%8B", "%25E7%258E%258B"},
		{"line break", "a\r\nX-Admin: 1", "a%0D%0AX-Admin:%201"},
		{"NUL, DEL", "\x00\x7f", "%00%7F"},
		{"placeholder", "{env.SECRET}", "{env.SECRET}"},
		{"list", []any{"admin", "editor"}, "admin,editor"},
		{"list of one", []any{"admin"}, "admin"},
		{"comma in an item", []any{"a,admin", "b"}, "a%2Cadmin,b"},
		{"comma in the only item", []any{"a,admin"}, "a%2Cadmin"},
		{"list of numbers", []any{json.Number("1"), float64(2), true}, "1,2,true"},
		{"strings", []string{"a", "b c"}, "a,b%20c"},
		{"number", json.Number("12345678901234567890"), "12345678901234567890"},
		{"float", 1e21, "1000000000000000000000"},
		{"int", 7, "7"},
		{"int64", int64(-7), "-7"},
		{"uint64", uint64(7), "7"},
		{"false", false, "false"},
		{"empty", "", ""},
		{"object", map[string]any{"a": 1}, ""},
	} {
		g := newGate(t, Settings{Headers: []Header{{"X-Claim", "claims.x"}}}, nil)
		h := http.Header{}
		g.SetIdentity(h, identity(token.Claims{Extra: map[string]any{"x": c.value}}))
		if got := h.Get("X-Claim"); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if s, ok := c.value.(string); ok {
			if back, err := url.PathUnescape(h.Get("X-Claim")); err != nil || back != s {
				t.Errorf("%s: decodes to %q, %v", c.name, back, err)
			}
		}
	}
}

// TestSealedClaimsComeBeforePlainOnes uses a claim both in plain and in the seal: the header
// has the sealed value.
func TestSealedClaimsComeBeforePlainOnes(t *testing.T) {
	g := newGate(t, Settings{Headers: []Header{{"X-Name", "claims.name"}, {"X-Plan", "claims.plan"}, {"X-Session", "session"}}}, nil)
	h := http.Header{}
	g.SetIdentity(h, someone())
	want := http.Header{"X-Name": {"%E7%8E%8B%E5%B0%8F%E6%98%8E"}, "X-Plan": {"gold"}, "X-Session": {"0190-sid"}}
	if !reflect.DeepEqual(h, want) {
		t.Errorf("got %v", h)
	}
}

// TestRequestsShareNoValues changes a request's headers after the gate, as handlers do:
// neither the next request with the same token nor another header may change.
func TestRequestsShareNoValues(t *testing.T) {
	g := newGate(t, Settings{}, nil)
	c := someone()
	a, b := http.Header{}, http.Header{}
	g.SetIdentity(a, c)
	a["X-Wx-User-Id"][0] = "changed downstream"
	a.Add("X-Wx-User-Id", "added downstream")
	a.Add("X-Wx-Openid", "added downstream")
	g.SetIdentity(b, c)
	if b.Get("X-Wx-User-Id") != "u-1" || len(b["X-Wx-Openid"]) != 1 {
		t.Errorf("the second request has %v", b)
	}
	if a["X-Wx-Openid"][0] != "oABC" || a["X-Wx-Appid"][0] != "wx0123" || len(a["X-Wx-Appid"]) != 1 {
		t.Errorf("adding to one header changed another: %v", a)
	}
}

// TestValuesThatNoHeaderCanCarryAreRefused checks claims before minting. A login with a
// value that is too long or nested must fail, rather than each request later.
func TestValuesThatNoHeaderCanCarryAreRefused(t *testing.T) {
	g := newGate(t, Settings{Headers: []Header{{"X-User", "id"}, {"X-Roles", "claims.roles"}}}, nil)
	for _, c := range []struct {
		name  string
		roles any
		ok    bool
	}{
		{"none", nil, true},
		{"1 KiB", strings.Repeat("a", MaxValue), true},
		{"over 1 KiB", strings.Repeat("a", MaxValue+1), false},
		{"over 1 KiB as sent", strings.Repeat("王", 120), false},
		{"long list", []any{strings.Repeat("a", 600), strings.Repeat("b", 600)}, false},
		{"strings", []string{"a"}, true},
		{"object", map[string]any{"a": "b"}, false},
		{"list in a list", []any{[]any{"a"}}, false},
		{"mixed list", []any{"a", json.Number("1"), true, nil}, true},
	} {
		err := g.CheckValues(&token.Claims{Subject: "u", Extra: map[string]any{"roles": c.roles, "other": strings.Repeat("x", 5000)}})
		if (err == nil) != c.ok || (err != nil && !errors.Is(err, ErrValue)) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && strings.Contains(err.Error(), "aaaa") {
			t.Errorf("%s: the error holds the value", c.name)
		}
	}
	if err := g.CheckValues(&token.Claims{Subject: strings.Repeat("u", MaxValue+1)}); !errors.Is(err, ErrValue) {
		t.Errorf("long id: %v", err)
	}
}

// TestMistakenHeadersAreRefusedWithRemedy configures headers that Caddy drops, that no
// upstream could read, or that HTTP needs: the error says what to write.
func TestMistakenHeadersAreRefusedWithRemedy(t *testing.T) {
	for _, c := range []struct{ name, field, remedy string }{
		{"X_User_ID", "id", "write X-User-ID"},
		{"X.User.ID", "id", "write X-User-ID"},
		{"", "id", "write: identity X-User-ID id"},
		{"X User", "id", "letters, digits"},
		{"X-User:", "id", "letters, digits"},
		{"X-Üser", "id", "letters, digits"},
		{"X!User", "id", "letters, digits"},
		{strings.Repeat("X", 65), "id", "longer than 64"},
		{"X-User", "name", "write id, openid"},
		{"X-User", "claims.", "write id, openid"},
		{"X-User", "", "write id, openid"},
		{"X-User", "ID", "write id, openid"},
		{"Connection", "id", "choose another name"},
		{"close", "id", "choose another name"},
		{"Keep-Alive", "id", "choose another name"},
		{"UPGRADE", "id", "choose another name"},
		{"Host", "id", "choose another name"},
		{"authorization", "id", "choose another name"},
		{"Cookie", "id", "choose another name"},
		{"Content-Length", "id", "choose another name"},
		{"Transfer-Encoding", "id", "choose another name"},
		{"Proxy-User", "id", "choose another name"},
		{"X-Forwarded-For", "id", "choose another name"},
		{"Sec-WebSocket-Protocol", "id", "choose another name"},
		{"X-HTTP-Method-Override", "id", "choose another name"},
		{"X-Original-URL", "id", "choose another name"},
		{"X-Script-Name", "id", "choose another name"},
		{"X-HTTP-Path-Override", "id", "choose another name"},
		{"Proxy", "id", "choose another name"},
		{"X-Accel-Redirect", "id", "choose another name"},
		{"X-Envoy-Original-Path", "id", "choose another name"},
		{"Status", "id", "choose another name"},
		{"ETag", "id", "choose another name"},
		{"Retry-After", "id", "choose another name"},
		{"X-Content-Type-Options", "id", "choose another name"},
		{"Traceparent", "id", "choose another name"},
		{"-", "id", "letters, digits"},
		{"12-3", "id", "letters, digits"},
	} {
		if h, err := ParseHeader(c.name, c.field); err == nil {
			t.Errorf("%s %s: taken as %v", c.name, c.field, h)
		} else if !strings.Contains(err.Error(), c.remedy) {
			t.Errorf("%s %s: %q does not say %q", c.name, c.field, err, c.remedy)
		}
	}
	for _, h := range append(DefaultHeaders(), Header{"Remote-User", "id"}, Header{"X-Session", "session"}, Header{"X-Roles", "claims.a.b"}) {
		if _, err := ParseHeader(h.Name, h.Field); err != nil {
			t.Error(err)
		}
	}
}
