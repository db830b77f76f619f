package gate

import (
	"net/http"
	"unicode/utf8"
)

// Path returns the path of a request as the proxy will send it, and whether it
// is canonical, so that it may be compared with rules: whether no upstream can
// take it for another path than we do. A path that is not canonical always
// needs a token.
func Path(r *http.Request) (escaped string, canonical bool) {
	u := r.URL
	escaped = u.EscapedPath()
	// "GET http:admin/x" has an opaque part and no path: what the proxy sends
	// then is not what was looked at here.
	if u.Opaque != "" || (u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https") {
		return escaped, false
	}
	return escaped, Canonical(escaped)
}

// Canonical reports whether a path, as it goes over the wire, has one reading
// only. Upstreams decode a path once or twice, resolve dots, merge slashes, cut
// at ";" "?" "#" or NUL, take "\" for "/", and drop dots and spaces at the end
// of a segment; a canonical path holds nothing that any of them could use to
// get from one resource to another. It holds only:
//
//   - letters, digits, "-._~" (RFC 3986's unreserved), "!$&'()*+,=" (its
//     sub-delimiters, without ";" which begins Tomcat's path parameters), ":"
//     and "@";
//   - %XX of a space, of one of "<>[]^`{|} and the double quote, of those
//     sub-delimiters, or of valid UTF-8 beyond ASCII: all else would be read
//     differently after one decoding more, or is needed by nobody;
//   - no empty segment but the last;
//   - no segment that ends in a dot or a space: "." and ".." are resolved by
//     all, ". ." and "..%20" by some, and Windows takes "admin." for "admin";
//   - no ":$", by which NTFS reaches a name another way
//     ("admin::$INDEX_ALLOCATION").
func Canonical(escaped string) bool {
	if escaped == "" || escaped[0] != '/' {
		return false
	}
	// Of the segment so far: nothing yet; what it must not end in; its last
	// character was a colon.
	start, trimmed, colon := true, true, false
	for i := 1; i < len(escaped); {
		n, char := 1, escaped[i]
		switch {
		case char == '/':
			if trimmed { // or empty
				return false
			}
			start, trimmed, colon = true, true, false
			i++
			continue
		case char == '%':
			if n, char = escape(escaped[i:]); n == 0 {
				return false
			}
		case char != '.' && !plain[char]:
			return false
		}
		if colon && char == '$' {
			return false
		}
		start, trimmed, colon = false, char == '.' || char == ' ', char == ':'
		i += n
	}
	return start || !trimmed
}

// escape returns the length of the escape, or of the run of escapes that is one
// character, at the beginning of s, and its first byte; 0 if a canonical path
// does not hold it.
func escape(s string) (n int, first byte) {
	c, ok := unhex(s)
	if !ok {
		return 0, 0
	}
	if c < utf8.RuneSelf {
		if !escapable[c] {
			return 0, 0
		}
		return 3, c
	}
	char := [utf8.UTFMax]byte{c}
	size := 1
	for size < utf8.UTFMax && !utf8.FullRune(char[:size]) {
		c, ok := unhex(s[3*size:])
		if !ok {
			return 0, 0
		}
		char[size] = c
		size++
	}
	// What is overlong, a surrogate or cut short decodes with width 1; no
	// character beyond ASCII does.
	if _, width := utf8.DecodeRune(char[:size]); width == 1 || width != size {
		return 0, 0
	}
	return 3 * size, c
}

// unhex returns the byte that the %XX at the beginning of s stands for.
func unhex(s string) (byte, bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	hi, lo := hexDigit(s[1]), hexDigit(s[2])
	return hi<<4 | lo, hi < 16 && lo < 16
}

func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

var (
	// plain is what a canonical path holds as it is, beside "/", "." and "%".
	plain = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~" + subDelims + ":@")
	// escapable is the ASCII that a canonical path holds as %XX.
	escapable = set(" \"<>[]^`{|}" + subDelims)
)

const subDelims = "!$&'()*+,=" // RFC 3986, without ";"

func set(chars string) (s [256]bool) {
	for i := range len(chars) {
		s[chars[i]] = true
	}
	return s
}
