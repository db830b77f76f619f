package gate

import (
	"net/http"
	"strings"
)

// Prepare takes from a request everything by which a client could claim an
// identity, and returns the request to go on with. It is for every request,
// whatever its path and method, before anything else is done with it.
//
// Headers are changed in place, since error handlers see the same map. The
// request returned is r itself, or a shallow copy where trailers may follow.
func (g *Gate) Prepare(r *http.Request) *http.Request {
	h := r.Header
	for name := range h {
		if g.claimsIdentity(name) {
			delete(h, name)
		}
	}
	if _, ok := h["Connection"]; ok {
		filterConnection(h)
	}
	delete(h, "Proxy-Connection") // old proxies read it as they read Connection
	delete(h, "Trailer")
	return withoutTrailers(r)
}

// claimsIdentity reports whether a header can reach an upstream as one of our
// identity headers.
func (g *Gate) claimsIdentity(name string) bool {
	if len(name) >= len(ownPrefix) && foldEqual(name[:len(ownPrefix)], ownPrefix) {
		return true
	}
	for _, own := range g.otherNames {
		if len(name) == len(own) && foldEqual(name, own) {
			return true
		}
	}
	return false
}

// Alias reports whether name is not that of an identity header, but one that foldEqual
// takes for it: X_WX_USER_ID, for instance.
func (g *Gate) Alias(name string) bool {
	for i := range g.headers {
		own := g.headers[i].folded
		if len(name) == len(own) && foldEqual(name, own) && !strings.EqualFold(name, own) {
			return true
		}
	}
	return false
}

// Unset lists, for X-Envoy-Auth-Headers-To-Remove, the names of the identity headers
// that h does not set, so that a client's own do not reach the service. The spelling
// with "_" is never set. By default Envoy does not send a client's headers with its
// question, so nothing can be seen of them here.
func (g *Gate) Unset(h http.Header) string {
	var names []string
	for i := range g.headers {
		name := g.headers[i].folded
		if _, set := h[g.headers[i].key]; !set {
			names = append(names, name)
		}
		if underscored := strings.ReplaceAll(name, "-", "_"); underscored != name {
			names = append(names, underscored)
		}
	}
	return strings.Join(names, ",")
}

// ownPrefix begins the names that WeChat Cloud Hosting sets and we do.
const ownPrefix = "x-wx-"

// foldEqual compares two names of equal length, of which own is in lower case
// with "-". CGI, FastCGI, WSGI and PHP make one variable of names that differ in
// case, "_", "-" or "."; some servers (lighttpd) do so with every character that
// is neither letter nor digit. All of these are one here.
func foldEqual(name, own string) bool {
	for i := range len(own) {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		default:
			c = '-'
		}
		if c != own[i] {
			return false
		}
	}
	return true
}

// filterConnection keeps of Connection what it is needed for. A proxy deletes
// whatever else it names, after we have set it: "Connection: X-WX-USER-ID" would
// make a user anonymous, "Connection: X-Forwarded-For" would hide an address.
func filterConnection(h http.Header) {
	lines := h["Connection"]
	if len(lines) == 1 && isConnectionOption(lines[0]) {
		return
	}
	kept := lines[:0]
	for _, line := range lines {
		var b []string
		for option := range strings.SplitSeq(line, ",") {
			if option = strings.Trim(option, " \t"); isConnectionOption(option) {
				b = append(b, option)
			}
		}
		if len(b) > 0 {
			kept = append(kept, strings.Join(b, ", "))
		}
	}
	if len(kept) == 0 {
		delete(h, "Connection")
		return
	}
	h["Connection"] = kept
}

func isConnectionOption(s string) bool {
	return strings.EqualFold(s, "keep-alive") || strings.EqualFold(s, "upgrade") || strings.EqualFold(s, "close")
}

// withoutTrailers returns a request that has no trailers and gets none. Those
// that a client sends, announced or not, are put by net/http into the Trailer
// of the request that it made, when the end of the body is read: deleting them
// now would not last, so the rest of the way gets a copy that net/http does not
// know. Without a body there is no such end, and no copy.
func withoutTrailers(r *http.Request) *http.Request {
	if r.Trailer == nil && !mayHaveTrailers(r) {
		return r
	}
	// Nor may an error handler pass on those that were announced: Caddy gives it
	// the request that we were given, which is a copy of net/http's already.
	r.Trailer = nil
	c := new(http.Request)
	*c = *r
	return c
}

func mayHaveTrailers(r *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody {
		return false
	}
	// Caddy puts a Body of its own around even an empty one. Over HTTP/1 a length
	// of 0 means that nothing is read after the header: trailers need chunks, whose
	// length is not known. Over HTTP/2 only trailers that were announced are filled
	// in where the length is 0.
	return r.ProtoMajor > 2 || r.ContentLength != 0
}

// dropOverrides removes what would let a request that went on as one act as
// another: a public GET must not become a DELETE, nor a public path, with
// frameworks that know IIS's headers for it, another path.
func dropOverrides(h http.Header) {
	for name := range h {
		for _, own := range overrides {
			if len(name) == len(own) && foldEqual(name, own) {
				delete(h, name)
				break
			}
		}
	}
}

var overrides = [...]string{"x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url"}
