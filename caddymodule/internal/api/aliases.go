package api

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
)

// A proxy that asks /verify forwards the client's own headers to its service. If the service
// folds names, as CGI, PHP and WSGI do, X_WX_USER_ID becomes X-WX-USER-ID there. Only the
// answer of /verify can prevent that. But Caddy drops all names with "_" or "." before any
// handler runs (for the same reason), so this file notes them before Caddy drops them.

// aliasKey is the key of the request's context under which aliasNoter stores the names that
// Caddy will drop, a []string.
type aliasKey struct{}

// NoteAliases returns a function for a server's ConnContext. With it, the server notes the
// names that Caddy drops in all requests to an endpoint of forward auth.
func NoteAliases() func(context.Context, net.Conn) context.Context {
	// Each connection runs this before its first request, so nothing reads the handler
	// while it is replaced.
	var once sync.Once
	return func(ctx context.Context, _ net.Conn) context.Context {
		once.Do(func() {
			hs, ok := ctx.Value(http.ServerContextKey).(*http.Server)
			if !ok {
				return
			}
			if _, noted := hs.Handler.(aliasNoter); !noted { // another site of the server may have done it
				hs.Handler = aliasNoter{hs.Handler}
			}
		})
		return ctx
	}
}

// aliasNoter wraps the handler of the server.
type aliasNoter struct{ http.Handler }

func (n aliasNoter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, "/verify") {
		if odd := oddNames(r.Header); odd != nil {
			r = r.WithContext(context.WithValue(r.Context(), aliasKey{}, odd))
		}
	}
	n.Handler.ServeHTTP(w, r)
}

// oddNames returns the names that contain other characters than letters, digits and
// "-".
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

// aliased reports whether a request to /verify has a header that a backend may take for
// one of our identity headers, under a name that the proxy does not know.
func (s *Server) aliased(r *http.Request) bool {
	noted, _ := r.Context().Value(aliasKey{}).([]string)
	for _, name := range noted {
		if s.Gate.Alias(name) {
			return true
		}
	}
	for name := range r.Header { // over HTTP/3 no names were noted
		if s.Gate.Alias(name) {
			return true
		}
	}
	return false
}
