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
// The token holds no secret of its own. The MAC proves that it is ours, so the store
// needs neither the token nor its hash.
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

// minKey is the minimum length of a MAC key, in bytes.
const minKey = 32

// Keys are the MAC keys of refresh tokens. The zero value has no keys and accepts no
// token.
type Keys struct {
	keys []macKey // the first one signs
}

type macKey struct {
	id     [4]byte
	secret []byte
}

// NewKeys takes the MAC keys, newest first. The first one signs, and all are accepted.
// Each must have at least 32 bytes.
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
		// The key id is public, so it is derived from the key by a one-way function.
		m := hmac.New(sha256.New, secret)
		m.Write([]byte("wx-auth refresh key id"))
		copy(k.id[:], m.Sum(nil))
		ks.keys = append(ks.keys, k)
	}
	return ks, nil
}

// String hides the keys when something prints them.
func (Keys) String() string { return "refresh keys (hidden)" }

// GoString hides the keys from %#v.
func (k Keys) GoString() string { return k.String() }

// RefreshToken returns the session's newest refresh token, the one with its current
// counter. While the same key signs, every call returns the same text. It is empty if
// the session's id was not made by [NewID].
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

// SessionOf returns the id of the session that a refresh token belongs to, or false if
// the MAC is by none of our keys. It does not ask the store: the session may have
// ended, or belong to another issuer.
func (k Keys) SessionOf(refreshToken string) (sessionID string, ok bool) {
	shown, ok := k.open(refreshToken)
	if !ok {
		return "", false
	}
	return shown.id.String(), true
}

// presentedToken is the content of a refresh token whose MAC is good.
type presentedToken struct {
	id      sid
	counter uint64
}

// open reads a refresh token. It returns false for any text that RefreshToken could not have
// written.
func (k Keys) open(token string) (presentedToken, bool) {
	// Check the length first: Go's decoder skips line breaks, so a token with line
	// breaks would be a second spelling.
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
