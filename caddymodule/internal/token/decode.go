package token

import (
	"errors"
	"strings"
)

// The names of the claims that have a meaning here. Other names are tolerated, because the
// directory's claims may be in plain. Other spellings of these names are refused: "Sub" beside
// "sub" is an attack on a reader that ignores case.
var claimNames = [...]string{"iss", "sub", "aud", "exp", "iat", "nbf", "jti",
	"client_id", "sid", "openid", "unionid", "wx", "auth_time"}

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
	claimAuthTime
)

// required has a bit for each claim that all our tokens carry.
const required = 1<<claimIssuer | 1<<claimSubject | 1<<claimAudience | 1<<claimExpires |
	1<<claimIssuedAt | 1<<claimAppID | 1<<claimSessionID

const (
	maxDepth     = 16           // of values inside a claim
	maxAudiences = 32           // in a token
	maxNumber    = 64           // characters of a number, whatever its value
	maxUnixTime  = 253402300799 // the last second of the year 9999
)

var errClaims = errors.New("the claims are malformed")

// Reserved reports whether only this package may set a claim of this name, in any case.
// Such a claim cannot be among [Claims.Plain].
func Reserved(name string) bool { return claimIndex(name, strings.EqualFold) >= 0 }

func claimIndex(name string, equal func(a, b string) bool) int {
	for i, n := range claimNames {
		if equal(name, n) {
			return i
		}
	}
	return -1
}

// rawClaims is a decoded payload. The byte slices point into the payload.
type rawClaims struct {
	seen                         uint32
	text                         [len(claimNames)][]byte // the claims that are strings
	audience                     [][]byte
	one                          [1][]byte // backs audience in the common case
	expires, issuedAt, notBefore int64
	authTime                     int64 // 0: the token has no auth_time
	plain                        map[string]any
}

func (c *rawClaims) has(claim int) bool { return c.seen&(1<<claim) != 0 }

// decode parses a payload in one pass. It refuses everything that two parsers could
// understand differently: duplicate members at any level, names in another case,
// invalid UTF-8, trailing data. It also refuses a claim that is missing, of the wrong
// type, or out of range.
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
	case claimAuthTime:
		c.authTime, err = s.time()
	case claimAudience:
		err = c.audiences(s)
	default:
		c.text[claim], err = s.text()
	}
	return err
}

// audiences parses aud: a string or an array of strings (RFC 7519, section 4.1.3).
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
