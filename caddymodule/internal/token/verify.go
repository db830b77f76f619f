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

// Policy is what a directive asks of a token beside a good signature.
type Policy struct {
	Issuer   string        // iss must equal it
	Audience []string      // aud must hold at least one of them
	Apps     []string      // client_id must be one of them
	Leeway   time.Duration // how far clocks may differ; not negative
	Type     string        // typ must equal it; empty: TypeAccessToken
}

// digest is different for any two policies that are.
func (p *Policy) digest() [sha256.Size]byte {
	b := appendAAD(nil, p.Issuer, p.Type)
	for _, list := range [][]string{p.Audience, p.Apps} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
		b = appendAAD(b, list...)
	}
	return sha256.Sum256(binary.BigEndian.AppendUint64(b, uint64(p.Leeway)))
}

// Verifier checks tokens against one policy. It is safe for concurrent use.
type Verifier struct {
	policy Policy
	digest [sha256.Size]byte
	seal   Sealer
	cache  *Cache
}

// NewVerifier makes a verifier. seal opens the claim "wx"; cache, which may be
// nil, remembers the tokens found good. A cache is for one policy: it outlives
// a reload that leaves the policy as it was, and is emptied by one that does
// not. Verifiers of equal policies can share one.
func NewVerifier(p Policy, seal Sealer, cache *Cache) *Verifier {
	if p.Type == "" {
		p.Type = TypeAccessToken
	}
	p.Audience, p.Apps = slices.Clone(p.Audience), slices.Clone(p.Apps)
	return &Verifier{policy: p, digest: p.digest(), seal: seal, cache: cache}
}

// Verify checks a token and returns what it says, or [ErrInvalid], or
// [ErrExpired] if nothing but its age is wrong. ks may be nil: then no token is
// good. Whether the session has ended is the caller's to ask.
//
// For ES256 there is a second good signature to each one, which anybody can
// compute (s and n−s). Such a token is accepted: it says the same, and ends with
// the same session. Nothing may take a token's text for the name of anything.
func (v *Verifier) Verify(ks *KeySet, raw string, now time.Time) (*Identity, error) {
	id, err := v.verify(ks, raw, now)
	if err != nil {
		return nil, err
	}
	// On every look-up, not only when the token was verified.
	if v.expired(id, now) {
		return nil, ErrExpired
	}
	return id, nil
}

// expired reports whether exp is not after now less the leeway. It is a whole
// second, so the fraction of now does not matter but for the leeway's.
func (v *Verifier) expired(id *Identity, now time.Time) bool {
	return id.expires <= now.Add(-v.policy.Leeway).Unix()
}

// VerifyExpired is Verify for logging out: a token that has expired is good.
func (v *Verifier) VerifyExpired(ks *KeySet, raw string, now time.Time) (*Identity, error) {
	return v.verify(ks, raw, now)
}

// verify checks all but exp, the cheap things first: what is not a token of
// ours is refused before any cryptography.
func (v *Verifier) verify(ks *KeySet, raw string, now time.Time) (*Identity, error) {
	h, p, ok := ks.split(raw)
	if !ok || h.typ != v.policy.Type {
		return nil, ErrInvalid
	}
	owner := cacheOwner{keys: ks, policy: v.digest}
	if v.cache != nil {
		if id := v.cache.get(&owner, raw, p.signature()); id != nil {
			return id, nil
		}
	}
	id, err := v.check(h.key, p, now)
	if err != nil {
		return nil, err
	}
	if v.cache == nil || v.expired(&id, now) {
		kept := id // only this one is on the heap: what is refused allocates nothing
		return &kept, nil
	}
	return v.cache.put(&owner, raw, p.signature(), id, now), nil
}

// parts is a token and the places of its two dots.
type parts struct {
	raw           string
	first, second int
}

func (p parts) signature() string { return p.raw[p.second+1:] }

// split finds the key that a token's header names, and the token's parts.
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
	// The signature's length is known, so the second dot's place is, too. A
	// third one would be no base64url.
	second := len(raw) - base64.RawURLEncoding.EncodedLen(h.key.sigSize) - 1
	if second <= first || raw[second] != '.' {
		return nil, parts{}, false
	}
	return h, parts{raw, first, second}, true
}

// scratch is the memory that checking a token takes.
type scratch struct {
	raw, decoded, sealed [MaxSize]byte
	aad                  []byte
	claims               rawClaims
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// check looks at everything behind the header.
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
	return v.judge(b, now)
}

// open decodes a token's payload if the signature is good.
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

// decodeSegment decodes base64url in its one canonical form: no padding, no
// bits set behind the last byte, nothing skipped.
func decodeSegment(dst, src []byte) ([]byte, bool) {
	n, err := strictBase64.Decode(dst, src)
	// The decoder skips line breaks. Then there are fewer bytes than so many
	// characters make, or the characters are one more than can be.
	return dst[:n], err == nil && n == strictBase64.DecodedLen(len(src)) && len(src)%4 != 1
}

var strictBase64 = base64.RawURLEncoding.Strict()

// judge compares the claims with the policy, opens the sealed one, and copies
// what stays.
func (v *Verifier) judge(b *scratch, now time.Time) (Identity, error) {
	r, p := &b.claims, &v.policy
	latest := now.Add(p.Leeway).Unix()
	if string(r.text[claimIssuer]) != p.Issuer || r.issuedAt > latest || r.notBefore > latest {
		return Identity{}, ErrInvalid
	}
	app := index(p.Apps, r.text[claimAppID])
	if app < 0 || !slices.ContainsFunc(r.audience, func(a []byte) bool { return index(p.Audience, a) >= 0 }) {
		return Identity{}, ErrInvalid
	}
	var phone []byte
	var extra map[string]any
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
		if phone, extra, err = decodeSealed(plain); err != nil {
			return Identity{}, ErrInvalid
		}
	}
	id := Identity{appID: &p.Apps[app], expires: r.expires, claims: merge(extra, r.plain)}
	pack(&id, [textFields][]byte{r.text[claimSubject], r.text[claimSessionID], r.text[claimOpenID], r.text[claimUnionID], phone})
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
