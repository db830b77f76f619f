package caddymodule

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
)

const (
	// leastServiceKey is what `openssl rand -hex 16` prints, and leastCharacters
	// what hardly any random key of that length falls below.
	leastServiceKey = 32
	leastCharacters = 8
	mostServiceKey  = 512
)

// serviceKey is what the backend shows: its hash, so that to compare takes the
// same time for keys of any length.
type serviceKey [sha256.Size]byte

func (k *serviceKey) is(shown string) bool {
	sum := sha256.Sum256([]byte(shown))
	return subtle.ConstantTimeCompare(k[:], sum[:]) == 1
}

// resolveService is about service_key.
func (s *settings) resolveService(h *Handler, look lookup) error {
	if h.ServiceKey == "" {
		return nil
	}
	key, known, err := look(h.ServiceKey, syntax{})
	if err != nil || !known {
		return misset("service_key", err)
	}
	if err := s.checkServiceKey(key); err != nil {
		return misset("service_key", err)
	}
	sum := serviceKey(sha256.Sum256([]byte(key)))
	s.Service = &sum
	return nil
}

// checkServiceKey refuses what could be guessed, cannot be in a header, or is
// known to others. Errors hold no part of the key.
func (s *settings) checkServiceKey(key string) error {
	characters := make(map[byte]bool)
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return errors.New("the key holds a space, a line break or another character that no header can carry: use what `openssl rand -hex 32` prints")
		}
		characters[key[i]] = true
	}
	if len(key) < leastServiceKey || len(key) > mostServiceKey || len(characters) < leastCharacters {
		return fmt.Errorf("the key could be guessed: use %d to %d random characters, such as `openssl rand -hex 32` prints", leastServiceKey, mostServiceKey)
	}
	for _, a := range s.Apps {
		if a.Secret == key {
			return errors.New("the key is an AppSecret, which others have: use a key of its own, such as `openssl rand -hex 32` prints")
		}
	}
	return nil
}
