package token

import (
	"fmt"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwa"
)

// Algorithm is a JWS signature algorithm, spelled as in a token's header.
type Algorithm string

// The algorithms that can sign our tokens. ES256 is the default.
const (
	ES256 Algorithm = "ES256"
	EdDSA Algorithm = "EdDSA"
	RS256 Algorithm = "RS256"
	HS256 Algorithm = "HS256"
)

var algorithms = []Algorithm{ES256, EdDSA, RS256, HS256}

// ParseAlgorithm parses the name of an algorithm. The empty name means [ES256].
func ParseAlgorithm(name string) (Algorithm, error) {
	if name == "" {
		return ES256, nil
	}
	for _, a := range algorithms {
		if name == string(a) {
			return a, nil
		}
	}
	for _, a := range algorithms {
		if strings.EqualFold(name, string(a)) {
			return "", fmt.Errorf("unknown algorithm %q: write %s", name, a)
		}
	}
	return "", fmt.Errorf("unknown algorithm %q: use ES256, EdDSA, RS256 or HS256", name)
}

func (a Algorithm) jwa() jwa.SignatureAlgorithm { return jwa.SignatureAlgorithm(a) }

func (a Algorithm) known() bool {
	return a == ES256 || a == EdDSA || a == RS256 || a == HS256
}
