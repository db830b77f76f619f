package session

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// A token that was written for a session opens to that session and counter.
func TestRefreshTokenOpensAsWritten(t *testing.T) {
	k := testKeys(t)
	s := opened()
	for _, counter := range []uint64{0, 1, 255, 1 << 40, maxCounter} {
		s.Counter = counter
		token := k.RefreshToken(s)
		if token != k.RefreshToken(s) {
			t.Error("the same counter gave two tokens")
		}
		got, ok := k.open(token)
		if !ok || got.id.String() != s.ID || got.counter != counter {
			t.Errorf("counter %d: got %v %d %v", counter, got.id, got.counter, ok)
		}
	}
}

// During a rotation, tokens by the old key keep working, and new tokens are signed by
// the new key.
func TestRefreshTokenKeysRotate(t *testing.T) {
	s := opened()
	older, both, newer := testKeys(t, secret(1)), testKeys(t, secret(2), secret(1)), testKeys(t, secret(2))
	if _, ok := both.open(older.RefreshToken(s)); !ok {
		t.Error("the old key is not accepted")
	}
	if both.RefreshToken(s) != newer.RefreshToken(s) {
		t.Error("the old key signs")
	}
	if _, ok := newer.open(older.RefreshToken(s)); ok {
		t.Error("a key that is gone is accepted")
	}
	if _, ok := (Keys{}).open(newer.RefreshToken(s)); ok || (Keys{}).RefreshToken(s) != "" {
		t.Error("no key is a key")
	}
	for _, bad := range [][][]byte{{}, {nil}, {secret(1)[:31]}, {secret(1), secret(1)[:16]}} {
		if _, err := NewKeys(bad...); err == nil {
			t.Errorf("keys of %d bytes were taken", len(bytes.Join(bad, nil)))
		}
	}
}

// The rate limit counts a login by the session of the refresh token that it carries. If a
// client could make up such tokens, it could spread its logins over as many sessions as it
// likes.
func TestSessionOfARefreshToken(t *testing.T) {
	k, s := testKeys(t), opened()
	token := k.RefreshToken(s)
	if id, ok := k.SessionOf(token); !ok || id != s.ID {
		t.Errorf("got %q, %v, want %q", id, ok, s.ID)
	}
	foreign := testKeys(t, secret(9)).RefreshToken(s)
	for _, bad := range []string{"", "x", token + "A", token[:len(token)-1], foreign, strings.Repeat("A", refreshLen)} {
		if id, ok := k.SessionOf(bad); ok || id != "" {
			t.Errorf("%q is of session %q", bad, id)
		}
	}
}

// A MAC key must not end up in a log through a careless %v.
func TestKeysAreNotPrinted(t *testing.T) {
	k := testKeys(t, []byte("a secret of thirty-two bytes ...."))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, x := range []any{k, &k, Sessions{Keys: k}} {
			out := fmt.Sprintf(verb, x)
			if strings.Contains(out, "a secret") || strings.Contains(out, "97 32 115") || strings.Contains(out, "0x61, 0x20, 0x73") {
				t.Errorf("%s prints the key: %s", verb, out)
			}
		}
	}
}

// An attacker flips any single bit of a token: none of the results may open.
func TestEveryBitOfARefreshTokenCounts(t *testing.T) {
	k := testKeys(t)
	token := k.RefreshToken(opened())
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(raw) * 8 {
		flipped := bytes.Clone(raw)
		flipped[i/8] ^= 1 << (i % 8)
		if _, ok := k.open(base64.RawURLEncoding.EncodeToString(flipped)); ok {
			t.Errorf("bit %d does not matter", i)
		}
	}
	for n := range raw {
		if _, ok := k.open(base64.RawURLEncoding.EncodeToString(raw[:n])); ok {
			t.Errorf("%d bytes are enough", n)
		}
	}
}

// If a token had a second spelling, caches and logs would treat it as another token.
func TestRefreshTokenHasOneSpelling(t *testing.T) {
	k := testKeys(t)
	token := k.RefreshToken(opened())
	// The last character has four unused bits.
	last := strings.IndexByte(alphabet, token[len(token)-1])
	spellings := map[string]string{
		"padding":       token + "==",
		"line break":    token[:40] + "\n" + token[40:],
		"line breaks":   token[:len(token)-2] + "\r\n",
		"space":         token + " ",
		"leading space": " " + token,
		"spare bits":    token[:len(token)-1] + string(alphabet[last|1]),
		"longer":        token + "A",
		"shorter":       token[:len(token)-1],
		"twice":         token + token,
		"NUL":           token + "\x00",
	}
	for name, s := range spellings {
		if _, ok := k.open(s); ok {
			t.Errorf("%s: accepted", name)
		}
	}
	// Standard base64 differs from base64url in these characters.
	for counter := range uint64(64) {
		s := opened()
		s.Counter = counter
		token := k.RefreshToken(s)
		if std := strings.NewReplacer("-", "+", "_", "/").Replace(token); std != token {
			if _, ok := k.open(std); ok {
				t.Error("standard base64: accepted")
			}
		}
	}
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// Whatever bytes a client sends, open never panics, and accepts only what RefreshToken
// writes.
func FuzzRefreshToken(f *testing.F) {
	k := testKeys(f)
	s := opened()
	token := k.RefreshToken(s)
	f.Add(token)
	f.Add("")
	f.Add(token + "=")
	f.Add(token[:41] + "\n" + token[42:])
	f.Add(strings.Repeat("A", refreshLen))
	f.Add(testKeys(f, secret(2)).RefreshToken(s))
	f.Fuzz(func(t *testing.T, shown string) {
		got, ok := k.open(shown)
		if !ok {
			return
		}
		// Whatever opens must be what we would write.
		if again := k.RefreshToken(Session{ID: got.id.String(), Counter: got.counter}); again != shown {
			t.Errorf("%q opened, but we write %q", shown, again)
		}
	})
}
