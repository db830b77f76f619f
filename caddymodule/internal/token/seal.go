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

// Sealer encrypts data that neither the client nor a log may read. The data is bound to
// aad, which is not secret: Open fails unless Seal made the data with the same aad. A
// Sealer is safe for concurrent use.
type Sealer interface {
	Seal(aad, plain []byte) ([]byte, error)
	Open(aad, sealed []byte) ([]byte, error)
}

// NewSeal returns a Sealer (AES-256-GCM) for one or more keys of 32 bytes each. The
// first key seals; every key opens.
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

// derivation derives the encryption key for one aad, which names a session. GCM with
// random nonces is safe for 2^32 messages under one key. A large site mints that many
// tokens within weeks, a session never does.
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
