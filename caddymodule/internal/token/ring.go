package token

import (
	"context"
	"time"
)

// StoredKey is a signing key as the key store keeps it. The store seals Private.
type StoredKey struct {
	ID         string    // kid
	Algorithm  Algorithm //
	Private    []byte    // the private key as a JWK, JSON
	Generation int64     // 1, 2, … for each algorithm; (Algorithm, Generation) is unique
	CreatedAt  time.Time // when it was stored, and so published
	SignsFrom  time.Time // it signs no token before
	RetiredAt  time.Time // it signs no token from then on; zero: not retired
}

// KeyStore is where a ring's keys are kept.
type KeyStore interface {
	// Keys returns all keys, in any order.
	Keys(ctx context.Context) ([]StoredKey, error)
	// AddKey stores a key, unless there is one of the same algorithm and
	// generation already: another replica was quicker, and added is false.
	AddKey(ctx context.Context, k StoredKey) (added bool, err error)
	// RemoveKeys deletes keys by id. Ids that are unknown are no error.
	RemoveKeys(ctx context.Context, ids []string) error
}

// RingSettings is what a configuration says of generated keys.
type RingSettings struct {
	Algorithm Algorithm     // of the key that signs
	Rotate    time.Duration // how long a key signs; 0: for ever
	Lifetime  time.Duration // of the tokens
	Leeway    time.Duration // that their verification allows
}

// Ring is the generated keys of a store, kept over reloads. It is safe for
// concurrent use.
type Ring struct{}

// NewRing makes a ring that has no keys until it is loaded.
func NewRing() *Ring { return &Ring{} }

// Load reads the keys, makes and stores the first or the next one where it is
// due, removes those whose tokens have all expired, and publishes the result.
// After an error the former keys stay.
func (r *Ring) Load(ctx context.Context, st KeyStore, set RingSettings, now time.Time) error { return nil }

// Keys returns the keys of the last Load that succeeded; nil before it.
func (r *Ring) Keys() *KeySet { return nil }

// LoadedAt is the time of the last Load that succeeded; zero before it.
func (r *Ring) LoadedAt() time.Time { return time.Time{} }
