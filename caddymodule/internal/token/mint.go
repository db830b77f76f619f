package token

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
	"unsafe"
)

// ErrNoKey is the error for minting without a signing key: no key was loaded yet, or
// all keys are retired.
var ErrNoKey = errors.New("there is no key to sign with")

// Mint returns a signed token with the claims c. typ is [TypeAccessToken] or [TypeJWT];
// empty means the first. The token is signed with the key of ks that signs at
// c.IssuedAt. Issuer, Subject, Audience, AppID, SessionID and both times are required.
// Mint returns [ErrTooLarge] if the claims do not fit, and [ErrNoKey].
func Mint(ks *KeySet, typ string, seal Sealer, c Claims) (string, error) {
	k := ks.signer(c.IssuedAt)
	if k == nil {
		return "", ErrNoKey
	}
	if typ == "" {
		typ = TypeAccessToken
	}
	var segment string
	for i := range ks.headers {
		if h := &ks.headers[i]; h.key == k && h.typ == typ {
			segment = h.segment
		}
	}
	if segment == "" {
		return "", fmt.Errorf("unknown token type %q", typ)
	}
	var buf [1024]byte // large enough for most claims
	payload, err := encodeClaims(buf[:0], seal, &c)
	if err != nil {
		return "", fmt.Errorf("minting a token: %w", err)
	}
	enc := base64.RawURLEncoding
	size := len(segment) + 1 + enc.EncodedLen(len(payload)) + 1 + enc.EncodedLen(k.sigSize)
	if size > MaxSize {
		return "", ErrTooLarge
	}
	out := make([]byte, 0, size)
	out = append(out, segment...)
	out = append(out, '.')
	out = enc.AppendEncode(out, payload)
	sig, err := k.signer.Sign(out, k.private)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	out = append(out, '.')
	out = enc.AppendEncode(out, sig)
	return unsafe.String(unsafe.SliceData(out), len(out)), nil // out is not referenced elsewhere
}

func encodeClaims(w writer, seal Sealer, c *Claims) ([]byte, error) {
	if c.Issuer == "" || c.Subject == "" || c.AppID == "" || c.SessionID == "" ||
		len(c.Audience) == 0 || len(c.Audience) > maxAudiences || slices.Contains(c.Audience, "") {
		return nil, errors.New("a claim that every token has is missing")
	}
	if !c.AuthTime.IsZero() && !inRange(c.AuthTime) {
		return nil, errors.New("the token's auth_time is out of range")
	}
	if !inRange(c.IssuedAt) || !inRange(c.Expires) || !c.Expires.After(c.IssuedAt) {
		return nil, errors.New("the token's times are out of range")
	}
	id := c.ID
	if id == "" {
		var random [16]byte
		rand.Read(random[:])
		id = base64.RawURLEncoding.EncodeToString(random[:])
	}
	w = append(w, '{')
	w.text("iss", c.Issuer)
	w.text("sub", c.Subject)
	w.name("aud")
	if len(c.Audience) == 1 {
		w.str(c.Audience[0])
	} else {
		for i, a := range c.Audience {
			w = append(w, "[,"[min(i, 1)])
			w.str(a)
		}
		w = append(w, ']')
	}
	w.name("exp")
	w = strconv.AppendInt(w, c.Expires.Unix(), 10)
	w.name("iat")
	w = strconv.AppendInt(w, c.IssuedAt.Unix(), 10)
	w.text("jti", id)
	w.text("client_id", c.AppID)
	w.text("sid", c.SessionID)
	if !c.AuthTime.IsZero() {
		w.name("auth_time")
		w = strconv.AppendInt(w, c.AuthTime.Unix(), 10)
	}
	if c.OpenID != "" {
		w.text("openid", c.OpenID)
	}
	if c.UnionID != "" {
		w.text("unionid", c.UnionID)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Plain)) {
		if Reserved(name) {
			return nil, fmt.Errorf("the claim %q is reserved", name)
		}
		w.name(name)
		value, err := json.Marshal(c.Plain[name])
		if err != nil {
			return nil, fmt.Errorf("the claim %q: %w", name, err)
		}
		s := scanner{data: value}
		if _, err := s.value(1); err != nil { // a token that we would refuse must not be minted
			return nil, fmt.Errorf("the claim %q: its value cannot be in a token", name)
		}
		w = append(w, value...)
	}
	if c.Phone != "" || c.Test != "" || len(c.Extra) > 0 {
		sealed, err := sealClaims(seal, c)
		if err != nil {
			return nil, err
		}
		w.name("wx")
		w = append(w, '"')
		w = base64.RawURLEncoding.AppendEncode(w, sealed)
		w = append(w, '"')
	}
	w = append(w, '}')
	if !utf8.Valid(w) {
		return nil, errors.New("a claim is not valid UTF-8")
	}
	return w, nil
}

