package api

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
)

// A proxy that asks /verify passes the client's own headers on to its service. Where
// that folds names, as CGI, PHP and WSGI do, X_WX_USER_ID is X-WX-USER-ID, and only
// the answer of /verify can stop it. But Caddy drops all names with "_" or "." before
// any handler runs (for the same reason), so they are looked at before Caddy does.

// aliasKey is the key of the request's context under which aliasNoter leaves the odd
// names of a request, a []string.
type aliasKey struct{}

// NoteAliases returns what a server is to do with each connection, so that odd header
// names are noted in all requests that go to an endpoint of forward auth.
func NoteAliases() func(context.Context, net.Conn) context.Context {
	// Each connection passes this before its first request, so nothing reads the
	// handler while it is replaced.
	var once sync.Once
	return func(ctx context.Context, _ net.Conn) context.Context {
		once.Do(func() {
			hs, ok := ctx.Value(http.ServerContextKey).(*http.Server)
			if !ok {
				return
			}
			if _, noted := hs.Handler.(aliasNoter); !noted { // by another site of the server
				hs.Handler = aliasNoter{hs.Handler}
			}
		})
		return ctx
	}
}

// aliasNoter is the handler around the server's own.
type aliasNoter struct{ http.Handler }

func (n aliasNoter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, "/verify") {
		if odd := oddNames(r.Header); odd != nil {
			r = r.WithContext(context.WithValue(r.Context(), aliasKey{}, odd))
		}
	}
	n.Handler.ServeHTTP(w, r)
}

// oddNames returns the names that have other characters than letters, digits and "-".
func oddNames(h http.Header) (odd []string) {
	for name := range h {
		for i := range len(name) {
			c := name[i]
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
				odd = append(odd, name)
				break
			}
		}
	}
	return odd
}

// aliased reports whether a request to /verify has a header that a backend may take
// for one of our identity headers, but whose name the proxy does not.
func (s *Server) aliased(r *http.Request) bool {
	noted, _ := r.Context().Value(aliasKey{}).([]string)
	for _, name := range noted {
		if s.Gate.Alias(name) {
			return true
		}
	}
	for name := range r.Header { // over HTTP/3 nothing was noted
		if s.Gate.Alias(name) {
			return true
		}
	}
	return false
}
