package token

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
)

// Sealer encrypts what neither the client nor a log may read, bound to aad,
// which is not secret. Open refuses whatever Seal did not make of the same aad.
// It is safe for concurrent use.
type Sealer interface {
	Seal(aad, plain []byte) ([]byte, error)
	Open(aad, sealed []byte) ([]byte, error)
}

// NewSeal makes a Sealer of one or more keys of 32 bytes each: AES-256-GCM. The
// first key seals, all of them open.
func NewSeal(keys ...[]byte) (Sealer, error) {
	if len(keys) == 0 {
		return nil, errors.New("a seal needs a key")
	}
	s := make(seal, len(keys))
	for i, k := range keys {
		if len(k) != len(s[i]) {
			return nil, fmt.Errorf("a seal's key has %d bytes, not %d", len(s[i]), len(k))
		}
		copy(s[i][:], k)
	}
	return s, nil
}

type seal [][32]byte

var errSeal = errors.New("the seal does not open")

// gcm derives the key from the aad, which names a session. GCM's random nonces
// are safe for 2^32 messages under one key: a large site mints as many within
// weeks, a session never does.
func gcm(key *[32]byte, aad []byte) (cipher.AEAD, error) {
	m := hmac.New(sha256.New, key[:])
	m.Write(aad)
	var derived [32]byte
	block, err := aes.NewCipher(m.Sum(derived[:0]))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (s seal) Seal(aad, plain []byte) ([]byte, error) {
	g, err := gcm(&s[0], aad)
	if err != nil {
		return nil, err
	}
	return g.Seal(nil, nil, plain, aad), nil
}

func (s seal) Open(aad, sealed []byte) ([]byte, error) {
	for i := range s {
		g, err := gcm(&s[i], aad)
		if err != nil {
			return nil, err
		}
		if plain, err := g.Open(nil, nil, sealed, aad); err == nil {
			return plain, nil
		}
	}
	return nil, errSeal
}
