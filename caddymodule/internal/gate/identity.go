package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// MaxValue is the maximum length of an identity header's value, in bytes as sent.
const MaxValue = 1 << 10

// Source is the value of the field source. Backends written for WeChat Cloud Hosting take
// X-WX-SOURCE, whatever it holds, as the sign that the other headers can be trusted.
const Source = "wx_auth"

// ErrValue is the error of [CheckValues] for a value that cannot be sent in a header.
var ErrValue = errors.New("the value does not fit in an identity header")

// Header is an identity header: its name, and the field of the token that supplies its
// value. The fields are id, openid, appid, unionid, phone, session, claims.<name>
// for the directory's claims about the user, and source for the constant [Source].
type Header struct {
	Name  string `json:"name"`
	Field string `json:"field"`
}

// DefaultHeaders returns the headers that are set if none are configured. Their names
// are those that WeChat Cloud Hosting uses.
func DefaultHeaders() []Header {
	return []Header{
		{"X-WX-USER-ID", "id"},
		{"X-WX-OPENID", "openid"},
		{"X-WX-APPID", "appid"},
		{"X-WX-UNIONID", "unionid"},
		{"X-WX-PHONE", "phone"},
	}
}

// ParseHeader parses the arguments of identity. Its error shows the correct form.
func ParseHeader(name, field string) (Header, error) {
	h := Header{Name: name, Field: field}
	if err := h.check(); err != nil {
		return Header{}, err
	}
	return h, nil
}

func (h Header) check() error {
	if err := checkName(h.Name, "identity X-User-ID id"); err != nil {
		return fmt.Errorf("identity %s: %w", h.Name, err)
	}
	if _, ok := fieldOf(h.Field); !ok {
		return fmt.Errorf("identity %s: there is no field %q; write id, openid, appid, unionid, phone, session, source or claims.<name>", h.Name, h.Field)
	}
	return nil
}

// checkName checks the name of a header. example is a correct line of its directive.
func checkName(name, example string) error {
	if name == "" {
		return fmt.Errorf("the header has no name; write: %s", example)
	}
	if strings.ContainsAny(name, "_.") {
		return fmt.Errorf("a header with \"_\" or \".\" in its name is dropped by Caddy; write %s",
			strings.NewReplacer("_", "-", ".", "-").Replace(name))
	}
	lower := strings.ToLower(name)
	letter := func(c rune) bool { return 'a' <= c && c <= 'z' }
	if !strings.ContainsFunc(lower, letter) || strings.ContainsFunc(lower, func(c rune) bool { return !letter(c) && (c < '0' || c > '9') && c != '-' }) {
		return fmt.Errorf("a header's name is made of letters, digits and \"-\"; write: %s", example)
	}
	if len(name) > 64 {
		return errors.New("the header's name is longer than 64 characters")
	}
	if slices.Contains(reservedNames, lower) || slices.Contains(overrides[:], lower) ||
		slices.ContainsFunc(reservedPrefixes, func(p string) bool { return strings.HasPrefix(lower, p) }) {
		return errors.New("this header has a meaning of its own in HTTP, and would be taken from every request; " +
			"choose another name, such as X-User-ID")
	}
	return nil
}

// reservedNames, reservedPrefixes and overrides are headers that cannot be identity headers,
// because an identity header is removed from every request. Some of them frame or route a message.
// Some are deleted or set by proxies ("close" and "upgrade" are the options that Connection may
// still name). Some make a proxy serve something else (X-Accel-Redirect). The others are needed
// by clients, upstreams or this gate for their standard purpose.
var (
	reservedNames = []string{
		"accept", "age", "allow", "alt-svc", "authorization", "cache-control", "close", "connection", "cookie",
		"date", "dnt", "early-data", "etag", "expect", "forwarded", "from", "host", "http2-settings", "incremental", "keep-alive",
		"last-event-id", "link", "location", "max-forwards", "origin", "pragma", "prefer", "priority", "proxy", "range", "referer",
		"retry-after", "server", "set-cookie", "status", "te", "traceparent", "tracestate", "trailer", "transfer-encoding",
		"upgrade", "upgrade-insecure-requests", "user-agent", "vary", "via", "www-authenticate",
		"x-content-type-options", "x-real-ip", "x-requested-with", "x-request-id", "x-sendfile",
	}
	reservedPrefixes = []string{
		"accept-", "access-control-", "content-", "if-", "proxy-", "sec-", "x-accel-", "x-envoy-", "x-forwarded-",
	}
)

