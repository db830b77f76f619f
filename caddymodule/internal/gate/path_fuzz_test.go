package gate

import (
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
)

// upstream models how a server maps a path on the wire to a resource. anyCase is true
// for servers that ignore the case of names. Each model is as lenient as the server can
// be.
type upstream struct {
	name     string
	resource func(wire string) string
	anyCase  bool
}

// decode decodes %XX everywhere, as lenient servers do, and keeps text that is no
// escape.
func decode(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		if c, ok := unhexLenient(s[i:]); ok {
			b.WriteByte(c)
			i += 3
			continue
		}
		b.WriteByte(s[i])
		i++
	}
	return b.String()
}

func unhexLenient(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	d, err := url.PathUnescape(s[:3])
	if err != nil || len(d) != 1 || s[0] != '%' {
		return 0, false
	}
	return d[0], true
}

// cutAt cuts s at the first character that is in chars.
func cutAt(s, chars string) string {
	if i := strings.IndexAny(s, chars); i >= 0 {
		return s[:i]
	}
	return s
}

// keepSlash is path.Clean, but keeps a "/" at the end.
func keepSlash(p string) string {
	c := path.Clean("/" + p)
	if strings.HasSuffix(p, "/") && c != "/" {
		c += "/"
	}
	return c
}

func eachSegment(p string, f func(string) string) string {
	segments := strings.Split(p, "/")
	for i := range segments {
		segments[i] = f(segments[i])
	}
	return strings.Join(segments, "/")
}

func withoutParameters(p string) string {
	return eachSegment(p, func(s string) string { return cutAt(s, ";") })
}

func trimmed(p string) string {
	return eachSegment(p, func(s string) string {
		if t := strings.TrimRight(s, ". "); t != "" || s == "" {
			return t
		}
		return s // only dots and spaces: path.Clean handles it
	})
}

