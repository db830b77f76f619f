package gate

import (
	"net/http"
	"strings"
)

// Kind classifies the Authorization of a request.
type Kind byte

// The kinds of credential.
const (
	None        Kind = iota // no Authorization, or an empty one
	Bearer                  // "Bearer <token>", whoever issued the token
	Other                   // another scheme, or an unreadable value
	Conflicting             // more than one credential: the gate must not choose between them
)

// Credential is the credential that a request presents.
type Credential struct {
	Kind  Kind
	Token string // set for Bearer
	// Malformed is true for a Bearer that deviates from the syntax of RFC 6750. It is
	// never accepted: if the token in it is ours, the request is refused rather than
	// treated as one with a foreign credential.
	Malformed bool
}

// ParseCredential parses the Authorization of a request. The name of the scheme is
// case-insensitive (RFC 9110, section 11.1).
func ParseCredential(h http.Header) Credential {
	lines := h["Authorization"]
	if len(lines) == 0 {
		return Credential{}
	}
	if len(lines) > 1 {
		return Credential{Kind: Conflicting}
	}
	value := strings.Trim(lines[0], " \t") // net/http does not trim the value for HTTP/2
	if value == "" {
		return Credential{}
	}
	end := strings.IndexAny(value, " \t,")
	if end < 0 {
		return Credential{Kind: Other} // a bare token, or a scheme and nothing else
	}
	if !strings.EqualFold(value[:end], "bearer") {
		if secondScheme(value) {
			return Credential{Kind: Conflicting}
		}
		return Credential{Kind: Other}
	}
	token := strings.TrimLeft(value[end:], " ")
	malformed := false
	if token[0] == '\t' {
		token, malformed = strings.TrimLeft(token, " \t"), true
	}
	// A token contains no comma and no space. Text after one is another credential, and
	// an upstream could use that one.
	if strings.IndexByte(token, ' ') >= 0 || strings.IndexByte(token, '\t') >= 0 || strings.IndexByte(token, ',') >= 0 {
		return Credential{Kind: Conflicting}
	}
	return Credential{Kind: Bearer, Token: token, Malformed: malformed}
}

// secondScheme reports whether value continues, after a comma outside quotes, with
// another scheme and its credential. A comma between the parameters of one scheme
// (Digest) is followed by "name=" instead.
func secondScheme(value string) bool {
	quoted := false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			item := strings.TrimLeft(value[i+1:], " \t")
			end := strings.IndexAny(item, " \t,=\"")
			if end <= 0 {
				continue
			}
			rest := strings.TrimLeft(item[end:], " \t")
			if len(rest) < len(item)-end && rest != "" && rest[0] != '=' && rest[0] != ',' {
				return true
			}
		}
	}
	return false
}
