package token

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The names of the claims that have a meaning here. Others are tolerated, as a
// directory's claims can be put in plain, but not in another case: "Sub" beside
// "sub" means that somebody hopes for a reader less exact than this one.
var claimNames = [...]string{"iss", "sub", "aud", "exp", "iat", "nbf", "jti",
	"client_id", "sid", "openid", "unionid", "wx"}

const (
	claimIssuer = iota
	claimSubject
	claimAudience
	claimExpires
	claimIssuedAt
	claimNotBefore
	claimID
	claimAppID
	claimSessionID
	claimOpenID
	claimUnionID
	claimSealed
)

// required has the bit of each claim that no token of ours lacks.
const required = 1<<claimIssuer | 1<<claimSubject | 1<<claimAudience | 1<<claimExpires |
	1<<claimIssuedAt | 1<<claimAppID | 1<<claimSessionID

const (
	maxDepth     = 16           // of values inside a claim
	maxAudiences = 32           // in a token
	maxNumber    = 64           // digits of a number, whatever they mean
	maxUnixTime  = 253402300799 // the last second of the year 9999
)

var errClaims = errors.New("the claims are malformed")

// Reserved reports whether a claim's name, in any case, is one that only this
// package sets; such a claim cannot be among [Claims.Plain].
func Reserved(name string) bool { return claimIndex(name, strings.EqualFold) >= 0 }

func claimIndex(name string, equal func(a, b string) bool) int {
	for i, n := range claimNames {
		if equal(name, n) {
			return i
		}
	}
	return -1
}

// rawClaims is a token's payload, decoded. The byte slices point into it.
type rawClaims struct {
	seen                         uint32
	text                         [len(claimNames)][]byte // the claims that are strings
	audience                     [][]byte
	one                          [1][]byte // backs audience in the common case
	expires, issuedAt, notBefore int64
	plain                        map[string]any
}

func (c *rawClaims) has(claim int) bool { return c.seen&(1<<claim) != 0 }

// decode reads a payload in one pass. It refuses what two readers could
// understand in two ways: duplicate members at any level, names in another
// case, broken UTF-8, data behind the end; and every claim that is missing, of
// the wrong type, or out of range.
func (c *rawClaims) decode(payload []byte) error {
	s := scanner{data: payload}
	if err := s.object(func(name []byte) error { return c.member(&s, name) }); err != nil {
		return err
	}
	if !s.end() || c.seen&required != required {
		return errClaims
	}
	return nil
}

func (c *rawClaims) member(s *scanner, name []byte) error {
	claim := -1
	for i := range claimNames {
		if string(name) == claimNames[i] {
			claim = i
			break
		}
	}
	if claim < 0 {
		if Reserved(string(name)) {
			return errClaims
		}
		if _, twice := c.plain[string(name)]; twice {
			return errClaims
		}
		v, err := s.value(1)
		if err != nil {
			return err
		}
		if c.plain == nil {
			c.plain = make(map[string]any)
		}
		c.plain[string(name)] = v
		return nil
	}
	if c.has(claim) {
		return errClaims
	}
	c.seen |= 1 << claim
	var err error
	switch claim {
	case claimExpires:
		c.expires, err = s.time()
	case claimIssuedAt:
		c.issuedAt, err = s.time()
	case claimNotBefore:
		c.notBefore, err = s.time()
	case claimAudience:
		err = c.audiences(s)
	default:
		c.text[claim], err = s.text()
	}
	return err
}

// audiences reads aud: a string or an array of them (RFC 7519, section 4.1.3).
func (c *rawClaims) audiences(s *scanner) error {
	c.audience = c.one[:0]
	if s.peek() != '[' {
		a, err := s.text()
		c.audience = append(c.audience, a)
		return err
	}
	if err := s.array(func() error {
		a, err := s.text()
		c.audience = append(c.audience, a)
		if len(c.audience) > maxAudiences {
			return errClaims
		}
		return err
	}); err != nil {
		return err
	}
	if len(c.audience) == 0 {
		return errClaims
	}
	return nil
}

// decodeObject reads one JSON object as strictly as a token's payload. Numbers
// become json.Number.
func decodeObject(data []byte) (map[string]any, error) {
	s := scanner{data: data}
	if s.peek() != '{' {
		return nil, errClaims
	}
	v, err := s.value(0)
	if err != nil {
		return nil, err
	}
	if !s.end() {
		return nil, errClaims
	}
	return v.(map[string]any), nil
}

// scanner reads JSON (RFC 8259). encoding/json is not strict enough: it takes
// the last of duplicate members, any case of their names, and broken UTF-8.
type scanner struct {
	data []byte
	at   int
}

// peek skips white space and returns the next byte; 0 at the end.
func (s *scanner) peek() byte {
	for ; s.at < len(s.data); s.at++ {
		switch b := s.data[s.at]; b {
		case ' ', '\t', '\r', '\n':
		default:
			return b
		}
	}
	return 0
}

func (s *scanner) end() bool { return s.peek() == 0 && s.at == len(s.data) }

// take reads one byte of punctuation.
func (s *scanner) take(b byte) bool {
	if s.peek() != b {
		return false
	}
	s.at++
	return true
}

// object reads an object; member reads each value, and refuses duplicates.
func (s *scanner) object(member func(name []byte) error) error {
	if !s.take('{') {
		return errClaims
	}
	if s.take('}') {
		return nil
	}
	for {
		name, err := s.str()
		if err != nil {
			return err
		}
		if !s.take(':') {
			return errClaims
		}
		if err := member(name); err != nil {
			return err
		}
		if s.take('}') {
			return nil
		}
		if !s.take(',') {
			return errClaims
		}
	}
}

