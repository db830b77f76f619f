package gate

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// cached verifies at no cost, almost like a hit of the cache of verified tokens.
type cached struct{ caller *token.Identity }

func (c cached) Ours(string) bool { return true }

func (c cached) Verify(string, time.Time) (*token.Identity, error) { return c.caller, nil }

// browserHeaders returns the headers of an ordinary request from a mini program.
func browserHeaders() http.Header {
	return http.Header{
		"Accept": {"*/*"}, "Accept-Encoding": {"gzip, deflate, br"}, "Accept-Language": {"zh-CN,zh;q=0.9"},
		"Authorization": {"Bearer ours.good"}, "Connection": {"keep-alive"}, "Content-Type": {"application/json"},
		"Referer": {"https://servicewechat.com/wx0123456789abcdef/12/page-frame.html"}, "User-Agent": {"Mozilla/5.0 (iPhone)"},
		"X-Forwarded-For": {"192.0.2.1"}, "X-Request-Id": {"0190b5c0"}, "Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"cors"},
	}
}

// BenchmarkCanonical checks an ordinary path, and one with escapes.
func BenchmarkCanonical(b *testing.B) {
	for name, path := range map[string]string{
		"plain":   "/api/v1/orders/0190b5c0-7c1e-7a4e/items",
		"escapes": "/docs/%E4%BD%A0%E5%A5%BD/%20a%21",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !Canonical(path) {
					b.Fatal(path)
				}
			}
		})
	}
}

// BenchmarkPath checks the path of a parsed request.
func BenchmarkPath(b *testing.B) {
	u, err := url.ParseRequestURI("/api/v1/orders/0190b5c0-7c1e-7a4e/items?page=2")
	if err != nil {
		b.Fatal(err)
	}
	r := &http.Request{URL: u}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := Path(r); !ok {
			b.Fatal(u)
		}
	}
}

// BenchmarkPrepare prepares an ordinary request with the default identity headers.
func BenchmarkPrepare(b *testing.B) {
	g := newGate(b, Settings{}, nil)
	r := &http.Request{Header: browserHeaders(), Body: http.NoBody, ProtoMajor: 1}
	b.ReportAllocs()
	for b.Loop() {
		g.Prepare(r, false)
	}
}

// BenchmarkPrepareConfiguredHeaders prepares it with identity headers of other names.
func BenchmarkPrepareConfiguredHeaders(b *testing.B) {
	g := newGate(b, Settings{Headers: []Header{{"X-User-ID", "id"}, {"X-User-Phone", "phone"}, {"X-Roles", "claims.roles"}}}, nil)
	r := &http.Request{Header: browserHeaders(), Body: http.NoBody, ProtoMajor: 1}
	b.ReportAllocs()
	for b.Loop() {
		g.Prepare(r, false)
	}
}

func benchmarkEnter(b *testing.B, s Settings, target string) {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		b.Fatal(err)
	}
	g := newGate(b, s, cached{someone()})
	protect := func(*http.Request) (bool, error) { return true, nil }
	h := browserHeaders()
	authorization := h["Authorization"]
	r := &http.Request{Method: http.MethodGet, URL: u, Header: h}
	b.ReportAllocs()
	for b.Loop() {
		h["Authorization"] = authorization // Enter has removed it
		if v := g.Enter(r, protect, now); v.Refusal != nil {
			b.Fatal(v.Refusal)
		}
	}
}

// BenchmarkEnterHit admits a request with a cached token: the hot path.
func BenchmarkEnterHit(b *testing.B) {
	benchmarkEnter(b, Settings{}, "/api/v1/orders/0190b5c0-7c1e-7a4e/items")
}

// BenchmarkEnterHitWithRules admits it past public and optional rules.
func BenchmarkEnterHitWithRules(b *testing.B) {
	benchmarkEnter(b, Settings{
		Public: []Rule{{Path: "/health"}, {Path: "/docs/*"}, {Path: "/static/*"}}, Optional: []Rule{{Path: "/articles/*"}},
	}, "/api/v1/orders/0190b5c0-7c1e-7a4e/items")
}

// BenchmarkEnterHitWithClaims admits it with the directory's claims as headers.
func BenchmarkEnterHitWithClaims(b *testing.B) {
	benchmarkEnter(b, Settings{Headers: append(DefaultHeaders(), Header{"X-Roles", "claims.roles"}, Header{"X-Name", "claims.name"})}, "/api/v1/orders")
}

// BenchmarkEnterPublic admits a request to a public path and removes its token.
func BenchmarkEnterPublic(b *testing.B) {
	benchmarkEnter(b, Settings{Public: []Rule{{Path: "/docs/*"}}}, "/docs/a")
}
