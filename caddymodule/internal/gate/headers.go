package gate

import (
	"net/http"
	"slices"
	"strings"
)

// Prepare removes from a request everything by which a client could claim an identity, and
// returns the request to continue with. It must run first, on every request, whatever its path
// and method.
//
// trusted means that a trusted proxy sent the request; it may then have the headers of
// [Settings].Pass.
//
// Headers are changed in place, because error handlers see the same map. The returned request
// is r itself, or a shallow copy if trailers may follow.
func (g *Gate) Prepare(r *http.Request, trusted bool) *http.Request {
	h := r.Header
	for name := range h {
		if trusted && g.passes(name) {
			continue
		}
		// Overrides must go before the path is compared with requirements: the upstream must
		// serve that same path.
		if g.ClaimsIdentity(name) || len(g.requirements) > 0 && isOverride(name) {
			delete(h, name)
		}
	}
	if _, ok := h["Connection"]; ok {
		filterConnection(h)
	}
	delete(h, "Proxy-Connection") // old proxies treat it as Connection
	delete(h, "Trailer")
	return withoutTrailers(r)
}

// passes reports whether a trusted proxy may send a header.
func (g *Gate) passes(name string) bool {
	for _, own := range g.passed {
		if len(name) == len(own) && strings.EqualFold(name, own) {
			return true
		}
	}
	return false
}

// ClaimsIdentity reports whether an upstream could read a header as one of our identity
// headers.
func (g *Gate) ClaimsIdentity(name string) bool {
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

// Alias reports whether name is another spelling of an identity header, such as X_WX_USER_ID,
// that foldEqual treats as the same name.
func (g *Gate) Alias(name string) bool {
	for i := range g.headers {
		if isAlias(name, g.headers[i].folded) {
			return true
		}
	}
	return slices.ContainsFunc(trustedNames, func(own string) bool { return isAlias(name, own) })
}

func isAlias(name, own string) bool {
	return len(name) == len(own) && foldEqual(name, own) && !strings.EqualFold(name, own)
}

// trustedNames are headers that upstreams trust, whatever the settings say: the mark of a test
// login, and those by which WeChat Cloud Hosting names the user, or the user of a mini program
// that shares its resources.
var trustedNames = []string{testName, "x-wx-source", "x-wx-from-openid", "x-wx-from-appid", "x-wx-from-unionid"}

// Unset lists the names of headers for X-Envoy-Auth-Headers-To-Remove. A header that the client
// sent must not reach the service, unless the answer h sets it. By default Envoy does not send us
// the client's headers, so the identity headers and those that upstreams trust are listed in any
// case. We never set the spelling with "_", so that spelling is always listed.
//
// claimed are the names for which [Gate.ClaimsIdentity] was true before [Gate.Prepare]. asked has
// the headers that Prepare left: a trusted proxy may send them, so they are not listed.
func (g *Gate) Unset(h, asked http.Header, claimed []string) string {
	var names []string
	list := func(name string) {
		key := http.CanonicalHeaderKey(name)
		_, set := h[key]
		_, left := asked[key]
		if !set && !left && !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) }) {
			names = append(names, name)
		}
	}
	both := func(name string) {
		list(name)
		list(strings.ReplaceAll(name, "-", "_"))
	}
	for i := range g.headers {
		both(g.headers[i].folded)
	}
	for _, own := range DefaultHeaders() {
		both(strings.ToLower(own.Name))
	}
	for _, own := range trustedNames {
		both(own)
	}
	for _, name := range claimed {
		list(name)
	}
	return strings.Join(names, ",")
}

// ownPrefix begins the names of the headers that WeChat Cloud Hosting and this gateway set.
const ownPrefix = "x-wx-"

// foldEqual compares two names of equal length; own is in lower case and uses "-". CGI,
// FastCGI, WSGI and PHP make one variable of names that differ only in case, "_", "-"
// or ".". Some servers (lighttpd) do so with every character that is neither letter nor
// digit. All of these are equal here.
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

// filterConnection keeps only the harmless options of Connection. A proxy deletes every
// header that Connection names, after we have set it: "Connection: X-WX-USER-ID" would
// make a user anonymous, and "Connection: X-Forwarded-For" would hide an address.
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

// withoutTrailers returns a request that has no trailers and receives none. At the end
// of the body, net/http puts a client's trailers, announced or not, into the Trailer of
// the request that net/http made. Deleting them now would not last, so the handlers
// that follow get a copy that net/http does not know. A request without a body needs no
// copy.
func withoutTrailers(r *http.Request) *http.Request {
	if r.Trailer == nil && !mayHaveTrailers(r) {
		return r
	}
	// An error handler must not pass announced trailers on either. Caddy gives it the
	// request that we received, which is a copy of net/http's already.
	r.Trailer = nil
	c := new(http.Request)
	*c = *r
	return c
}

func mayHaveTrailers(r *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody {
		return false
	}
	// Caddy puts a Body of its own around even an empty one. Over HTTP/1, a length of 0
	// means that nothing is read after the header: trailers need chunked encoding, for
	// which the length is unknown. Over HTTP/2 with a length of 0, only announced
	// trailers are filled in.
	return r.ProtoMajor > 2 || r.ContentLength != 0
}

// dropOverrides removes headers that make an upstream treat a request as another one. A
// public GET must not become a DELETE. Nor may a public path become another path at
// frameworks that read IIS's or nginx's headers for it, or cut X-Script-Name off the path, as
// Flask's well-known snippet ReverseProxied does. What X-Forwarded-* means is for the
// upstream's trust in its proxies.
func dropOverrides(h http.Header) {
	for name := range h {
		if isOverride(name) {
			delete(h, name)
		}
	}
}

func isOverride(name string) bool {
	// Most names differ in the first letter.
	return name != "" && (name[0] == 'X' || name[0] == 'x') && slices.ContainsFunc(overrides[:], func(own string) bool {
		return len(name) == len(own) && foldEqual(name, own)
	})
}

var overrides = [...]string{
	"x-http-method", "x-http-method-override", "x-method-override",
	"x-http-path-override", "x-original-uri", "x-original-url", "x-rewrite-url", "x-script-name",
}
