package api

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
)

// ordinary returns a request as browsers and mini programs send it, with more than ten headers.
func ordinary() *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/orders/7", nil)
	for _, name := range []string{
		"Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Connection", "Content-Type", "Referer", "User-Agent",
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Request-Id",
	} {
		r.Header.Set(name, "x")
	}
	return r
}

// Caddy drops X_WX_USER_ID before any directive can rewrite /check to /auth/wx/verify. So the names
// are noted on every path. That must cost requests without such names no memory.
func TestAliasesAreNotedOnEveryPath(t *testing.T) {
	var got []string
	n := aliasNoter{http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got, _ = r.Context().Value(aliasKey{}).([]string)
	})}
	for _, path := range []string{"/check", "/auth/wx/verify", "/auth/wx/%76erify"} {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header = http.Header{"X_wx_user_id": {"forged"}, "X.wx.phone": {"forged"}, "X-Wx-Openid": {"forged"}, "Accept": {"*/*"}}
		n.ServeHTTP(nil, r)
		slices.Sort(got)
		if !slices.Equal(got, []string{"X.wx.phone", "X_wx_user_id"}) {
			t.Errorf("%s: %q", path, got)
		}
	}
	r := ordinary()
	if allocs := testing.AllocsPerRun(100, func() { n.ServeHTTP(nil, r) }); allocs != 0 || got != nil {
		t.Errorf("an ordinary request: %v allocations, %q", allocs, got)
	}
}

// BenchmarkNoteAliases measures what looking for odd names adds to an ordinary request.
func BenchmarkNoteAliases(b *testing.B) {
	n := aliasNoter{http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	r := ordinary()
	b.ReportAllocs()
	for b.Loop() {
		n.ServeHTTP(nil, r)
	}
}
