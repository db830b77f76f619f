package store

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Keys are the keys derived from one configuration's encryption keys. Keys derived from the newest
// encryption key seal and sign. Keys derived from older ones still open and verify. Printing Keys
// reveals nothing.
type Keys struct {
	keys   []derived // newest first
	former []derived // what the database has retained of keys that are no longer configured, see Rekey
}

// derived holds the keys derived from one encryption key by HKDF-SHA256, each for one purpose.
type derived struct {
	id         [4]byte     // identifies the key that sealed a value; not secret
	atRest     cipher.AEAD // seals values in the database
	phoneIndex []byte      // HMAC-SHA256 of phone numbers
	refreshMAC []byte
	claimSeal  []byte
}

// encryptionKeySize is the size of an encryption key in bytes.
const encryptionKeySize = 32

// ParseKeys derives keys from encryption keys, each 32 bytes in base64. Its errors do not contain
// the keys.
func ParseKeys(newest string, old ...string) (*Keys, error) {
	k := &Keys{}
	for i, text := range append([]string{newest}, old...) {
		which := "the encryption key"
		if i > 0 {
			which = fmt.Sprintf("old encryption key %d", i)
		}
		raw, err := decodeKey(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", which, err)
		}
		d, err := derive(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", which, err)
		}
		for _, other := range k.keys {
			if other.id == d.id {
				return nil, fmt.Errorf("%s is given twice", which)
			}
		}
		k.keys = append(k.keys, d)
	}
	return k, nil
}

// decodeKey accepts standard and URL-safe base64, with or without padding.
func decodeKey(text string) ([]byte, error) {
	text = strings.TrimRight(strings.TrimSpace(text), "=")
	text = strings.NewReplacer("-", "+", "_", "/").Replace(text)
	raw, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != encryptionKeySize {
		return nil, errors.New("use 32 bytes in base64, as `openssl rand -base64 32` prints them")
	}
	if bytes.Count(raw, raw[:1]) == len(raw) {
		return nil, errors.New("all its bytes are the same; use `openssl rand -base64 32`")
	}
	return raw, nil
}

func derive(raw []byte) (d derived, err error) {
	key := func(purpose string, size int) []byte {
		k, e := hkdf.Key(sha256.New, raw, nil, "caddy-wx-auth/1 "+purpose, size)
		err = errors.Join(err, e)
		return k
	}
	copy(d.id[:], key("key id", len(d.id)))
	d.phoneIndex = key("phone index", 32)
	d.refreshMAC = key("refresh mac", 32)
	d.claimSeal = key("claim seal", 32)
	atRest := key("seal at rest", 32)
	if err != nil {
		return d, err
	}
	block, err := aes.NewCipher(atRest)
	if err != nil {
		return d, err
	}
	d.atRest, err = cipher.NewGCMWithRandomNonce(block)
	return d, err
}

// generateKey returns a new encryption key as text.
func generateKey() string {
	raw := make([]byte, encryptionKeySize)
	rand.Read(raw) // never fails
	return base64.StdEncoding.EncodeToString(raw)
}

// Equal reports whether both hold the same keys in the same order. nil equals only nil.
func (k *Keys) Equal(other *Keys) bool {
	if k == nil || other == nil {
		return k == other
	}
	return slices.EqualFunc(k.keys, other.keys, func(a, b derived) bool { return a.id == b.id })
}

// RefreshMAC returns the keys for the MACs of refresh tokens, 32 bytes each, newest first.
func (k *Keys) RefreshMAC() [][]byte {
	return k.withFormer(func(d derived) []byte { return d.refreshMAC })
}

// ClaimSeal returns the keys that seal personal claims in tokens, 32 bytes each, newest first.
func (k *Keys) ClaimSeal() [][]byte {
	return k.withFormer(func(d derived) []byte { return d.claimSeal })
}

// withFormer returns the configured keys and the stored former ones, each once.
func (k *Keys) withFormer(of func(derived) []byte) [][]byte {
	out := k.each(of)
	for _, d := range k.former {
		if !slices.ContainsFunc(out, func(known []byte) bool { return bytes.Equal(known, of(d)) }) {
			out = append(out, bytes.Clone(of(d)))
		}
	}
	return out
}

func (k *Keys) each(of func(derived) []byte) [][]byte {
	out := make([][]byte, len(k.keys))
	for i, d := range k.keys {
		out[i] = bytes.Clone(of(d))
	}
	return out
}

// phoneHashes returns the index entries of a phone number, one for each key, newest first.
func (k *Keys) phoneHashes(e164 string) [][]byte {
	return k.each(func(d derived) []byte {
		mac := hmac.New(sha256.New, d.phoneIndex)
		mac.Write([]byte(e164))
		return mac.Sum(nil)
	})
}

// String and GoString keep keys out of logs.
func (k *Keys) String() string   { return "store.Keys(hidden)" }
func (k *Keys) GoString() string { return "store.Keys(hidden)" }
