package token

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/lestrrat-go/jwx/v2/jwt"
)

// fuzzSecret is constant, so that the tokens in the corpus stay valid.
const fuzzSecret = "a secret of the fuzz tests, which is long enough"

func fuzzKeys(t testing.TB) *KeySet {
	t.Helper()
	ks, err := StaticKeys(fuzzSecret, HS256)
	if err != nil {
		t.Fatal(err)
	}
	return ks
}

// jwxAccepts verifies a token with jwx, as strictly as jwx can.
func jwxAccepts(ks *KeySet, raw string, p Policy, now time.Time) (jwt.Token, error) {
	k := ks.members[0].key
	token, err := jwt.ParseString(raw,
		jwt.WithKey(k.alg.jwa(), k.public),
		jwt.WithValidate(true),
		jwt.WithClock(jwt.ClockFunc(func() time.Time { return now })),
		jwt.WithAcceptableSkew(p.Leeway),
		jwt.WithIssuer(p.Issuer),
		jwt.WithRequiredClaim("sub"), jwt.WithRequiredClaim("exp"), jwt.WithRequiredClaim("iat"),
		jwt.WithRequiredClaim("sid"), jwt.WithRequiredClaim("client_id"),
		jwt.WithValidator(jwt.ValidatorFunc(func(_ context.Context, t jwt.Token) jwt.ValidationError {
			for _, a := range t.Audience() {
				for _, b := range p.Audience {
					if a == b {
						return nil
					}
				}
			}
			return jwt.ErrInvalidAudience()
		})))
	if err != nil {
		return nil, err
	}
	// The algorithm is compared with the header that the signature covers.
	m, err := jws.ParseString(raw)
	if err == nil && string(m.Signatures()[0].ProtectedHeaders().Algorithm()) != string(k.alg) {
		err = ErrInvalid
	}
	return token, err
}

// agree checks that jwx accepts every token that we accept, and that it reads the same
// claims.
func agree(t *testing.T, ks *KeySet, raw string) {
	t.Helper()
	p := testPolicy()
	c, err := NewVerifier(p, testSeal(t), nil).Verify(ks, raw, t0)
	if err != nil {
		if c != nil || err != ErrInvalid && err != ErrExpired {
			t.Fatalf("%+v, %v", c, err)
		}
		return
	}
	theirs, err := jwxAccepts(ks, raw, p, t0)
	if err != nil {
		t.Fatalf("jwx refuses what we accept: %v\n%s", err, raw)
	}
	private := theirs.PrivateClaims()
	var ours rawClaims
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err != nil || ours.decode(payload) != nil {
		t.Fatalf("verified, but not to be decoded: %q, %v", payload, err)
	}
	for name, pair := range map[string][2]any{
		"iss": {string(ours.text[claimIssuer]), theirs.Issuer()}, "jti": {string(ours.text[claimID]), theirs.JwtID()},
		"iat": {ours.issuedAt, theirs.IssuedAt().Unix()},
		"aud": {string(bytes.Join(ours.audience, []byte{0})), strings.Join(theirs.Audience(), "\x00")},
		"sub": {c.Subject(), theirs.Subject()}, "exp": {c.Expires().Unix(), theirs.Expiration().Unix()},
		"sid": {c.SessionID(), private["sid"]}, "client_id": {c.AppID(), private["client_id"]},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %v and %v\n%s", name, pair[0], pair[1], raw)
		}
	}
	for name, want := range private {
		_, plain := ours.plain[name]
		if !plain && !Reserved(name) {
			t.Errorf("jwx sees the claim %q, we do not\n%s", name, raw)
		}
		if _, isText := want.(string); isText && plain && c.Claim(name) != want && !ours.has(claimSealed) {
			t.Errorf("claim %q: %v and %v\n%s", name, c.Claim(name), want, raw)
		}
	}
}

// FuzzClaims feeds correctly signed payloads to the decoder.
func FuzzClaims(f *testing.F) {
	good, bad := payloads(f)
	for _, list := range []map[string]string{good, bad} {
		for _, p := range list {
			if len(p) < 2000 {
				f.Add(p)
			}
		}
	}
	ks := fuzzKeys(f)
	header := goodHeader(ks)
	f.Fuzz(func(t *testing.T, payload string) {
		var c rawClaims
		if err := c.decode([]byte(payload)); err == nil && !json.Valid([]byte(payload)) {
			t.Errorf("accepted, but no JSON: %q", payload)
		}
		if object, err := decodeObject([]byte(payload)); err == nil {
			again, err := json.Marshal(object)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := decodeObject(again); err != nil {
				t.Errorf("%q was read, but %q is not", payload, again)
			}
		}
		agree(t, ks, sign(t, ks, header, payload))
	})
}

// FuzzVerify feeds whole tokens to the verifier.
func FuzzVerify(f *testing.F) {
	ks := fuzzKeys(f)
	raw := mustMint(f, ks, testClaims())
	f.Add(raw)
	f.Add(sign(f, ks, goodHeader(ks), goodPayload))
	f.Add(sign(f, ks, `{"alg":"none"}`, goodPayload))
	f.Add(strings.Repeat(".", 10))
	f.Add(raw + ".")
	f.Add(raw[:len(raw)-1] + "\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, raw string) {
		ks.Ours(raw)
		ks.NamesUnknownKey(raw)
		agree(t, ks, raw)
		// With a good signature the same segments get past the signature check.
		if parts := strings.Split(raw, "."); len(parts) == 3 {
			agree(t, ks, signSegments(t, ks, parts[0], parts[1]))
			agree(t, ks, signSegments(t, ks, base64.RawURLEncoding.EncodeToString([]byte(goodHeader(ks))), parts[1]))
		}
	})
}

// FuzzKey feeds key material as it may stand in a configuration.
func FuzzKey(f *testing.F) {
	f.Add(fuzzSecret, uint8(3))
	f.Add(`{"kty":"oct","k":"`+b64(fuzzSecret)+`"}`, uint8(3))
	for i, alg := range algorithms[:2] {
		_, jwk, err := generate(alg)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(jwk), uint8(i))
	}
	f.Add("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", uint8(0))
	f.Add(`{"keys":[]}`, uint8(0))
	f.Fuzz(func(t *testing.T, material string, which uint8) {
		alg := algorithms[int(which)%len(algorithms)]
		ks, err := StaticKeys(material, alg)
		if err != nil {
			return
		}
		raw := mustMint(t, ks, testClaims())
		if _, err := NewVerifier(testPolicy(), testSeal(t), nil).Verify(ks, raw, t0); err != nil {
			t.Errorf("a key that was accepted does not verify what it signs: %v", err)
		}
		if strings.Contains(string(ks.JWKS()), `"d"`) || strings.Contains(string(ks.JWKS()), `"k"`) {
			t.Errorf("private members are published: %s", ks.JWKS())
		}
	})
}