// overlong decodes the two-byte encodings of ASCII that old decoders accepted.
func overlong(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i+1 < len(s) && (s[i] == 0xc0 || s[i] == 0xc1) && s[i+1]&0xc0 == 0x80 {
			b.WriteByte(s[i]<<6 | s[i+1]&0x3f)
			i++
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

var upstreams = []upstream{
	{name: "literal", resource: func(p string) string { return p }},
	{name: "Go, path.Clean after decoding", resource: func(p string) string { return keepSlash(decode(p)) }},
	{name: "Go, path.Clean before decoding", resource: func(p string) string { return decode(keepSlash(p)) }},
	{name: "decoded twice", resource: func(p string) string { return keepSlash(decode(decode(p))) }},
	{name: "decoded thrice", resource: func(p string) string { return keepSlash(decode(decode(decode(p)))) }},
	{name: "decoded, cleaned, decoded, cleaned", resource: func(p string) string { return keepSlash(decode(keepSlash(decode(p)))) }},
	{name: "Tomcat, parameters cut before decoding", resource: func(p string) string { return keepSlash(decode(withoutParameters(p))) }},
	{name: "parameters cut after decoding", resource: func(p string) string { return keepSlash(withoutParameters(decode(p))) }},
	{name: "cut at ?, # or NUL after decoding", resource: func(p string) string { return keepSlash(cutAt(decode(p), "?#\x00")) }},
	{name: "cut at ?, #, NUL or a line break after two decodings", resource: func(p string) string {
		return keepSlash(cutAt(decode(decode(p)), "?#\x00\r\n"))
	}},
	{name: "nginx, merge_slashes", resource: func(p string) string {
		p = decode(p)
		for strings.Contains(p, "//") {
			p = strings.ReplaceAll(p, "//", "/")
		}
		return keepSlash(p)
	}},
	{name: "overlong UTF-8", resource: func(p string) string { return keepSlash(overlong(decode(p))) }},
	{name: "a dot for invalid UTF-8", resource: func(p string) string {
		return keepSlash(strings.ToValidUTF8(decode(p), "."))
	}},
	{name: "IIS, backslash and case", anyCase: true, resource: func(p string) string {
		return keepSlash(strings.ReplaceAll(decode(p), `\`, "/"))
	}},
	{name: "IIS, backslash after two decodings", anyCase: true, resource: func(p string) string {
		return keepSlash(strings.ReplaceAll(decode(decode(p)), `\`, "/"))
	}},
	{name: "Windows, dots and spaces at the end of names", anyCase: true, resource: func(p string) string {
		return keepSlash(trimmed(strings.ReplaceAll(decode(p), `\`, "/")))
	}},
	{name: "Windows, streams", anyCase: true, resource: func(p string) string {
		return keepSlash(trimmed(eachSegment(strings.ReplaceAll(decode(p), `\`, "/"), func(s string) string {
			if i := strings.Index(s, "::$"); i > 0 {
				return s[:i]
			}
			return s
		})))
	}},
	{name: "spaces within dots", resource: func(p string) string {
		return keepSlash(eachSegment(decode(p), func(s string) string {
			if t := strings.ReplaceAll(s, " ", ""); strings.Trim(t, ".") == "" {
				return t
			}
			return s
		}))
	}},
	{name: "three dots go up", resource: func(p string) string {
		return keepSlash(eachSegment(decode(p), func(s string) string {
			if len(s) > 2 && strings.Trim(s, ".") == "" {
				return ".."
			}
			return s
		}))
	}},
}

// open are the rules of the fuzz test; every other path is protected.
var open = must(compileRules(
	[]Rule{{Path: "/pub/*"}, {Path: "/health"}, {Path: "/Deep/in/*"}, {Path: "/"}},
	[]Rule{{Path: "/opt/*"}, {Path: "/pub/mine"}},
))

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// isOpen reports whether the rules open a resource. With anyCase it compares as a
// server does that ignores the case of names.
func isOpen(resource string, anyCase bool) bool {
	rs := open
	if anyCase {
		resource = strings.ToLower(resource)
		rs = nil
		for _, r := range open {
			r.path = strings.ToLower(r.path)
			rs = append(rs, r)
		}
	}
	return rs.find(http.MethodGet, resource) != unmatched
}

// underAdmin is a matcher that protects /admin and everything below it, in any case,
// like Caddy's path matcher.
func underAdmin(resource string) bool {
	resource = strings.ToLower(resource)
	return resource == "/admin" || strings.HasPrefix(resource, "/admin/")
}

// FuzzCanonical checks that no upstream finds a protected resource under a path that
// proceeds without a token.
func FuzzCanonical(f *testing.F) {
	for _, target := range []string{
		"/", "/health", "/pub/x", "/opt/%E4%BD%A0", "/Deep/in/a", "/pub/../admin", "/pub/..;/admin", "/pub/%2e%2e/admin",
		"/pub/%252e%252e/admin", "/pub/..%5cadmin", `/pub\..\admin`, "/pub/.%20./admin", "/pub//../../admin",
		"/pub/%c0%ae%c0%ae/admin", "/health;/../admin", "/health%00", "/health%3fx", "/pub/...", "/pub/..%20/admin",
		"http://h/pub/x", "http:pub/x", "/ADMIN/x", "/admin", "/pub/x::$DATA", "/pub/%2fadmin", "/pub/%ef%bc%8e", "*", "//admin",
	} {
		f.Add(target)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		wire, ok := Path(&http.Request{URL: u})
		if !ok {
			return
		}
		if sent := u.RequestURI(); cutAt(sent, "?") != wire {
			t.Fatalf("%q: examined %q, sent %q", target, wire, sent)
		}
		if decode(wire) != u.Path {
			t.Fatalf("%q: examined %q, compared %q", target, wire, u.Path)
		}
		opened := open.find(http.MethodGet, u.Path) != unmatched
		for _, up := range upstreams {
			resource := up.resource(wire)
			if opened && !isOpen(resource, up.anyCase) {
				t.Errorf("%q proceeds without a token; %s serves %q", target, up.name, resource)
			}
			if !underAdmin(u.Path) && underAdmin(resource) {
				t.Errorf("%q is outside the matcher; %s serves %q", target, up.name, resource)
			}
		}
	})
}

// FuzzCredential checks that a credential counts as a token only if it is exactly one
// token.
func FuzzCredential(f *testing.F) {
	for _, v := range []string{
		"", "Bearer a.b.c", "bearer  a.b.c", "Bearer\ta.b.c", "Bearer a.b.c,Bearer d.e.f", "Basic eA==, Bearer a.b.c",
		`Digest username="a, Bearer b", realm="c"`, "Bearer", "a.b.c", "Bearer a b", `Digest a="\", Bearer x`, ",Bearer a", "Bearer ,",
	} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		c := ParseCredential(http.Header{"Authorization": {value}})
		if (c.Token != "") != (c.Kind == Bearer) {
			t.Fatalf("%q: %+v", value, c)
		}
		if c.Kind != Bearer {
			return
		}
		if strings.ContainsAny(c.Token, " \t,") {
			t.Errorf("%q: the token is %q", value, c.Token)
		}
		fields := strings.Fields(strings.Trim(value, " \t"))
		if !c.Malformed && (len(fields) == 0 || !strings.EqualFold(fields[0], "bearer") || !strings.HasSuffix(strings.Trim(value, " \t"), " "+c.Token)) {
			t.Errorf("%q: %+v", value, c)
		}
	})
}
