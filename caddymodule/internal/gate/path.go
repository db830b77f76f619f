package gate

import (
	"net/http"
	"unicode/utf8"
)

// Path returns the path of a request as the proxy will send it. It also reports whether
// the path is canonical, which means that no upstream can take it for another path than
// we do, so that it may be compared with rules. A path that is not canonical always
// needs a token.
func Path(r *http.Request) (escaped string, canonical bool) {
	u := r.URL
	escaped = u.EscapedPath()
	// "GET http:admin/x" has an opaque part and no path: the proxy would send something
	// else than the path examined here.
	if u.Opaque != "" || (u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https") {
		return escaped, false
	}
	return escaped, Canonical(escaped)
}

// Canonical reports whether a path, as sent over the wire, has only one interpretation.
// Upstreams decode a path once or twice, resolve dots, merge slashes, cut at ";" "?"
// "#" or NUL, take "\" for "/", and drop dots and spaces at the end of a segment. A
// canonical path contains nothing that any of them could use to get from one resource
// to another. It contains only:
//
//   - letters, digits, "-._~" (RFC 3986's unreserved), "!$&'()*+,=" (its
//     sub-delimiters, without ";" which begins Tomcat's path parameters), ":"
//     and "@";
//   - %XX of a space, of one of "<>[]^`{|} and the double quote, of those
//     sub-delimiters, or of valid UTF-8 beyond ASCII: other escapes are
//     unnecessary, or have another meaning after one more decoding;
//   - no empty segment but the last;
//   - no segment that ends in a dot or a space: all servers resolve "." and
//     "..", some resolve ". ." and "..%20", and Windows takes "admin." for "admin";
//   - no ":$", with which NTFS reaches the same file under another name
//     ("admin::$INDEX_ALLOCATION").
func Canonical(escaped string) bool {
	if escaped == "" || escaped[0] != '/' {
		return false
	}
	// The state of the current segment: whether it is empty so far, whether its last
	// character is one that must not end it, and whether that character was a colon.
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

// escape returns the length of the escape at the beginning of s, or of the run of
// escapes that encodes one character, and its first byte. n is 0 for an escape that a
// canonical path must not contain.
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
	// Overlong, surrogate and truncated encodings decode with width 1; no character
	// beyond ASCII does.
	if _, width := utf8.DecodeRune(char[:size]); width == 1 || width != size {
		return 0, 0
	}
	return 3 * size, c
}

// unhex returns the byte that the %XX at the beginning of s encodes.
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
	// plain are the characters of a canonical path that are not escaped, besides "/",
	// "." and "%".
	plain = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~" + subDelims + ":@")
	// escapable are the ASCII characters that may be escaped as %XX in a canonical
	// path.
	escapable = set(" \"<>[]^`{|}" + subDelims)
)

const subDelims = "!$&'()*+,=" // RFC 3986, without ";"

func set(chars string) (s [256]bool) {
	for i := range len(chars) {
		s[chars[i]] = true
	}
	return s
}
