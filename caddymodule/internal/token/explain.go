package token

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Inspection holds what a token says, whoever wrote it. Nothing of it is verified.
type Inspection struct {
	// Header holds the members of the header, Claims those of the payload. The sealed claim
	// is not among them.
	Header, Claims map[string]any
	// Sealed reports that there is a sealed claim.
	Sealed bool
}

// Inspect reads a token without verifying it. It returns ErrInvalid if the text is no JWT.
func Inspect(raw string) (in Inspection, err error) {
	segments := strings.Split(raw, ".")
	if len(segments) != 3 {
		return in, ErrInvalid
	}
	for i, into := range []*map[string]any{&in.Header, &in.Claims} {
		text, ok := decodeSegment(make([]byte, len(segments[i])), []byte(segments[i]))
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber()
		if !ok || dec.Decode(into) != nil || *into == nil {
			return in, ErrInvalid
		}
	}
	_, in.Sealed = in.Claims[claimNames[claimSealed]]
	delete(in.Claims, claimNames[claimSealed])
	return in, nil
}

// Explain returns why Verify refuses a token: the first fault, for the operator. It is
// empty if Verify accepts the token. A client must not learn it.
func (v *Verifier) Explain(ks *KeySet, raw string, now time.Time) string {
	id, err := v.Verify(ks, raw, now)
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrRevoked):
		return "it belongs to a test login that this site does not have: the site has none, or one with another secret or number"
	case errors.Is(err, ErrExpired):
		expired, _ := v.VerifyExpired(ks, raw, now)
		return "it expired at " + expired.Expires().Format(time.RFC3339)
	case id == nil && len(raw) > MaxSize:
		return fmt.Sprintf("it has %d bytes, more than %d", len(raw), MaxSize)
	}
	h, p, ok := ks.split(raw)
	if !ok {
		return ks.explainHeader(raw)
	}
	if h.typ != v.policy.Type {
		return fmt.Sprintf("its typ is %q, and this site has %q", h.typ, v.policy.Type)
	}
	b := new(scratch)
	payload, ok := b.open(h.key, p)
	if !ok {
		return "the signature is not that of the key " + h.key.id + ": the token was changed or cut"
	}
	if b.claims.decode(payload) != nil {
		return "a claim is missing, doubled, of the wrong type or out of range"
	}
	return v.explainClaims(b, now)
}

func (ks *KeySet) explainHeader(raw string) string {
	switch dot := strings.IndexByte(raw, '.'); {
	case ks.NamesUnknownKey(raw):
		in, _ := Inspect(raw)
		return fmt.Sprintf("the key %v does not verify tokens here: it was retired or dropped, or it is another gateway's", in.Header["kid"])
	case dot > 0 && dot < maxHeader && ks.header(raw[:dot]) != nil:
		return "the signature has the wrong length: the token was cut"
	}
	return "the header is not one that this gateway writes"
}

func (v *Verifier) explainClaims(b *scratch, now time.Time) string {
	r, p := &b.claims, &v.policy
	latest := now.Add(p.Leeway).Unix()
	switch {
	case string(r.text[claimIssuer]) != p.Issuer:
		return fmt.Sprintf("its issuer is %q, and this site has %q", r.text[claimIssuer], p.Issuer)
	case r.issuedAt > latest || r.notBefore > latest:
		return "it is issued in the future: the clocks of two machines differ"
	case index(p.Apps, r.text[claimAppID]) < 0:
		return fmt.Sprintf("its app %q is not one of this site's apps", r.text[claimAppID])
	case !slices.ContainsFunc(r.audience, func(a []byte) bool { return index(p.Audience, a) >= 0 }):
		return fmt.Sprintf("its audience %q is not one of this site's audiences", r.audience)
	}
	return "the sealed claims do not open: they were sealed with an encryption key that is not configured, or changed"
}

// StoredKeys returns the keys that verify and sign now, as a ring would load them. Unlike
// a ring it makes no key and removes none.
func StoredKeys(ctx context.Context, st KeyStore, set RingSettings, now time.Time) (*KeySet, error) {
	stored, err := readKeys(ctx, st)
	if err != nil {
		return nil, fmt.Errorf("reading the signing keys: %w", err)
	}
	verifying, _ := stored.arrange(set, now)
	r := NewRing()
	if err := r.publish(verifying); err != nil {
		return nil, fmt.Errorf("reading the signing keys: %w", err)
	}
	return r.Keys(), nil
}

// Claims returns the directory's claims and plain ones.
func (i *Identity) Claims() map[string]any { return i.claims }
