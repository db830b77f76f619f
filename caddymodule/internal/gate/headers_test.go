package gate

import (
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// TestClientIdentityHeadersAreRemoved forges identity headers in every spelling that
// some server reads as the real name, such as CGI with its underscores.
func TestClientIdentityHeadersAreRemoved(t *testing.T) {
	g := newGate(t, Settings{Headers: []Header{{"X-User-ID", "id"}, {"Remote-User", "openid"}, {"X-WX-Phone", "phone"}}}, nil)
	for _, name := range []string{
		"X-WX-USER-ID", "x-wx-user-id", "X_WX_USER_ID", "X.WX.USER.ID", "x-wx_user.id", "X_wx-User-Id", "X-Wx-Anything", "x_wx_", "X-WX-",
		"X!WX!USER!ID", "X~wx|phone", // one name to servers that turn everything but letters into "_"
		"X-User-ID", "x-user-id", "X_User_ID", "X.USER.ID", "x-user_id", "X'User'Id",
		"Remote-User", "REMOTE_USER", "remote.user",
	} {
		h := http.Header{name: {"forged", ""}, http.CanonicalHeaderKey(name): {"forged"}, "Accept": {"*/*"}}
		g.Prepare(&http.Request{Header: h}, false)
		if !reflect.DeepEqual(h, http.Header{"Accept": {"*/*"}}) {
			t.Errorf("%s: %v is left", name, h)
		}
	}
}

// TestOtherHeadersAreLeft sends headers with similar names, and those of WebSockets and
// gRPC: they must reach the upstream.
func TestOtherHeadersAreLeft(t *testing.T) {
	g := newGate(t, Settings{Headers: []Header{{"X-User-ID", "id"}}}, nil)
	h := http.Header{
		"X-Wxx": {"a"}, "X-W": {"a"}, "Xwx-User": {"a"}, "X-User-Id2": {"a"}, "X-User": {"a"}, "Remote-User": {"a"}, "Ax-Wx-B": {"a"},
		"Te": {"trailers"}, "Upgrade": {"websocket"}, "Connection": {"keep-alive, Upgrade"}, "X-Forwarded-For": {"10.0.0.1"}, ":protocol": {"websocket"},
	}
	want := h.Clone()
	want["Connection"] = []string{"keep-alive, Upgrade"}
	g.Prepare(&http.Request{Header: h}, false)
	if !reflect.DeepEqual(h, want) {
		t.Errorf("got %v", h)
	}
}

// TestConnectionNamesNoOtherHeader names identity headers in Connection, so that the
// proxy would delete them after the gate has set them.
func TestConnectionNamesNoOtherHeader(t *testing.T) {
	g := newGate(t, Settings{}, nil)
	for _, c := range []struct{ lines, want []string }{
		{[]string{"keep-alive"}, []string{"keep-alive"}},
		{[]string{"Upgrade"}, []string{"Upgrade"}},
		{[]string{"close"}, []string{"close"}},
		{[]string{"X-WX-USER-ID"}, nil},
		{[]string{""}, nil},
		{[]string{"Upgrade, X-WX-USER-ID"}, []string{"Upgrade"}},
		{[]string{"x-wx-user-id,\tUPGRADE ,authorization"}, []string{"UPGRADE"}},
		{[]string{"keep-alive, X-Forwarded-For", "Authorization", "Upgrade,,close"}, []string{"keep-alive", "Upgrade, close"}},
		{[]string{"upgrade\x0b", "xupgrade", "upgrade x-wx-phone", "upgrade;x"}, nil},
	} {
		h := http.Header{"Connection": c.lines, "Proxy-Connection": {"X-WX-PHONE"}}
		g.Prepare(&http.Request{Header: h}, false)
		if got := h["Connection"]; !reflect.DeepEqual(got, c.want) {
			t.Errorf("got %q, want %q", got, c.want)
		}
		if _, ok := h["Proxy-Connection"]; ok {
			t.Error("Proxy-Connection is left")
		}
	}
}

// TestTrailersAreCutOff sends identities as trailers, announced or not, over each
// version of HTTP. Only a request that can have trailers is copied.
func TestTrailersAreCutOff(t *testing.T) {
	g := newGate(t, Settings{}, nil)
	for _, c := range []struct {
		name   string
		r      http.Request
		copied bool
	}{
		{"no body", http.Request{ProtoMajor: 1}, false},
		{"NoBody", http.Request{ProtoMajor: 1, Body: http.NoBody}, false},
		{"HTTP/2 without a body", http.Request{ProtoMajor: 2, Body: io.NopCloser(strings.NewReader(""))}, false},
		{"announced", http.Request{ProtoMajor: 1, Trailer: http.Header{"X-Wx-Phone": nil}}, true},
		{"announced, HTTP/2 without a body", http.Request{ProtoMajor: 2, Body: io.NopCloser(strings.NewReader("")), Trailer: http.Header{}}, true},
		{"an empty one that was wrapped", http.Request{ProtoMajor: 1, Body: io.NopCloser(http.NoBody)}, false},
		{"HTTP/3, no length", http.Request{ProtoMajor: 3, Body: io.NopCloser(strings.NewReader("a"))}, true},
		{"chunked", http.Request{ProtoMajor: 1, ContentLength: -1, Body: io.NopCloser(strings.NewReader("a"))}, true},
		{"HTTP/2", http.Request{ProtoMajor: 2, ContentLength: -1, Body: io.NopCloser(strings.NewReader("a"))}, true},
		{"HTTP/3", http.Request{ProtoMajor: 3, Body: io.NopCloser(strings.NewReader(""))}, true},
		{"fixed length", http.Request{ProtoMajor: 1, ContentLength: 1, Body: io.NopCloser(strings.NewReader("a"))}, true},
	} {
		c.r.Header = http.Header{"Trailer": {"X-WX-Phone"}}
		got := g.Prepare(&c.r, false)
		if got.Trailer != nil || got.Header.Get("Trailer") != "" {
			t.Errorf("%s: %v, %v", c.name, got.Trailer, got.Header)
		}
		if copied := got != &c.r; copied != c.copied {
			t.Errorf("%s: copied = %v", c.name, copied)
		}
		// Error handlers get the original request.
		if c.r.Trailer != nil {
			t.Errorf("%s: left to error handlers: %v", c.name, c.r.Trailer)
		}
		// Trailers that the server adds at the end of the body must not reach the copy.
		c.r.Trailer = http.Header{"X-Wx-Phone": {"forged"}}
		if c.copied && got.Trailer != nil {
			t.Errorf("%s: %v", c.name, got.Trailer)
		}
		got.Header.Set("X-Seen", "by error handlers")
		if c.r.Header.Get("X-Seen") == "" {
			t.Errorf("%s: the headers are a copy", c.name)
		}
	}
}

// FuzzPrepare checks that no header of a client can pass for an identity header at a
// server that renames headers, and that no other header is removed.
func FuzzPrepare(f *testing.F) {
	for _, name := range []string{"X-Wx-User-Id", "x_wx_phone", "X.WX-Openid", "x~wx~user~id", "X-Wx", "X-User-ID", "X_USER.ID", "XX-Wx-User-Id", "X-Wx-", "X--Wx-Id", "\u017f-wx-", "\u212a", "Trailer", "Connection"} {
		f.Add(name, "X-Wx-User-Id, close")
	}
	g := must(New(Settings{Headers: []Header{{"X-User-ID", "id"}, {"Remote-\x4bin", "phone"}}}, &stubTokens{}))
	renames := map[string]func(rune) rune{
		"CGI":      func(c rune) rune { return map[rune]rune{'-': '_'}[c] },
		"PHP":      func(c rune) rune { return map[rune]rune{'-': '_', '.': '_', ' ': '_'}[c] },
		"lighttpd": func(c rune) rune { return '_' },
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		r := &http.Request{Header: http.Header{name: {value}, "Connection": {value}}}
		g.Prepare(r, false)
		ours := false
		for who, rename := range renames {
			seen := strings.Map(func(c rune) rune {
				switch {
				case 'a' <= c && c <= 'z':
					return c - 'a' + 'A'
				case 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
					return c
				}
				if to := rename(c); to != 0 {
					return to
				}
				return c
			}, name)
			if strings.HasPrefix(seen, "X_WX_") || seen == "X_USER_ID" || seen == "REMOTE_KIN" {
				ours = true
				if _, left := r.Header[name]; left {
					t.Errorf("%q is left; %s reads %s", name, who, seen)
				}
			}
		}
		special := name == "Connection" || name == "Proxy-Connection" || name == "Trailer"
		if _, left := r.Header[name]; !left && !ours && !special {
			t.Errorf("%q is taken", name)
		}
		for _, line := range r.Header["Connection"] {
			for option := range strings.SplitSeq(line, ",") {
				if option = strings.Trim(option, " \t"); !isConnectionOption(option) {
					t.Errorf("Connection still names %q", option)
				}
			}
		}
	})
}

