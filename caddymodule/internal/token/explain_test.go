package token

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// A support desk asks why a token is refused. Each fault has its own answer, and the answer
// for a token without a fault is empty. No answer contains any of the token's signature.
func TestRefusedTokensAreExplained(t *testing.T) {
	ks := testKeys()[ES256]
	raw := mustMint(t, ks, testClaims())
	changed := func(change func(*Claims)) string {
		c := testClaims()
		change(&c)
		return mustMint(t, ks, c)
	}
	dot := strings.LastIndexByte(raw, '.')
	otherSeal, err := NewSeal([]byte(strings.Repeat("o", sealKeySize)))
	if err != nil {
		t.Fatal(err)
	}
	resealed, err := Mint(ks, TypeAccessToken, otherSeal, testClaims())
	if err != nil {
		t.Fatal(err)
	}
	jwt, err := Mint(ks, TypeJWT, testSeal(t), testClaims())
	if err != nil {
		t.Fatal(err)
	}
	for want, token := range map[string]string{
		"":                                 raw,
		"it expired at ":                   changed(func(c *Claims) { c.Expires = t0.Add(-time.Hour); c.IssuedAt = t0.Add(-2 * time.Hour) }),
		"its issuer is \"other\"":          changed(func(c *Claims) { c.Issuer = "other" }),
		"its audience [\"other\"]":         changed(func(c *Claims) { c.Audience = []string{"other"} }),
		"its app \"wxother\"":              changed(func(c *Claims) { c.AppID = "wxother" }),
		"issued in the future":             changed(func(c *Claims) { c.IssuedAt = t0.Add(time.Hour); c.Expires = t0.Add(2 * time.Hour) }),
		"sealed claims do not open":        resealed,
		"its typ is \"JWT\"":               jwt,
		"the signature is not that":        raw[:len(raw)-8] + "AAAAAAAA",
		"the wrong length":                 raw[:len(raw)-4],
		"does not verify tokens here":      mustMint(t, testKeys()[EdDSA], testClaims()),
		"not one that this gateway writes": "e30" + raw[strings.IndexByte(raw, '.'):],
		"a claim is missing":               sign(t, ks, goodHeader(ks), "{}"),
		"more than 8192":                   raw + strings.Repeat("A", MaxSize),
	} {
		got := NewVerifier(testPolicy(), testSeal(t), nil).Explain(ks, token, t0)
		if want == "" && got != "" || !strings.Contains(got, want) || strings.Contains(got, raw[dot+1:dot+20]) {
			t.Errorf("%q instead of %q", got, want)
		}
	}
}

// The command shows what a token says of itself, except what is sealed. It shows nothing of a
// text that is no token.
func TestInspectionShowsNothingSealed(t *testing.T) {
	in, err := Inspect(mustMint(t, testKeys()[ES256], testClaims()))
	if err != nil || !in.Sealed || in.Claims["wx"] != nil || in.Claims["sub"] != testClaims().Subject || in.Header["alg"] != "ES256" {
		t.Errorf("%+v, %v", in, err)
	}
	for _, text := range []string{"", "..", "a.b", "e30.e30", "e30.bnVsbA.", "W10.e30.", "e30.e30.e30.e30"} {
		if _, err := Inspect(text); err != ErrInvalid {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A command that only reads makes no key, even if none is there or the next one is due.
func TestStoredKeysMakesNone(t *testing.T) {
	st := new(memoryStore)
	set := RingSettings{Algorithm: ES256, Rotate: time.Hour, Lifetime: time.Minute}
	if ks, err := StoredKeys(t.Context(), st, set, t0); err != nil || len(ks.IDs()) > 0 {
		t.Errorf("%v, %v", ks.IDs(), err)
	}
	r := NewRing()
	if err := r.Load(t.Context(), st, set, t0); err != nil {
		t.Fatal(err)
	}
	ks, err := StoredKeys(t.Context(), st, set, t0.Add(time.Hour))
	if err != nil || !slices.Equal(ks.IDs(), r.Keys().IDs()) {
		t.Errorf("%v instead of %v, %v", ks.IDs(), r.Keys().IDs(), err)
	}
}
