package api

import (
	"context"
	"maps"
	"net"
	"net/http"
	"slices"
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
// names that Caddy drops in all requests.
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
	// Whatever the path: a directive may rewrite it to that of the endpoint later.
	if names := droppedNames(r.Header); names != nil {
		r = r.WithContext(context.WithValue(r.Context(), aliasKey{}, names))
	}
	n.Handler.ServeHTTP(w, r)
}

// droppedNames returns the names that Caddy will drop. Every request pays for this, and hardly
// any has such a name.
func droppedNames(h http.Header) (dropped []string) {
	for name := range h {
		if strings.IndexByte(name, '_') >= 0 || strings.IndexByte(name, '.') >= 0 {
			dropped = append(dropped, name)
		}
	}
	return dropped
}

// sentNames returns the names of a request's headers as the client sent them, before Caddy dropped
// those with "_" or ".". Over HTTP/3 nothing has noted these: ConnContext is not called for its
// requests. That is harmless, because no proxy asks over HTTP/3.
func sentNames(r *http.Request) []string {
	noted, _ := r.Context().Value(aliasKey{}).([]string)
	return slices.AppendSeq(slices.Clone(noted), maps.Keys(r.Header))
}

// aliased reports whether a request to /verify has a header that a backend may take for
// one of our identity headers, under a name that the proxy does not know.
func (s *Server) aliased(sent []string) bool { return slices.ContainsFunc(sent, s.Gate.Alias) }

// maxClaimed bounds the names that [Server.claimed] returns, in bytes. The proxies bound the
// headers of an answer, and an answer with more is an error to them.
const maxClaimed = 2 << 10

// claimed returns the names of a request to /verify under which the client claims an identity.
// Envoy removes them from the request only if the answer lists them. ok is false if there are too
// many: none of them may be left out.
func (s *Server) claimed(sent []string) (names []string, ok bool) {
	bytes := 0
	for _, name := range sent {
		if s.Gate.ClaimsIdentity(name) {
			names = append(names, name)
			bytes += len(name)
		}
	}
	return names, bytes <= maxClaimed
}