// A trusted proxy may send the headers that the configuration names, in this spelling
// only; a client may not, and nobody may send an identity header.
func TestTrustedProxySendsNamedHeaders(t *testing.T) {
	g := newGate(t, Settings{Pass: []string{"X-WX-Risk-Rank"}}, nil)
	for trusted, want := range map[bool]string{true: "2", false: ""} {
		h := http.Header{"X-Wx-Risk-Rank": {"2"}, "X_wx_risk_rank": {"3"}, "X-Wx-Risk.rank": {"3"}, "X-Wx-Openid": {"o"}, "X-Wx-Other": {"x"}}
		g.Prepare(&http.Request{Header: h}, trusted)
		if got := h.Get("X-WX-Risk-Rank"); got != want || len(h) > len(want) {
			t.Errorf("trusted %v: %q", trusted, h)
		}
	}
}

// A backend for WeChat Cloud Hosting trusts the identity headers if X-WX-SOURCE is set. So the
// gate sets it with an identity, and nobody else can set it.
func TestSourceIsAConstant(t *testing.T) {
	g := newGate(t, Settings{Headers: append(DefaultHeaders(), Header{"X-WX-SOURCE", "source"})}, nil)
	h := http.Header{"X-Wx-Source": {"wx_client"}}
	g.Prepare(&http.Request{Header: h}, true)
	if len(h) > 0 {
		t.Errorf("from a client: %q", h)
	}
	if g.SetIdentity(h, someone()); h.Get("X-WX-SOURCE") != Source {
		t.Errorf("%q", h)
	}
}

