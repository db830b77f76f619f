package gate

import (
	"bufio"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestCanonicalPaths lists paths that clients need: none of them may be refused.
func TestCanonicalPaths(t *testing.T) {
	for _, path := range []string{
		"/", "/a", "/a/", "/a/b", "/a/b/", "/.well-known/x", "/a.b", "/a..b", "/..a", "/...a/b",
		"/-_.~", "/!$&'()*+,=", "/a:b@c", "/%21%24%26%27%28%29%2a%2A%2b%2c%3d", "/a%20b", "/%20a",
		"/%22%3c%3E%5b%5D%5e%60%7b%7c%7D", "/%E4%BD%A0%E5%A5%BD", "/%c3%a9/x", "/%F0%9F%98%80", "/%EF%BF%BD",
	} {
		if !Canonical(path) {
			t.Errorf("%q is refused", path)
		}
	}
}

// TestPathsWithTwoReadings lists paths that some server takes for another path: dots,
// empty segments, path parameters, double encodings, overlong UTF-8, NTFS names.
func TestPathsWithTwoReadings(t *testing.T) {
	for _, path := range []string{
		"", "a", "*", "http:/a", // no "/" first
		"//", "//a", "/a//b", "/a//", // empty segments
		"/.", "/..", "/./", "/../", "/a/.", "/a/..", "/a/../b", "/...", "/....", "/a/.../b", // dots only
		"/a.", "/a..", "/a.%20", "/a%20", "/a./b", "/a%20/b", "/%E4%BD%A0.", // Windows drops them
		"/a::$DATA", "/a::%24INDEX_ALLOCATION/b", "/a:$I30:$INDEX_ALLOCATION", // NTFS streams
		"/%20", "/%20/", "/a/%20/b", "/.%20", "/..%20", "/%20..", "/.%20./x", "/..%20/x", // and spaces
		"/%2e%2e/x", "/%2E", "/..%2fx", "/a%2Fb", "/a%5cb", "/a%5C..%5Cb", `/a\b`, "/..\\x",
		"/a;b", "/a;", "/..;/x", "/a%3bb", "/%3B", // Tomcat's parameters
		"/a%25b", "/%252e%252e", "/%25%32%65", // decoded twice
		"/a%00", "/a%00.png", "/a%0d%0a", "/a%09b", "/a%7f", "/a%1f", "/a\x00", "/a\tb", "/a b",
		"/a?b", "/a#b", "/a%3fb", "/a%23b",
		"/%61", "/%7e", "/%2d", "/%5f", "/%30", "/a%3ab", "/a%40b", // needless escapes
		"/a%", "/a%2", "/a%zz", "/a%2x", "/%-1", "/%u002e", "/%%32", // broken escapes
		"/%c0%af", "/%c0%ae", "/%e0%80%af", "/%f0%80%80%af", "/%c1%9c", // overlong
		"/%ed%a0%80", "/%f4%90%80%80", "/%ff", "/%80", "/%e4%bd", "/%e4%bdx", "/%c3/%a9", "/%c3", "/%c3%", "/%f0%9f%98", "/%c3%28",
		"/\xc3\xa9", "/\"", "/<", "/[", "/{", "/|", "/`", "/^", // raw
	} {
		if Canonical(path) {
			t.Errorf("%q is let through", path)
		}
	}
}

// request parses a request as a server does.
func request(t testing.TB, lines string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(
		strings.ReplaceAll(lines, "\n", "\r\n") + "\r\n")))
	if err != nil {
		t.Fatalf("%q: %v", lines, err)
	}
	return r
}

// TestOnlyOrdinaryTargetsAreCanonical parses request targets of every form. An
// absolute, opaque or asterisk target must not reach another path than the one that was
// checked.
func TestOnlyOrdinaryTargetsAreCanonical(t *testing.T) {
	for target, want := range map[string]bool{
		"/a":                 true,
		"/a?x=/../b;c":       true,
		"http://h/a":         true,
		"HTTPS://h/a":        true,
		"/a%20b":             true,
		"/你好":                true, // the proxy sends it encoded
		`/a"b`:               true,
		"http:admin/x":       false, // opaque
		"http:/a":            true,
		"ftp://h/a":          false,
		"gopher:/a":          false,
		"http://h":           false,
		"http://h//a":        false,
		"//h/a":              false,
		"/a#b":               false,
		"/a;x":               false,
		"/a[b":               false,
		"http://h/a/../b":    false,
		"http://h/a/%2e./b?": false,
	} {
		r := request(t, "GET "+target+" HTTP/1.1\nHost: h\n")
		escaped, ok := Path(r)
		if ok != want {
			t.Errorf("%s: canonical = %v, want %v", target, ok, want)
		}
		if ok && strings.Contains(escaped, "?") {
			t.Errorf("%s: the path is %q", target, escaped)
		}
	}
	star := request(t, "OPTIONS * HTTP/1.1\nHost: h\n")
	if _, ok := Path(star); ok {
		t.Error("OPTIONS *: canonical")
	}
	connect := request(t, "CONNECT admin:443 HTTP/1.1\nHost: admin:443\n")
	if _, ok := Path(connect); ok {
		t.Error("CONNECT: canonical")
	}
}

// TestPathIsWhatTheProxySends builds URLs whose parts contradict each other, as a
// rewrite could. The gate must examine the path that the proxy sends, or refuse it.
func TestPathIsWhatTheProxySends(t *testing.T) {
	for _, u := range []*url.URL{
		{Path: "/a/../b", RawPath: "/a"},        // RawPath out of step: Path counts
		{Path: "/a/b", RawPath: "/a%2Fb"},       // RawPath does not match Path, so Path counts
		{Path: "/admin", Opaque: "/public"},     // they match, so RawPath is sent
		{Path: "/a", Scheme: "file"},            //
		{Path: "/a;b", RawPath: "/a;b"},         //
		{Path: "/%2e%2e/a", RawPath: "/../a%%"}, //
	} {
		if escaped, ok := Path(&http.Request{URL: u}); ok {
			t.Errorf("%#v: %q is let through", u, escaped)
		}
	}
}