// field reads one value of an identity.
type field struct {
	get   func(*token.Identity) string // nil: the value is the directory's claim
	claim string
}

func fieldOf(name string) (field, bool) {
	switch name {
	case "id":
		return field{get: (*token.Identity).Subject}, true
	case "openid":
		return field{get: (*token.Identity).OpenID}, true
	case "appid":
		return field{get: (*token.Identity).AppID}, true
	case "unionid":
		return field{get: (*token.Identity).UnionID}, true
	case "phone":
		return field{get: (*token.Identity).Phone}, true
	case "session":
		return field{get: (*token.Identity).SessionID}, true
	case "source":
		return field{get: func(*token.Identity) string { return Source }}, true
	}
	claim, ok := strings.CutPrefix(name, "claims.")
	return field{claim: claim}, ok && claim != ""
}

// identityHeader is a Header in compiled form.
type identityHeader struct {
	key    string // in net/http's canonical form
	folded string // in lower case
	field
}

// compileHeaders checks and compiles the headers. others are the names, in lower case,
// that ownPrefix does not cover.
func compileHeaders(headers []Header) (ready []identityHeader, others []string, err error) {
	var seen []string
	for _, h := range headers {
		if err := h.check(); err != nil {
			return nil, nil, err
		}
		name := strings.ToLower(h.Name)
		if slices.Contains(seen, name) {
			return nil, nil, fmt.Errorf("identity %s: the header is set twice; keep one of the two", h.Name)
		}
		seen = append(seen, name)
		if name == testName {
			return nil, nil, fmt.Errorf("identity %s: this gateway marks test logins by it; choose another name", h.Name)
		}
		if !strings.HasPrefix(name, ownPrefix) {
			others = append(others, name)
		}
		f, _ := fieldOf(h.Field)
		ready = append(ready, identityHeader{key: textproto.CanonicalMIMEHeaderKey(h.Name), folded: name, field: f})
	}
	return ready, others, nil
}

// checkPassed checks the names that a trusted proxy may send. It returns them in lower
// case.
func checkPassed(names []string, headers []identityHeader) ([]string, error) {
	var passed []string
	isDefault := func(name string) bool {
		return slices.ContainsFunc(DefaultHeaders(), func(h Header) bool { return strings.EqualFold(h.Name, name) })
	}
	for _, name := range names {
		lower := strings.ToLower(name)
		ours := func(h identityHeader) bool { return h.folded == lower }
		if err := checkName(name, "pass_header X-WX-Risk-Rank"); err != nil {
			return nil, fmt.Errorf("pass_header %s: %w", name, err)
		}
		switch {
		case !strings.HasPrefix(lower, ownPrefix):
			return nil, fmt.Errorf("pass_header %s: only headers that begin with X-WX- are removed, so this one passes anyway; leave it out", name)
		case slices.ContainsFunc(headers, ours), isDefault(lower), slices.Contains(ourNames, lower):
			return nil, fmt.Errorf("pass_header %s: this gateway names the caller in it, so no proxy may send it; leave it out", name)
		case slices.Contains(passed, lower):
			return nil, fmt.Errorf("pass_header %s: the header is named twice; keep one of the two", name)
		}
		passed = append(passed, lower)
	}
	return passed, nil
}

// The header that is set for the caller of a test login, whatever the settings say: an
// upstream must not take a reviewer's order for a real one.
const (
	testName = "x-wx-test"
	testKey  = "X-Wx-Test"
)

// ourNames are names of this gateway that are not among the default headers.
var ourNames = []string{"x-wx-source", testName}

