package token

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestMintedTokenSaysWhatItWasGiven mints a token with every claim, in every algorithm
// and type, and verifies it: the identity has the same claims, and a site that expects
// the other type refuses the token.
func TestMintedTokenSaysWhatItWasGiven(t *testing.T) {
	for _, alg := range algorithms {
		for _, typ := range []string{TypeAccessToken, TypeJWT} {
			t.Run(string(alg)+" "+typ, func(t *testing.T) {
				ks, c := testKeys()[alg], testClaims()
				c.Audience = []string{"api", "wx-auth"}
				c.OpenID = "o\"\\\n\x01é漢😀<&>"
				c.Extra = map[string]any{"roles": []any{"admin", "<\"é\\u2028>"}, "level": 3, "none": nil}
				c.Plain = map[string]any{"phone_number": "+8613800138000", "tenant": map[string]any{"id": 12.5}}
				c.AuthTime = t0.Add(-time.Hour)
				raw, err := Mint(ks, typ, testSeal(t), c)
				if err != nil {
					t.Fatal(err)
				}
				p := testPolicy()
				p.Type = typ
				got, err := NewVerifier(p, testSeal(t), nil).Verify(ks, raw, t0)
				if err != nil {
					t.Fatal(err)
				}
				c.Extra = map[string]any{"roles": []any{"admin", "<\"é\\u2028>"}, "level": json.Number("3"), "none": nil}
				c.Plain = map[string]any{"phone_number": "+8613800138000", "tenant": map[string]any{"id": json.Number("12.5")}}
				if want := c.Identity(); !reflect.DeepEqual(*got, want) {
					t.Errorf("got  %+v\nwant %+v", *got, want)
				}
				if !got.Expires().Equal(c.Expires) {
					t.Errorf("expires %s, want %s", got.Expires(), c.Expires)
				}
				for _, pair := range [][2]any{{got.Subject(), c.Subject}, {got.SessionID(), c.SessionID}, {got.AppID(), c.AppID}, {got.OpenID(), c.OpenID},
					{got.UnionID(), c.UnionID}, {got.AuthTime(), c.AuthTime}, {got.Phone(), c.Phone}, {got.Claim("roles"), c.Extra["roles"]}, {got.Claim("tenant"), c.Plain["tenant"]}, {got.Claim("no"), nil}} {
					if !reflect.DeepEqual(pair[0], pair[1]) {
						t.Errorf("got %v, want %v", pair[0], pair[1])
					}
				}
				header, _, _ := strings.Cut(raw, ".")
				decoded, _ := base64.RawURLEncoding.DecodeString(header)
				if want := `{"alg":"` + string(alg) + `","kid":"` + ks.members[0].id + `","typ":"` + typ + `"}`; string(decoded) != want {
					t.Errorf("header %s, want %s", decoded, want)
				}
				if !ks.Ours(raw) {
					t.Error("our token is not recognized as ours")
				}
				other := TypeJWT
				if typ == TypeJWT {
					other = TypeAccessToken
				}
				p.Type = other
				if _, err := NewVerifier(p, testSeal(t), nil).Verify(ks, raw, t0); err != ErrInvalid {
					t.Errorf("a token of another type: %v", err)
				}
			})
		}
	}
}

// TestPersonalDataIsNotReadableInAToken decodes a token as everybody who holds it can: neither
// the phone number nor the directory's claims are readable.
func TestPersonalDataIsNotReadableInAToken(t *testing.T) {
	c := testClaims()
	c.Extra = map[string]any{"role": "chieftain"}
	_, rest, _ := strings.Cut(mustMint(t, testKeys()[ES256], c), ".")
	payload, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"13800138000", "chieftain", "role", "phone"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("%q is in the payload %s", secret, text)
		}
	}
	if !strings.Contains(string(text), `"wx":"`) {
		t.Errorf("no sealed claim in %s", text)
	}
}

