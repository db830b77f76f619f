package token

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"sync"
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
		if len(k) != sealKeySize {
			return nil, fmt.Errorf("a seal's key has %d bytes, not %d", sealKeySize, len(k))
		}
		k = bytes.Clone(k)
		s[i].New = func() any { return &derivation{mac: hmac.New(sha256.New, k)} }
	}
	return s, nil
}

const sealKeySize = 32

// seal has a pool of derivations for each key.
type seal []sync.Pool

// derivation makes the key for one aad, which names a session. GCM's random
// nonces are safe for 2^32 messages under one key: a large site mints as many
// within weeks, a session never does.
type derivation struct {
	mac hash.Hash
	key [sealKeySize]byte
}

var errSeal = errors.New("the seal does not open")

func (s seal) gcm(i int, aad []byte) (cipher.AEAD, error) {
	d := s[i].Get().(*derivation)
	defer s[i].Put(d)
	d.mac.Reset()
	d.mac.Write(aad)
	block, err := aes.NewCipher(d.mac.Sum(d.key[:0]))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (s seal) Seal(aad, plain []byte) ([]byte, error) {
	g, err := s.gcm(0, aad)
	if err != nil {
		return nil, err
	}
	return g.Seal(nil, nil, plain, aad), nil
}

func (s seal) Open(aad, sealed []byte) ([]byte, error) {
	for i := range s {
		g, err := s.gcm(i, aad)
		if err != nil {
			return nil, err
		}
		if plain, err := g.Open(nil, nil, sealed, aad); err == nil {
			return plain, nil
		}
	}
	return nil, errSeal
}
