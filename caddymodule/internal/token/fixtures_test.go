package token

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// t0 is the current time in the tests.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// testKeys returns a key set of each algorithm. Generating an RSA key takes long, so
// each test binary generates its keys once.
var testKeys = sync.OnceValue(func() map[Algorithm]*KeySet {
	sets := make(map[Algorithm]*KeySet)
	for _, alg := range algorithms {
		k, _, err := generate(alg)
		if err != nil {
			panic(err)
		}
		if sets[alg], err = newKeySet([]member{{key: k}}); err != nil {
			panic(err)
		}
	}
	return sets
})

func testSeal(t testing.TB) Sealer {
	t.Helper()
	s, err := NewSeal(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testPolicy() Policy {
	return Policy{Issuer: "wx-auth", Audience: []string{"wx-auth"}, Apps: []string{"wx0000000000000001", "wx0000000000000002"},
		Leeway: 10 * time.Second}
}

func testClaims() Claims {
	return Claims{
		ID: "0197f0a4-7f7c-4c43-8a9a-0d8f1f6f7a01", Issuer: "wx-auth", Audience: []string{"wx-auth"},
		Subject: "0197f0a4-7f7c-7c43-8a9a-0d8f1f6f7a02", SessionID: "0197f0a4-7f7c-7c43-8a9a-0d8f1f6f7a03",
		AppID: "wx0000000000000001", OpenID: "oABCDEFGHIJKLMNOPQRSTUVWXYZ0", UnionID: "uABCDEFGHIJKLMNOPQRSTUVWXYZ0",
		IssuedAt: t0, Expires: t0.Add(time.Hour), Phone: "+8613800138000",
	}
}

func mustMint(t testing.TB, ks *KeySet, c Claims) string {
	t.Helper()
	raw, err := Mint(ks, "", testSeal(t), c)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// sign returns a token with any header and payload, signed with the key of ks.
func sign(t testing.TB, ks *KeySet, header, payload string) string {
	t.Helper()
	return signSegments(t, ks, base64.RawURLEncoding.EncodeToString([]byte(header)),
		base64.RawURLEncoding.EncodeToString([]byte(payload)))
}

func signSegments(t testing.TB, ks *KeySet, header, payload string) string {
	t.Helper()
	k := ks.members[0].key
	sig, err := k.signer.Sign([]byte(header+"."+payload), k.private)
	if err != nil {
		t.Fatal(err)
	}
	return header + "." + payload + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func goodHeader(ks *KeySet) string {
	k := ks.members[0].key
	return string(headerJSON(k.alg, k.id, TypeAccessToken))
}

// goodPayload is a payload as Mint writes it, without the sealed claim.
const goodPayload = `{"iss":"wx-auth","sub":"u1","aud":"wx-auth","exp":1772370000,"iat":1772366400,"jti":"j1",` +
	`"client_id":"wx0000000000000001","sid":"s1","openid":"o1"}`

// with replaces a part of the good payload.
func with(t testing.TB, old, new string) string {
	t.Helper()
	if strings.Count(goodPayload, old) != 1 {
		t.Fatalf("%q is not once in the payload", old)
	}
	return strings.Replace(goodPayload, old, new, 1)
}

// memoryStore is a key store that several replicas share.
type memoryStore struct {
	mu   sync.Mutex
	keys map[string]StoredKey
	fail error
	// beforeAdd runs at the next AddKey, before the key is looked at.
	beforeAdd func()
}

func (m *memoryStore) Keys(context.Context) ([]StoredKey, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.keys)), m.fail
}

func (m *memoryStore) AddKey(_ context.Context, k StoredKey) (bool, error) {
	m.mu.Lock()
	if f := m.beforeAdd; f != nil {
		m.beforeAdd = nil
		m.mu.Unlock()
		f()
		m.mu.Lock()
	}
	defer m.mu.Unlock()
	if m.fail != nil {
		return false, m.fail
	}
	for _, other := range m.keys {
		if other.Algorithm == k.Algorithm && other.Generation == k.Generation {
			return false, nil
		}
	}
	if m.keys == nil {
		m.keys = make(map[string]StoredKey)
	}
	m.keys[k.ID] = k
	return true, nil
}

func (m *memoryStore) RemoveKeys(_ context.Context, ids []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		delete(m.keys, id)
	}
	return m.fail
}

var errStore = errors.New("the store is away")