// TestTimesAreCheckedWithLeeway verifies tokens at the edges of exp, iat and nbf, with
// a cache and without. A token with a second fault is invalid rather than expired.
func TestTimesAreCheckedWithLeeway(t *testing.T) {
	ks := testKeys()[ES256]
	exp, iat := time.Unix(1772370000, 0), time.Unix(1772366400, 0)
	for name, c := range map[string]struct {
		payload string
		now     time.Time
		want    error
	}{
		"fresh":                 {goodPayload, iat, nil},
		"last moment":           {goodPayload, exp.Add(10*time.Second - 1), nil},
		"expired":               {goodPayload, exp.Add(10 * time.Second), ErrExpired},
		"clock behind":          {goodPayload, iat.Add(-10 * time.Second), nil},
		"issued in the future":  {goodPayload, iat.Add(-11 * time.Second), ErrInvalid},
		"nbf passed":            {with(t, `"jti"`, `"nbf":1772366400,"jti"`), iat, nil},
		"nbf to come":           {with(t, `"jti"`, `"nbf":1772366411,"jti"`), iat, ErrInvalid},
		"nbf to come, expired":  {with(t, `"jti"`, `"nbf":1782366411,"jti"`), exp.Add(time.Hour), ErrInvalid},
		"expired, wrong issuer": {with(t, `"iss":"wx-auth"`, `"iss":"x"`), exp.Add(time.Hour), ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			for _, cache := range []*Cache{nil, NewCache(100)} {
				v := NewVerifier(testPolicy(), testSeal(t), cache)
				raw := sign(t, ks, goodHeader(ks), c.payload)
				for range 2 {
					if _, err := v.Verify(ks, raw, c.now); err != c.want {
						t.Errorf("got %v, want %v", err, c.want)
					}
				}
				_, err := v.VerifyExpired(ks, raw, c.now)
				if want := c.want; (want == ErrExpired && err != nil) || (want != ErrExpired && err != want) {
					t.Errorf("VerifyExpired: %v", err)
				}
			}
		})
	}
}