// The callers of a test login are marked, whatever the settings say. A client cannot mark itself,
// and no setting takes the header for something else.
func TestTestLoginsAreMarked(t *testing.T) {
	g := newGate(t, Settings{Headers: []Header{{"X-User", "id"}}}, nil)
	for _, name := range []string{"X-Wx-Test", "X_WX_TEST", "x-wx.test"} {
		h := http.Header{name: {"1"}}
		if g.Prepare(&http.Request{Header: h}, true); len(h) > 0 {
			t.Errorf("from a client: %q", h)
		}
	}
	h := http.Header{}
	if g.SetIdentity(h, identity(token.Claims{Subject: "u", Test: "mark"})); h.Get("X-WX-TEST") != "1" || h.Get("X-User") != "u" {
		t.Errorf("%q", h)
	}
	if list := "," + g.Unset(h, nil, nil) + ","; strings.Contains(list, ",x-wx-test,") || !strings.Contains(list, ",x_wx_test,") {
		t.Errorf("to remove: %s", list)
	}
	h = http.Header{}
	if g.SetIdentity(h, someone()); h.Get("X-WX-TEST") != "" || !strings.Contains(g.Unset(h, nil, nil), "x-wx-test") {
		t.Errorf("%q, to remove: %s", h, g.Unset(h, nil, nil))
	}
	if !g.Alias("X_Wx_Test") || g.Alias("X-WX-Test") {
		t.Error("another spelling of the header is not taken for one")
	}
	for _, s := range []Settings{{Headers: []Header{{"x-wx-test", "id"}}}, {Pass: []string{"X-WX-Test"}}} {
		if _, err := New(s, nil); err == nil {
			t.Errorf("%+v is accepted", s)
		}
	}
}

// Envoy leaves a client's header in the request unless we list it. A backend for WeChat Cloud
// Hosting takes X-WX-FROM-OPENID for an identity, so it is listed, whatever identity headers the
// site sets, and so is every other header under x-wx- that the client sent.
func TestUnsetNamesWhatBackendsTrust(t *testing.T) {
	for name, s := range map[string]Settings{
		"default": {},
		"one":     {Headers: []Header{{"X-User-ID", "id"}}},
		"source":  {Headers: append(DefaultHeaders(), Header{"X-WX-SOURCE", "source"})},
	} {
		g := newGate(t, s, nil)
		answer := http.Header{}
		g.SetIdentity(answer, someone())
		// The proxy of a site with pass_header may send this one, and Prepare has left it.
		asked := http.Header{"X-Wx-Risk-Rank": {"2"}}
		claimed := []string{"X-Wx-Openid", "X-Wx-Roles", "X_wx_roles", "X-Wx-Risk-Rank", "X-Wx-From-Openid"}
		list := strings.Split(g.Unset(answer, asked, claimed), ",")
		for _, want := range []string{
			"x-wx-user-id", "x-wx-openid", "x-wx-appid", "x-wx-unionid", "x-wx-phone", "x-wx-test", "x-wx-source",
			"x-wx-from-openid", "x-wx-from-appid", "x-wx-from-unionid", "x-wx-roles", "x-wx-risk-rank",
		} {
			var named int
			for _, name := range list {
				if strings.EqualFold(name, want) {
					named++
				}
			}
			need := 1
			if answer.Get(want) != "" || asked.Get(want) != "" {
				need = 0
			}
			if named != need {
				t.Errorf("%s, %s: named %d times, want %d, in %q", name, want, named, need, list)
			}
		}
		for _, want := range []string{"x_wx_user_id", "x_wx_source", "x_wx_from_unionid", "X_wx_roles"} {
			if !slices.Contains(list, want) {
				t.Errorf("%s: %s is not named in %q", name, want, list)
			}
		}
	}
	g := newGate(t, Settings{Headers: []Header{{"X-User-ID", "id"}}}, nil)
	if !g.Alias("X_Wx_Source") || !g.Alias("X_Wx_From-Openid") || g.Alias("X-Wx-From-Openid") {
		t.Error("another spelling of WeChat's headers is not taken for one")
	}
}
