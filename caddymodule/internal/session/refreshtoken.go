package session

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// A refresh token is, in strict base64url without padding:
//
//	version      1 byte
//	MAC key id   4 bytes
//	session id  16 bytes
//	counter      8 bytes, big-endian
//	MAC         32 bytes, HMAC-SHA256 of all before
//
// It holds no secret of its own: the MAC is what makes it ours, so the store
// needs neither the token nor a hash of it.
const (
	refreshVersion = 1

	keyIDAt   = 1
	sessionAt = keyIDAt + 4
	counterAt = sessionAt + 16
	macAt     = counterAt + 8
	rawLen    = macAt + sha256.Size

	// maxCounter leaves room for one more in a database's signed BIGINT.
	maxCounter = math.MaxInt64 - 1
)

var (
	refreshEncoding = base64.RawURLEncoding.Strict()
	refreshLen      = refreshEncoding.EncodedLen(rawLen)
)

// minKey is the least length of a MAC key, in bytes.
const minKey = 32

// Keys are the MAC keys of refresh tokens. The zero value knows no key: it
// opens nothing.
type Keys struct {
	keys []macKey // the first one signs
}

type macKey struct {
	id     [4]byte
	secret []byte
}

// NewKeys takes the MAC keys, newest first: the first one signs, all are
// accepted. Each has 32 bytes or more.
func NewKeys(keys ...[]byte) (Keys, error) {
	if len(keys) == 0 {
		return Keys{}, errors.New("refresh tokens: no key")
	}
	var ks Keys
	for i, secret := range keys {
		if len(secret) < minKey {
			return Keys{}, fmt.Errorf("refresh tokens: key %d has %d bytes, fewer than %d", i+1, len(secret), minKey)
		}
		k := macKey{secret: append([]byte(nil), secret...)}
		// The id is public, so it comes from the key one way only.
		m := hmac.New(sha256.New, secret)
		m.Write([]byte("wx-auth refresh key id"))
		copy(k.id[:], m.Sum(nil))
		ks.keys = append(ks.keys, k)
	}
	return ks, nil
}

// String hides the keys from whatever prints them.
func (Keys) String() string { return "refresh keys (hidden)" }

// GoString hides the keys from %#v.
func (k Keys) GoString() string { return k.String() }

// RefreshToken is the session's newest refresh token: that of its counter.
// Asked again it is the same text, for as long as the same key signs. It is
// empty if the session's id is not one of [NewID].
func (k Keys) RefreshToken(s Session) string {
	id, ok := parseID(s.ID)
	if !ok || len(k.keys) == 0 {
		return ""
	}
	var raw [rawLen]byte
	raw[0] = refreshVersion
	copy(raw[keyIDAt:], k.keys[0].id[:])
	copy(raw[sessionAt:], id[:])
	binary.BigEndian.PutUint64(raw[counterAt:], s.Counter)
	copy(raw[macAt:], k.keys[0].mac(raw[:macAt]))
	return refreshEncoding.EncodeToString(raw[:])
}

// SessionOf reads the id of the session that a refresh token belongs to; false
// if its MAC is not by one of our keys. It asks no store: the session may have
// ended, or be another issuer's.
func (k Keys) SessionOf(refreshToken string) (sessionID string, ok bool) {
	shown, ok := k.open(refreshToken)
	if !ok {
		return "", false
	}
	return shown.id.String(), true
}

// presentedToken is what a good refresh token says.
type presentedToken struct {
	id      sid
	counter uint64
}

// open reads a refresh token; false for whatever is not exactly as
// RefreshToken wrote it.
func (k Keys) open(token string) (presentedToken, bool) {
	// The length comes first: Go's decoder skips line breaks, and with it they
	// would be other spellings of the same token.
	if len(token) != refreshLen {
		return presentedToken{}, false
	}
	var raw [rawLen]byte
	if n, err := refreshEncoding.Decode(raw[:], []byte(token)); err != nil || n != rawLen {
		return presentedToken{}, false
	}
	if raw[0] != refreshVersion {
		return presentedToken{}, false
	}
	for _, key := range k.keys {
		if [4]byte(raw[keyIDAt:sessionAt]) != key.id || !hmac.Equal(key.mac(raw[:macAt]), raw[macAt:]) {
			continue
		}
		t := presentedToken{
			id:      sid(raw[sessionAt:counterAt]),
			counter: binary.BigEndian.Uint64(raw[counterAt:macAt]),
		}
		return t, t.counter <= maxCounter
	}
	return presentedToken{}, false
}

func (k macKey) mac(b []byte) []byte {
	m := hmac.New(sha256.New, k.secret)
	m.Write(b)
	return m.Sum(nil)
}