// array reads an array; element reads each value.
func (s *scanner) array(element func() error) error {
	if !s.take('[') {
		return errClaims
	}
	if s.take(']') {
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if s.take(']') {
			return nil
		}
		if !s.take(',') {
			return errClaims
		}
	}
}

// text reads a string that is not empty.
func (s *scanner) text() ([]byte, error) {
	v, err := s.str()
	if err == nil && len(v) == 0 {
		return nil, errClaims
	}
	return v, err
}

// str reads a string: a part of the data itself where nothing is escaped.
func (s *scanner) str() ([]byte, error) {
	if !s.take('"') {
		return nil, errClaims
	}
	start, ascii := s.at, true
	for ; s.at < len(s.data); s.at++ {
		switch b := s.data[s.at]; {
		case b == '"':
			v := s.data[start:s.at]
			s.at++
			if !ascii && !utf8.Valid(v) {
				return nil, errClaims
			}
			return v, nil
		case b == '\\':
			return s.escaped(start)
		case b < ' ':
			return nil, errClaims
		case b >= utf8.RuneSelf:
			ascii = false
		}
	}
	return nil, errClaims
}

// escaped reads the rest of a string from its first backslash on.
func (s *scanner) escaped(start int) ([]byte, error) {
	v := append([]byte(nil), s.data[start:s.at]...)
	for s.at < len(s.data) {
		b := s.data[s.at]
		s.at++
		switch {
		case b == '"':
			if !utf8.Valid(v) {
				return nil, errClaims
			}
			return v, nil
		case b < ' ':
			return nil, errClaims
		case b != '\\':
			v = append(v, b)
			continue
		}
		if s.at == len(s.data) {
			break
		}
		b = s.data[s.at]
		s.at++
		if i := strings.IndexByte(`"\/bfnrt`, b); i >= 0 {
			v = append(v, "\"\\/\b\f\n\r\t"[i])
			continue
		}
		if b != 'u' {
			return nil, errClaims
		}
		r, ok := s.hex4()
		if ok && r >= 0xd800 && r < 0xe000 { // a surrogate: only a pair is a character
			low, pair := rune(0), false
			if r < 0xdc00 && s.at+1 < len(s.data) && s.data[s.at] == '\\' && s.data[s.at+1] == 'u' {
				s.at += 2
				low, pair = s.hex4()
			}
			ok = pair && low >= 0xdc00 && low < 0xe000
			r = (r-0xd800)<<10 + (low - 0xdc00) + 0x10000
		}
		if !ok {
			return nil, errClaims
		}
		v = utf8.AppendRune(v, r)
	}
	return nil, errClaims
}

func (s *scanner) hex4() (rune, bool) {
	if len(s.data)-s.at < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(s.data[s.at:s.at+4]), 16, 16)
	s.at += 4
	return rune(n), err == nil
}

// time reads seconds since 1970: a plain positive integer.
func (s *scanner) time() (int64, error) {
	n := s.number()
	if len(n) == 0 || len(n) > len("253402300799") {
		return 0, errClaims
	}
	var t int64
	for _, d := range n {
		if d < '0' || d > '9' { // a sign, a fraction or an exponent
			return 0, errClaims
		}
		t = t*10 + int64(d-'0')
	}
	if t == 0 || t > maxUnixTime {
		return 0, errClaims
	}
	return t, nil
}

// number reads what the grammar calls a number; nothing if there is none.
func (s *scanner) number() []byte {
	s.peek()
	start := s.at
	digits := func() bool {
		from := s.at
		for s.at < len(s.data) && s.data[s.at] >= '0' && s.data[s.at] <= '9' {
			s.at++
		}
		return s.at > from
	}
	next := func(set string) bool {
		if s.at < len(s.data) && strings.IndexByte(set, s.data[s.at]) >= 0 {
			s.at++
			return true
		}
		return false
	}
	next("-")
	if !next("0") && !digits() {
		return nil
	}
	if next(".") && !digits() {
		return nil
	}
	if next("eE") {
		next("+-")
		if !digits() {
			return nil
		}
	}
	return s.data[start:s.at]
}

// value reads any value that is not nested too deeply.
func (s *scanner) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, errClaims
	}
	switch s.peek() {
	case '{':
		m := make(map[string]any)
		return m, s.object(func(name []byte) error {
			if _, twice := m[string(name)]; twice {
				return errClaims
			}
			v, err := s.value(depth + 1)
			m[string(name)] = v
			return err
		})
	case '[':
		list := []any{}
		err := s.array(func() error {
			v, err := s.value(depth + 1)
			list = append(list, v)
			return err
		})
		return list, err
	case '"':
		v, err := s.str()
		return string(v), err
	case 't':
		return true, s.literal("true")
	case 'f':
		return false, s.literal("false")
	case 'n':
		return nil, s.literal("null")
	}
	n := s.number()
	if len(n) == 0 || len(n) > maxNumber {
		return nil, errClaims
	}
	// 1e999 is well formed, but other readers cannot hold it.
	if _, err := strconv.ParseFloat(string(n), 64); err != nil {
		return nil, errClaims
	}
	return json.Number(n), nil
}

func (s *scanner) literal(word string) error {
	if len(s.data)-s.at < len(word) || string(s.data[s.at:s.at+len(word)]) != word {
		return errClaims
	}
	s.at += len(word)
	return nil
}
