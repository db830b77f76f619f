package caddymodule

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A load balancer with a public address that Caddy does not trust makes all clients
// one. One line says so, of however many requests; what the header says counts for
// nothing.
func TestPublicProxyIsNamedOnce(t *testing.T) {
	s := serve(t, "login_rate 3/h")
	ask := func(i int, forwarded string) int {
		r := httptest.NewRequest(http.MethodPost, "/auth/wx", strings.NewReader(fmt.Sprintf(`{"code":"guess%d"}`, i)))
		if forwarded != "" {
			r.Header.Set("X-Forwarded-For", forwarded)
		}
		return s.do(r).Code
	}
	const line = "a request with X-Forwarded-For came from a public address"
	logged := func() (n int, remedy string) {
		for _, e := range s.logs.All() {
			if strings.HasPrefix(e.Message, line) {
				n, remedy = n+1, fmt.Sprint(e.ContextMap()["remedy"])
			}
		}
		return n, remedy
	}
	ask(0, "")
	if n, _ := logged(); n != 0 {
		t.Errorf("%d lines without the header", n)
	}
	for i := range 2 {
		ask(1+i, fmt.Sprint("198.51.100.", i))
	}
	if code := ask(3, "198.51.100.9"); code != http.StatusTooManyRequests {
		t.Errorf("by a header of its own a client got %d", code)
	}
	if n, remedy := logged(); n != 1 || !strings.Contains(remedy, "trusted_proxies_strict") {
		t.Errorf("%d lines, remedy %q", n, remedy)
	}
}
