package token

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"
)

// KeySet holds the current keys: the keys that sign, each from its own time on, and all keys
// that verify. It never changes once it is made, and is safe for concurrent use. A nil *KeySet
// holds no key.
type KeySet struct {
	members []member // in the order in which they are tried for signing
	headers []header
	jwks    []byte
}

// member is a key and the period in which it may sign.
type member struct {
	*key
	from    time.Time // zero: always
	retired time.Time // zero: never
}

// header is one of the constants with which our tokens begin.
type header struct {
	segment string // base64url, without the dot
	typ     string
	key     *key
}

// maxHeader is the length of the longest first segment that is examined.
const maxHeader = 256

func newKeySet(members []member) (*KeySet, error) {
	ks := &KeySet{members: members}
	set := jwk.NewSet()
	for _, m := range members {
		for _, typ := range []string{TypeAccessToken, TypeJWT} {
			ks.headers = append(ks.headers, header{
				segment: base64.RawURLEncoding.EncodeToString(headerJSON(m.alg, m.id, typ)), typ: typ, key: m.key})
		}
		if m.jwk == nil {
			continue
		}
		if err := set.AddKey(m.jwk); err != nil {
			return nil, fmt.Errorf("making the JWKS: %w", err)
		}
	}
	var err error
	if ks.jwks, err = json.Marshal(set); err != nil {
		return nil, fmt.Errorf("making the JWKS: %w", err)
	}
	return ks, nil
}

func headerJSON(alg Algorithm, kid, typ string) []byte {
	return []byte(`{"alg":"` + string(alg) + `","kid":"` + kid + `","typ":"` + typ + `"}`)
}

// Ours reports whether a token's first segment is one of the headers that this package
// writes, of either type. The rest of the token is not examined.
func (ks *KeySet) Ours(token string) bool {
	dot := strings.IndexByte(token[:min(len(token), maxHeader)], '.')
	return dot > 0 && ks.header(token[:dot]) != nil
}

func (ks *KeySet) header(segment string) *header {
	if ks == nil {
		return nil
	}
	for i := range ks.headers {
		if ks.headers[i].segment == segment {
			return &ks.headers[i]
		}
	}
	return nil
}

// NamesUnknownKey reports whether a token has a header of our shape that names a key
// which ks does not hold. Such a token is a reason to load the key ring again, unless
// the last load was quite recent.
func (ks *KeySet) NamesUnknownKey(token string) bool {
	dot := strings.IndexByte(token[:min(len(token), maxHeader)], '.')
	if dot <= 0 || ks.header(token[:dot]) != nil {
		return false
	}
	var buf [maxHeader]byte
	decoded, ok := decodeSegment(buf[:], []byte(token[:dot]))
	if !ok {
		return false
	}
	rest, ok := strings.CutPrefix(string(decoded), `{"alg":"`)
	if !ok {
		return false
	}
	alg, rest, _ := strings.Cut(rest, `","kid":"`)
	kid, typ, _ := strings.Cut(rest, `","typ":"`)
	return Algorithm(alg).known() && (len(kid) == 43 || len(kid) == 22) &&
		!strings.ContainsAny(kid, `"\`) && (typ == TypeAccessToken+`"}` || typ == TypeJWT+`"}`)
}

// JWKS returns the public keys as JSON (RFC 7517). It contains no member of a private
// key, and no key at all for HS256.
func (ks *KeySet) JWKS() []byte {
	if ks == nil {
		return []byte(`{"keys":[]}`)
	}
	return append([]byte(nil), ks.jwks...)
}

// IDs returns the kids. They are not secret.
func (ks *KeySet) IDs() []string {
	if ks == nil {
		return nil
	}
	ids := make([]string, len(ks.members))
	for i, m := range ks.members {
		ids[i] = m.id
	}
	return ids
}

// LostBy reports whether the key that signs at the given time is missing from a later
// set of the same ring. A key that is merely replaced still verifies there; one that
// is missing was dropped because somebody else has it.
func (ks *KeySet) LostBy(later *KeySet, at time.Time) bool {
	k := ks.signer(at)
	return k != nil && later != nil && !slices.ContainsFunc(later.members, func(m member) bool { return m.id == k.id })
}

// signer returns the key that signs at the given time, or nil if there is none.
func (ks *KeySet) signer(at time.Time) *key {
	if ks == nil {
		return nil
	}
	var first *member
	for i := range ks.members {
		m := &ks.members[i]
		if !m.retired.IsZero() && !at.Before(m.retired) {
			continue
		}
		if !at.Before(m.from) {
			return m.key
		}
		// All keys start in the future: the clock of the replica that made the first
		// one is ahead of our clock.
		if first == nil || m.from.Before(first.from) {
			first = m
		}
	}
	if first == nil {
		return nil
	}
	return first.key
}
