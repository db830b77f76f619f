package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Secret signs requests. Printing it does not reveal it.
type Secret struct{ key []byte }

const secretPrefix = "whsec_"

// The size of a secret, in bytes (Standard Webhooks, "Symmetric").
const leastSecret, mostSecret = 24, 64

// leastBytes is how many different bytes a secret has. A random one almost never has fewer.
const leastBytes = 8

// ParseSecret parses a secret in the format of Standard Webhooks: "whsec_" and 24 to 64
// bytes in base64. The error does not contain the secret.
func ParseSecret(text string) (Secret, error) {
	const remedy = "write whsec_ and what `openssl rand -base64 32` prints"
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	if !ok {
		return Secret{}, errors.New("a secret begins with whsec_: " + remedy)
	}
	key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(encoded, "="))
	if err != nil {
		return Secret{}, errors.New("the text after whsec_ is not base64: " + remedy)
	}
	if len(key) < leastSecret || len(key) > mostSecret {
		return Secret{}, errors.New("a secret has 24 to 64 bytes: " + remedy)
	}
	different := make(map[byte]bool)
	for _, b := range key {
		different[b] = true
	}
	if len(different) < leastBytes {
		return Secret{}, errors.New("the secret could be guessed: " + remedy)
	}
	return Secret{key}, nil
}

// Equal reports whether two secrets are the same.
func (s Secret) Equal(other Secret) bool { return hmac.Equal(s.key, other.key) }

// String returns a placeholder, so that a secret is not printed by accident.
func (Secret) String() string { return secretPrefix + "*****" }

// GoString returns the same placeholder for %#v.
func (s Secret) GoString() string { return s.String() }

// signatures returns the value of the header webhook-signature: one signature for each
// secret.
func signatures(secrets []Secret, id string, at time.Time, body []byte) string {
	list := make([]string, len(secrets))
	for i, s := range secrets {
		h := hmac.New(sha256.New, s.key)
		h.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
		h.Write(body)
		list[i] = "v1," + base64.StdEncoding.EncodeToString(h.Sum(nil))
	}
	return strings.Join(list, " ")
}

// newID returns a new webhook-id, for a request that only this call repeats.
func newID() string {
	var b [18]byte
	rand.Read(b[:]) // never fails
	return "msg_" + base64.RawURLEncoding.EncodeToString(b[:])
}
