package token

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"
)

// Policy is the set of conditions that a directive imposes on a token besides a good
// signature.
type Policy struct {
	Issuer   string        // iss must equal it
	Audience []string      // aud must hold at least one of them
	Apps     []string      // client_id must be one of them
	Leeway   time.Duration // how far clocks may differ; not negative
	Type     string        // typ must equal it; empty: TypeAccessToken
	Test     TestLogin     // tokens of a test login must belong to this one
}

// TestLogin describes the test login of a directive: which of its tokens are good, and until
// when. The zero value accepts none.
type TestLogin struct {
	// Marks are the marks of good tokens. A mark belongs to one secret and phone number.
	Marks []string
	// Until is the time at which its tokens stop being good, whatever their exp.
	Until time.Time
}

// digest returns a hash that differs for any two different policies.
func (p *Policy) digest() [sha256.Size]byte {
	b := appendAAD(nil, p.Issuer, p.Type)
	for _, list := range [][]string{p.Audience, p.Apps, p.Test.Marks} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
		b = appendAAD(b, list...)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(p.Test.Until.Unix()))
	return sha256.Sum256(binary.BigEndian.AppendUint64(b, uint64(p.Leeway)))
}

// Verifier checks tokens against one policy. It is safe for concurrent use.
type Verifier struct {
	policy Policy
	digest [sha256.Size]byte
	seal   Sealer
	cache  *Cache
}

// NewVerifier returns a verifier. seal opens the claim "wx". cache remembers the tokens
// found valid; it may be nil. A cache serves one policy: it survives a reload that
// leaves the policy unchanged, and a reload that changes the policy empties it.
// Verifiers with equal policies can share one cache.
func NewVerifier(p Policy, seal Sealer, cache *Cache) *Verifier {
	if p.Type == "" {
		p.Type = TypeAccessToken
	}
	p.Audience, p.Apps, p.Test.Marks = slices.Clone(p.Audience), slices.Clone(p.Apps), slices.Clone(p.Test.Marks)
	return &Verifier{policy: p, digest: p.digest(), seal: seal, cache: cache}
}

// Verify checks a token and returns its identity. It returns [ErrExpired] if nothing
// but the token's age is wrong, [ErrRevoked] for a good token of a test login that is not
// the policy's, and [ErrInvalid] for every other fault. With a nil ks no token is valid.
// The caller has to check that the session has not ended.
//
// Every ES256 signature has a second valid form, which anybody can compute (s and n−s).
// Such a token is accepted: it makes the same statement and ends with the same session.
// Therefore nothing may use a token's text as an identifier.
func (v *Verifier) Verify(ks *KeySet, raw string, now time.Time) (*Identity, error) {
	id, err := v.verify(ks, raw, now)
	if err != nil {
		return nil, err
	}
	// Expiry is checked on every lookup, not only when the token is first verified.
	if v.expired(id, now) {
		return nil, ErrExpired
	}
	return id, nil
}

// expired reports whether exp is not after now minus the leeway. exp is a whole second,
// so the fraction of now matters only together with a fraction of the leeway.
func (v *Verifier) expired(id *Identity, now time.Time) bool {
	return id.expires <= now.Add(-v.policy.Leeway).Unix() || id.test && !now.Before(v.policy.Test.Until)
}

// VerifyExpired is Verify for logging out: it accepts a token that has expired.
func (v *Verifier) VerifyExpired(ks *KeySet, raw string, now time.Time) (*Identity, error) {
	return v.verify(ks, raw, now)
}

// verify checks everything but exp. The cheap checks come first: a token that we did
// not write is refused before any cryptography.
func (v *Verifier) verify(ks *KeySet, raw string, now time.Time) (*Identity, error) {
	h, p, ok := ks.split(raw)
	if !ok || h.typ != v.policy.Type {
		return nil, ErrInvalid
	}
	owner := cacheOwner{keys: ks, policy: v.digest}
	if v.cache != nil {
		if id := v.cache.get(&owner, raw, p.signature()); id != nil {
			v.cache.Hits.Inc()
			return id, nil
		}
		v.cache.Misses.Inc()
	}
	id, err := v.check(h.key, p, now)
	if err != nil {
		return nil, err
	}
	if v.cache == nil || v.expired(&id, now) {
		kept := id // only an accepted identity goes to the heap: a refused token allocates nothing
		return &kept, nil
	}
	return v.cache.put(&owner, raw, p.signature(), id, now), nil
}

// parts is a token with the positions of its two dots.
type parts struct {
	raw           string
	first, second int
}

func (p parts) signature() string { return p.raw[p.second+1:] }

