package token

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"
)

// decodeObject parses one JSON object as strictly as a token's payload. Numbers become
// json.Number.
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

// scanner parses JSON (RFC 8259). encoding/json is not strict enough: it accepts
// duplicate members (the last one wins), member names in any case, and invalid UTF-8.
type scanner struct {
	data []byte
	at   int
}

// peek skips white space and returns the next byte, or 0 at the end.
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

// take consumes the punctuation byte b if it comes next.
func (s *scanner) take(b byte) bool {
	if s.peek() != b {
		return false
	}
	s.at++
	return true
}

// object parses an object. The callback member parses each value and refuses
// duplicates.
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

// array parses an array. The callback element parses each value.
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

// text parses a string that must not be empty.
func (s *scanner) text() ([]byte, error) {
	v, err := s.str()
	if err == nil && len(v) == 0 {
		return nil, errClaims
	}
	return v, err
}

// str parses a string. The result is a slice of the data itself unless a character is
// escaped.
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

// escaped parses the rest of a string from its first backslash on. start is the index
// of the string's first byte.
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
		if ok && r >= 0xd800 && r < 0xe000 { // a surrogate: only a pair of them encodes a character
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

// time parses seconds since 1970: a plain positive integer.
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

// number parses a number of the JSON grammar. It returns nothing if there is none.
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

// value parses any value. A value that is nested too deeply is an error.
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
	// 1e999 is well-formed, but other parsers cannot represent it.
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
