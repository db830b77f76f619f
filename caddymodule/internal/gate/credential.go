package gate

import (
	"net/http"
	"strings"
)

// Kind is what the Authorization of a request is.
type Kind byte

// The kinds of credential.
const (
	None        Kind = iota // no Authorization, or an empty one
	Bearer                  // "Bearer <token>"; whose token it is remains to be seen
	Other                   // another scheme, or nothing that can be read
	Conflicting             // more than one credential: nothing must choose between them
)

// Credential is what a request shows as its credential.
type Credential struct {
	Kind  Kind
	Token string // of a Bearer
	// Malformed is true of a Bearer that is not exactly as RFC 6750 writes it.
	// It is never good; if the token in it is ours, it is a bad token of ours.
	Malformed bool
}

// ParseCredential reads the Authorization of a request. The name of the scheme
// is case-insensitive (RFC 9110, section 11.1).
func ParseCredential(h http.Header) Credential {
	lines := h["Authorization"]
	if len(lines) == 0 {
		return Credential{}
	}
	if len(lines) > 1 {
		return Credential{Kind: Conflicting}
	}
	value := strings.Trim(lines[0], " \t") // HTTP/2 leaves them in
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
	// A token has no comma and no space: what follows one is another credential,
	// and an upstream could read that one.
	if strings.IndexByte(token, ' ') >= 0 || strings.IndexByte(token, '\t') >= 0 || strings.IndexByte(token, ',') >= 0 {
		return Credential{Kind: Conflicting}
	}
	return Credential{Kind: Bearer, Token: token, Malformed: malformed}
}

// secondScheme reports whether, after a comma outside quotes, value goes on
// with another scheme and its credential. The commas of a scheme's own
// parameters (Digest) are followed by "name=".
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