// SetIdentity sets the caller's identity headers in h, which belongs to a request or
// (for forward auth) to an answer. A header without a value is not set; the client's
// own header of that name is already gone from a request, because [Gate.Prepare] has
// removed it.
func (g *Gate) SetIdentity(h http.Header, id *token.Identity) {
	// Later handlers change values in place, and all requests with the same token share
	// one identity. Therefore each request has its own slices, cut from one array so
	// that they cost one allocation.
	values := make([]string, len(g.headers))
	for i := range g.headers {
		v := g.headers[i].value(id)
		if v == "" {
			continue
		}
		values[i] = v
		h[g.headers[i].key] = values[i : i+1 : i+1]
	}
	if id.Test() {
		h[testKey] = []string{"1"}
	}
}

// CheckValues checks the claims c of a token before it is minted. It returns an error
// for a value that cannot be sent in a header: one longer than [MaxValue], or one that
// is not a string, a number, a bool, or a list of these. The error wraps [ErrValue] and
// does not contain the value.
func (g *Gate) CheckValues(c *token.Claims) error {
	id := c.Identity()
	for _, h := range g.headers {
		if h.get == nil {
			if v := id.Claim(h.claim); !carriable(v) {
				return fmt.Errorf("claim %q for header %s: objects and lists in lists have no form there: %w", h.claim, h.key, ErrValue)
			}
		}
		if n := len(h.value(&id)); n > MaxValue {
			return fmt.Errorf("header %s: %d bytes, of at most %d: %w", h.key, n, MaxValue, ErrValue)
		}
	}
	return nil
}

// ClaimValue returns a claim in the form that an identity header carries.
func ClaimValue(id *token.Identity, claim string) string {
	f := field{claim: claim}
	return f.value(id)
}

// value returns the value of f in id in the form that a header carries, or "" if id has
// none.
func (f *field) value(id *token.Identity) string {
	if f.get != nil {
		return encode(f.get(id), false)
	}
	switch v := id.Claim(f.claim).(type) {
	case []any:
		return join(v)
	case []string:
		items := make([]any, len(v))
		for i := range v {
			items[i] = v[i]
		}
		return join(items)
	default:
		s, _ := text(v)
		return encode(s, false)
	}
}

// join encodes a list. It escapes a comma within an item, so that one item cannot pass
// for two: a role must not grant another role.
func join(items []any) string {
	if len(items) == 1 {
		s, _ := text(items[0])
		return encode(s, true)
	}
	var buf [256]byte // keeps a value of this size on the stack until it becomes a string
	b := buf[:0]
	for i, item := range items {
		if i > 0 {
			b = append(b, ',')
		}
		s, _ := text(item)
		b = appendEncoded(b, s, true)
	}
	return string(b)
}

func carriable(v any) bool {
	switch v := v.(type) {
	case []any:
		return !slices.ContainsFunc(v, func(item any) bool { _, ok := text(item); return !ok })
	case []string:
		return true
	default:
		_, ok := text(v)
		return ok
	}
}

// text returns a single value as text. ok is false for a value that has no text form.
func text(v any) (s string, ok bool) {
	switch v := v.(type) {
	case nil:
		return "", true
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	case int:
		return strconv.Itoa(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case uint64:
		return strconv.FormatUint(v, 10), true
	}
	return "", false
}

// encode percent-encodes "%" and every byte of s that is not visible ASCII. Decoding
// once therefore always yields the value in the token, and a name of "%E4%BD%A0" does
// not arrive as another user's "你". In an item of a list the comma is encoded too.
func encode(s string, item bool) string {
	clean := true
	for i := range len(s) {
		clean = clean && !hidden(s[i], item)
	}
	if clean {
		return s
	}
	var buf [256]byte
	return string(appendEncoded(buf[:0], s, item))
}

func appendEncoded(b []byte, s string, item bool) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; hidden(c, item) {
			b = append(b, '%', digits[c>>4], digits[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}

func hidden(c byte, item bool) bool {
	return c <= ' ' || c >= 0x7f || c == '%' || (item && c == ',')
}