func inRange(t time.Time) bool { s := t.Unix(); return s > 0 && s <= maxUnixTime }

// The members of the object in the sealed claim.
const (
	sealedPhone = "phone"
	sealedTest  = "test"
	sealedExtra = "claims"
)

func sealClaims(seal Sealer, c *Claims) ([]byte, error) {
	w := make(writer, 0, 64) // large enough for a phone number
	w = append(w, '{')
	if c.Phone != "" {
		w.text(sealedPhone, c.Phone)
	}
	if c.Test != "" {
		w.text(sealedTest, c.Test)
	}
	if len(c.Extra) > 0 {
		value, err := json.Marshal(c.Extra)
		if err != nil {
			return nil, fmt.Errorf("the directory's claims: %w", err)
		}
		w.name(sealedExtra)
		w = append(w, value...)
	}
	w = append(w, '}')
	if _, err := decodeSealed(w); err != nil { // a token that we would refuse must not be minted
		return nil, errors.New("the directory's claims cannot be in a token")
	}
	if seal == nil {
		return nil, errors.New("there is no seal for the user's data")
	}
	aad := appendAAD(make([]byte, 0, 128), c.Issuer, c.Subject, c.SessionID)
	sealed, err := seal.Seal(aad, w)
	if err != nil {
		return nil, fmt.Errorf("sealing the user's data: %w", err)
	}
	return sealed, nil
}

// sealedClaims is the content of the sealed claim.
type sealedClaims struct {
	phone, test []byte // nil: absent
	extra       map[string]any
}

// decodeSealed parses the output of sealClaims. The texts are slices of plain.
func decodeSealed(plain []byte) (c sealedClaims, err error) {
	s := scanner{data: plain}
	err = s.object(func(name []byte) error {
		switch {
		case string(name) == sealedPhone && c.phone == nil:
			c.phone, err = s.text()
			return err
		case string(name) == sealedTest && c.test == nil:
			c.test, err = s.text()
			return err
		case string(name) == sealedExtra && c.extra == nil && s.peek() == '{':
			v, err := s.value(1)
			c.extra, _ = v.(map[string]any)
			return err
		}
		return errClaims
	})
	if err == nil && !s.end() {
		err = errClaims
	}
	return c, err
}

// appendAAD encodes the issuer, the user and the session that a sealed claim is bound
// to. Each part is preceded by its length, so that different lists of parts have
// different encodings.
func appendAAD[T string | []byte](to []byte, parts ...T) []byte {
	for _, p := range parts {
		to = binary.BigEndian.AppendUint32(to, uint32(len(p)))
		to = append(to, p...)
	}
	return to
}

// writer appends JSON.
type writer []byte

func (w *writer) name(name string) {
	if b := *w; b[len(b)-1] != '{' {
		*w = append(b, ',')
	}
	w.str(name)
	*w = append(*w, ':')
}

func (w *writer) text(name, value string) {
	w.name(name)
	w.str(value)
}

func (w *writer) str(s string) {
	b := append(*w, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
		default:
			b = append(b, c)
		}
	}
	*w = append(b, '"')
}