// split returns the key that a token's header names, and the token's parts.
func (ks *KeySet) split(raw string) (*header, parts, bool) {
	if len(raw) > MaxSize {
		return nil, parts{}, false
	}
	first := strings.IndexByte(raw[:min(len(raw), maxHeader)], '.')
	if first <= 0 {
		return nil, parts{}, false
	}
	h := ks.header(raw[:first])
	if h == nil {
		return nil, parts{}, false
	}
	// The length of the signature is known, and with it the position of the second dot.
	// A third dot would fail as base64url.
	second := len(raw) - base64.RawURLEncoding.EncodedLen(h.key.sigSize) - 1
	if second <= first || raw[second] != '.' {
		return nil, parts{}, false
	}
	return h, parts{raw, first, second}, true
}

// scratch is the memory needed to check one token.
type scratch struct {
	raw, decoded, sealed [MaxSize]byte
	aad                  []byte
	claims               rawClaims
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// check verifies everything after the header.
func (v *Verifier) check(k *key, p parts, now time.Time) (Identity, error) {
	b := scratches.Get().(*scratch)
	defer scratches.Put(b)
	payload, ok := b.open(k, p)
	if !ok {
		return Identity{}, ErrInvalid
	}
	b.claims = rawClaims{}
	if err := b.claims.decode(payload); err != nil {
		return Identity{}, ErrInvalid
	}
	return v.checkClaims(b, now)
}

// open returns a token's decoded payload if the signature is good.
func (b *scratch) open(k *key, p parts) ([]byte, bool) {
	raw := b.raw[:copy(b.raw[:], p.raw)]
	signature, ok := decodeSegment(b.decoded[:], raw[p.second+1:])
	if !ok || len(signature) != k.sigSize {
		return nil, false
	}
	payload, ok := decodeSegment(b.decoded[len(signature):], raw[p.first+1:p.second])
	if !ok {
		return nil, false
	}
	return payload, k.signed(raw[:p.second], signature)
}

// decodeSegment decodes base64url in its only canonical form: without padding, without
// bits set after the last byte, and without skipped characters.
func decodeSegment(dst, src []byte) ([]byte, bool) {
	n, err := strictBase64.Decode(dst, src)
	// The decoder skips line breaks. In that case it returns fewer bytes than the
	// number of characters encodes, or the number of characters is impossible in
	// base64.
	return dst[:n], err == nil && n == strictBase64.DecodedLen(len(src)) && len(src)%4 != 1
}

var strictBase64 = base64.RawURLEncoding.Strict()

// checkClaims compares the claims with the policy, opens the sealed claim, and copies
// everything that outlives the scratch memory.
func (v *Verifier) checkClaims(b *scratch, now time.Time) (Identity, error) {
	r, p := &b.claims, &v.policy
	latest := now.Add(p.Leeway).Unix()
	if string(r.text[claimIssuer]) != p.Issuer || r.issuedAt > latest || r.notBefore > latest {
		return Identity{}, ErrInvalid
	}
	app := index(p.Apps, r.text[claimAppID])
	if app < 0 || !slices.ContainsFunc(r.audience, func(a []byte) bool { return index(p.Audience, a) >= 0 }) {
		return Identity{}, ErrInvalid
	}
	var secret sealedClaims
	if r.has(claimSealed) {
		sealed, ok := decodeSegment(b.sealed[:], r.text[claimSealed])
		if !ok || v.seal == nil {
			return Identity{}, ErrInvalid
		}
		b.aad = appendAAD(b.aad[:0], r.text[claimIssuer], r.text[claimSubject], r.text[claimSessionID])
		plain, err := v.seal.Open(b.aad, sealed)
		if err != nil {
			return Identity{}, ErrInvalid
		}
		if secret, err = decodeSealed(plain); err != nil {
			return Identity{}, ErrInvalid
		}
		if secret.test != nil && index(p.Test.Marks, secret.test) < 0 {
			return Identity{}, ErrRevoked // the test login was removed, or has another secret or number
		}
	}
	id := Identity{appID: &p.Apps[app], expires: r.expires, auth: r.authTime, claims: merge(secret.extra, r.plain), test: secret.test != nil}
	pack(&id, [textFields][]byte{r.text[claimSubject], r.text[claimSessionID], r.text[claimOpenID], r.text[claimUnionID], secret.phone})
	return id, nil
}

func index(list []string, s []byte) int {
	for i := range list {
		if list[i] == string(s) {
			return i
		}
	}
	return -1
}

// sumString hashes a string without copying it.
func sumString(s string) [sha256.Size]byte {
	return sha256.Sum256(unsafe.Slice(unsafe.StringData(s), len(s)))
}