// TestSealIsBoundToIssuerUserAndSession opens a seal with other issuers, users and sessions.
// Some of these concatenate to the same text. It also opens the seal with each byte changed.
func TestSealIsBoundToIssuerUserAndSession(t *testing.T) {
	seal := testSeal(t)
	sealed, err := seal.Seal(appendAAD(nil, "iss", "sub", "sid"), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := seal.Open(appendAAD(nil, "iss", "sub", "sid"), sealed); err != nil || string(plain) != "x" {
		t.Fatalf("%q, %v", plain, err)
	}
	for _, aad := range [][]string{{"isssub", "", "sid"}, {"iss", "subsid", ""}, {"iss", "sub", "sid2"}, {"is", "ssub", "sid"}, {}} {
		if _, err := seal.Open(appendAAD(nil, aad...), sealed); err == nil {
			t.Errorf("the seal opens for %q", aad)
		}
	}
	for i := range sealed {
		bad := append([]byte(nil), sealed...)
		bad[i] ^= 1
		if _, err := seal.Open(appendAAD(nil, "iss", "sub", "sid"), bad); err == nil {
			t.Errorf("the seal opens with byte %d changed", i)
		}
	}
	if again, _ := seal.Seal(appendAAD(nil, "iss", "sub", "sid"), []byte("x")); string(again) == string(sealed) {
		t.Error("two seals of one text are equal")
	}
}

// TestSealOpensWithFormerKeys rotates the encryption key: data sealed with the former
// key opens, and new data is sealed with the new key alone.
func TestSealOpensWithFormerKeys(t *testing.T) {
	a, b := make([]byte, 32), append(make([]byte, 31), 1)
	old, _ := NewSeal(a)
	both, _ := NewSeal(b, a)
	only, _ := NewSeal(b)
	sealed, _ := old.Seal(nil, []byte("x"))
	if _, err := both.Open(nil, sealed); err != nil {
		t.Error(err)
	}
	if _, err := only.Open(nil, sealed); err == nil {
		t.Error("opened with another key")
	}
	sealed, _ = both.Seal(nil, []byte("x"))
	if _, err := only.Open(nil, sealed); err != nil {
		t.Error("the first key does not seal")
	}
	for _, keys := range [][][]byte{{}, {make([]byte, 31)}, {a, nil}} {
		if _, err := NewSeal(keys...); err == nil {
			t.Errorf("keys of %d are taken", keys)
		}
	}
}

// TestMintRefusesWhatWouldNotVerify mints claims that verification would refuse, such
// as a plain claim named "Sub". Minting must fail at once, rather than let a login end
// with a token that never works.
func TestMintRefusesWhatWouldNotVerify(t *testing.T) {
	deep := any("x")
	for range 20 {
		deep = []any{deep}
	}
	for name, change := range map[string]func(*Claims){
		"no issuer":          func(c *Claims) { c.Issuer = "" },
		"no subject":         func(c *Claims) { c.Subject = "" },
		"no app":             func(c *Claims) { c.AppID = "" },
		"no session":         func(c *Claims) { c.SessionID = "" },
		"no audience":        func(c *Claims) { c.Audience = nil },
		"empty audience":     func(c *Claims) { c.Audience = []string{""} },
		"no time":            func(c *Claims) { c.Expires = time.Time{} },
		"expires at once":    func(c *Claims) { c.Expires = c.IssuedAt },
		"auth before 1970":   func(c *Claims) { c.AuthTime = time.Unix(-1, 0) },
		"far future":         func(c *Claims) { c.Expires = time.Unix(maxUnixTime+1, 0) },
		"broken UTF-8":       func(c *Claims) { c.Subject = "\xff" },
		"ours in plain":      func(c *Claims) { c.Plain = map[string]any{"sub": "root"} },
		"ours in other case": func(c *Claims) { c.Plain = map[string]any{"Sub": "root"} },
		"Kelvin sign":        func(c *Claims) { c.Plain = map[string]any{"\u017fub": "root"} },
		"no JSON":            func(c *Claims) { c.Plain = map[string]any{"f": func() {}} },
		"deep":               func(c *Claims) { c.Plain = map[string]any{"d": deep} },
		"deep, sealed":       func(c *Claims) { c.Extra = map[string]any{"d": deep} },
		"too large":          func(c *Claims) { c.Extra = map[string]any{"d": strings.Repeat("x", 8000)} },
	} {
		t.Run(name, func(t *testing.T) {
			c := testClaims()
			change(&c)
			raw, err := Mint(testKeys()[ES256], "", testSeal(t), c)
			if err == nil {
				t.Errorf("minted %s", raw)
			}
			if (name == "too large") != errors.Is(err, ErrTooLarge) {
				t.Errorf("error %v", err)
			}
		})
	}
	if _, err := Mint(nil, "", testSeal(t), testClaims()); !errors.Is(err, ErrNoKey) {
		t.Errorf("without keys: %v", err)
	}
	if _, err := Mint(testKeys()[ES256], "jwt", testSeal(t), testClaims()); err == nil {
		t.Error("minted a token of an unknown type")
	}
	if _, err := Mint(testKeys()[ES256], "", nil, testClaims()); err == nil {
		t.Error("minted without a seal")
	}
}

// TestMintedTokensDiffer mints the same claims twice: each token has its own jti.
func TestMintedTokensDiffer(t *testing.T) {
	c := testClaims()
	c.ID = ""
	if a, b := mustMint(t, testKeys()[HS256], c), mustMint(t, testKeys()[HS256], c); a == b {
		t.Error("two tokens have one id")
	}
}

// TestOursLooksAtTheHeaderOnly checks that a token is recognized as ours by its header alone.
// A gateway in front of another API can so pass that API's tokens on and refuse forged ones.
func TestOursLooksAtTheHeaderOnly(t *testing.T) {
	ks := testKeys()[ES256]
	raw := mustMint(t, ks, testClaims())
	header, _, _ := strings.Cut(raw, ".")
	for raw, want := range map[string]bool{
		raw: true, header + ".": true, header + ".x.y.z": true,
		header: false, "": false, ".": false, "x." + raw: false, header + "A.x.y": false,
		strings.ToLower(raw): false, header[1:] + ".": false, strings.Repeat("A", 9000): false,
		mustMint(t, testKeys()[EdDSA], testClaims()): false,
	} {
		if got := ks.Ours(raw); got != want {
			t.Errorf("Ours(%.40s…) = %v", raw, got)
		}
	}
	var none *KeySet
	if none.Ours(raw) || string(none.JWKS()) != `{"keys":[]}` {
		t.Error("no key set has keys")
	}
}

// TestTokenOfAnUnknownKeyIsFound presents a token that another replica signed with a
// newer key. It is a reason to load the key ring; malformed headers are not, or garbage
// would cause database reads.
func TestTokenOfAnUnknownKeyIsFound(t *testing.T) {
	ks := testKeys()[ES256]
	enc := base64.RawURLEncoding.EncodeToString
	for raw, want := range map[string]bool{
		mustMint(t, ks, testClaims()):                                    false,
		mustMint(t, testKeys()[EdDSA], testClaims()):                     true,
		mustMint(t, testKeys()[HS256], testClaims()):                     true,
		enc([]byte(`{"alg":"none"}`)) + ".x.y":                           false,
		enc(headerJSON("none", strings.Repeat("A", 43), "JWT")) + ".x.y": false,
		enc(headerJSON(ES256, "short", "JWT")) + ".x.y":                  false,
		enc(headerJSON(ES256, strings.Repeat("A", 43), "x")) + ".x.y":    false,
		"": false, "x": false, ".": false, strings.Repeat(".", 300): false, strings.Repeat("A", 300) + ".": false,
	} {
		if got := ks.NamesUnknownKey(raw); got != want {
			t.Errorf("NamesUnknownKey(%.60s…) = %v", raw, got)
		}
	}
	var none *KeySet
	if !none.NamesUnknownKey(mustMint(t, ks, testClaims())) {
		t.Error("without a key set, every key is unknown")
	}
}
