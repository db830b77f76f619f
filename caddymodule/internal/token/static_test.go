package token

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
)

func pemOf(t *testing.T, kind string, der []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pkcs8(t *testing.T, k any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	return pemOf(t, "PRIVATE KEY", der, err)
}

// edit changes members of a JWK. A nil value removes the member.
func edit(t *testing.T, jwk []byte, changes map[string]any) string {
	t.Helper()
	m := map[string]any{}
	if err := json.Unmarshal(jwk, &m); err != nil {
		t.Fatal(err)
	}
	for name, v := range changes {
		if m[name] = v; v == nil {
			delete(m, name)
		}
	}
	return string(mustJSON(t, m))
}

// TestStaticKeys loads keys in each form that operators paste into a configuration, and
// each wrong form: weak, public, encrypted, truncated, of another kind. The error must
// name the remedy and must not contain the key.
func TestStaticKeys(t *testing.T) {
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ec2, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	edPub, ed, _ := ed25519.GenerateKey(rand.Reader)
	x25519, _ := ecdh.X25519().GenerateKey(rand.Reader)
	big2048 := testKeys()[RS256].members[0].private.(*rsa.PrivateKey)
	t.Setenv("GODEBUG", "rsa1024min=0")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	ecPEM := pemOf(t, "EC PRIVATE KEY", ecDER, nil)
	pubDER, err := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	pubPEM := pemOf(t, "PUBLIC KEY", pubDER, err)
	_, ecJWK, _ := generate(ES256)
	_, edJWK, _ := generate(EdDSA)
	_, rsaJWK, _ := generate(RS256)
	_, octJWK, _ := generate(HS256)
	secret := "0123456789abcdef0123456789ABCDEF"
	e1 := *big2048
	e1.E = 1

	for name, c := range map[string]struct {
		material string
		alg      Algorithm
		remedy   string // a part of the error; empty: accepted
	}{
		"PKCS 8 EC":              {pkcs8(t, ec), ES256, ""},
		"SEC 1":                  {ecPEM, ES256, ""},
		"openssl ecparam":        {"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + ecPEM, ES256, ""},
		"white space around":     {"\n  " + pkcs8(t, ec) + "\n\n", ES256, ""},
		"PKCS 8 Ed25519":         {pkcs8(t, ed), EdDSA, ""},
		"PKCS 8 RSA":             {pkcs8(t, big2048), RS256, ""},
		"PKCS 1":                 {pemOf(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(big2048), nil), RS256, ""},
		"JWK EC":                 {string(ecJWK), ES256, ""},
		"JWK EC, bare":           {edit(t, ecJWK, map[string]any{"kid": nil, "alg": nil, "use": nil}), ES256, ""},
		"JWK Ed25519":            {string(edJWK), EdDSA, ""},
		"JWK RSA":                {string(rsaJWK), RS256, ""},
		"JWK oct":                {string(octJWK), HS256, ""},
		"JWK key_ops":            {edit(t, ecJWK, map[string]any{"key_ops": []string{"verify", "sign"}, "use": nil}), ES256, ""},
		"secret":                 {secret, HS256, ""},
		"secret like JSON":       {"{" + secret, HS256, ""},
		"secret that is JSON":    {`{"a":"` + secret + `"}`, HS256, ""},
		"secret of spaces":       {secret + "\n", HS256, ""},
		"empty":                  {"", ES256, "empty"},
		"blank":                  {" \n", HS256, "empty"},
		"unknown algorithm":      {secret, "none", "unknown algorithm"},
		"short secret":           {secret[:31], HS256, "openssl rand"},
		"one byte":               {strings.Repeat("a", 64), HS256, "openssl rand"},
		"secret for ES256":       {secret, ES256, "private key"},
		"short secret, JWK":      {`{"kty":"oct","k":"AAECAwQF"}`, HS256, "too short"},
		"no secret, JWK":         {`{"kty":"oct","k":""}`, HS256, "too short"},
		"one byte, JWK":          {`{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`, HS256, "repeats"},
		"public PEM as secret":   {pubPEM, HS256, "not a key in PEM"},
		"private PEM as secret":  {ecPEM, HS256, "not a key in PEM"},
		"public PEM":             {pubPEM, ES256, "public key"},
		"certificate":            {pemOf(t, "CERTIFICATE", pubDER, nil), ES256, "public key"},
		"public JWK":             {edit(t, ecJWK, map[string]any{"d": nil}), ES256, "public key"},
		"public RSA JWK":         {edit(t, rsaJWK, map[string]any{"d": nil}), RS256, "public key"},
		"public Ed25519 JWK":     {edit(t, edJWK, map[string]any{"d": nil}), EdDSA, "public key"},
		"encrypted":              {pemOf(t, "ENCRYPTED PRIVATE KEY", ecDER, nil), ES256, "decrypt it"},
		"encrypted, old":         {"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n", ES256, "decrypt it"},
		"openssh":                {pemOf(t, "OPENSSH PRIVATE KEY", ecDER, nil), ES256, "convert it"},
		"wrong label":            {pemOf(t, "PRIVATE KEY", ecDER, nil), ES256, "is it whole"},
		"P-384":                  {pkcs8(t, p384), ES256, "P-256"},
		"X25519":                 {pkcs8(t, x25519), EdDSA, "of this kind"},
		"EC for RS256":           {pkcs8(t, ec), RS256, "set algorithm ES256"},
		"RSA for ES256":          {pkcs8(t, big2048), ES256, "set algorithm RS256"},
		"Ed25519 for ES256":      {pkcs8(t, ed), ES256, "set algorithm EdDSA"},
		"RSA 1024":               {pkcs8(t, weak), RS256, "below 2048"},
		"two keys":               {pkcs8(t, ec) + pkcs8(t, ec2), ES256, "alone"},
		"text behind":            {pkcs8(t, ec) + "x", ES256, "alone"},
		"lost line breaks":       {strings.ReplaceAll(pkcs8(t, ec), "\n", " "), ES256, "line breaks"},
		"cut off":                {pkcs8(t, ec)[:80], ES256, "line breaks"},
		"trailing DER":           {pemOf(t, "EC PRIVATE KEY", append(ecDER[:len(ecDER):len(ecDER)], 0), nil), ES256, "trailing"},
		"no DER":                 {pemOf(t, "PRIVATE KEY", []byte("xyz"), nil), ES256, "DER"},
		"JWK set":                {`{"keys":[` + string(ecJWK) + `]}`, ES256, "set of keys"},
		"JWK enc":                {edit(t, ecJWK, map[string]any{"use": "enc"}), ES256, "do not sign"},
		"JWK enc, RSA":           {edit(t, rsaJWK, map[string]any{"use": "enc"}), RS256, "do not sign"},
		"JWK key_ops verify":     {edit(t, ecJWK, map[string]any{"key_ops": []string{"verify"}}), ES256, "key_ops"},
		"JWK alg":                {edit(t, rsaJWK, map[string]any{"alg": "PS256"}), RS256, `"alg"`},
		"JWK alg of another key": {edit(t, octJWK, map[string]any{"alg": "A256GCM"}), HS256, `"alg"`},
		"JWK kty":                {edit(t, ecJWK, map[string]any{"kty": "RSA"}), ES256, "kty"},
		"JWK for another alg":    {edit(t, ecJWK, map[string]any{"alg": nil}), RS256, "kty"},
		"JWK crv":                {edit(t, ecJWK, map[string]any{"crv": "P-384"}), ES256, "crv"},
		"JWK X25519":             {edit(t, edJWK, map[string]any{"crv": "X25519"}), EdDSA, "crv"},
		"JWK y":                  {edit(t, ecJWK, map[string]any{"y": b64(strings.Repeat("\x01", 32))}), ES256, "belong together"},
		"JWK other d":            {edit(t, ecJWK, map[string]any{"d": b64(strings.Repeat("\x01", 32))}), ES256, "belong together"},
		"JWK other x, Ed25519":   {edit(t, edJWK, map[string]any{"x": b64(string(edPub))}), EdDSA, "belong together"},
		"JWK no primes":          {edit(t, rsaJWK, map[string]any{"p": nil, "q": nil, "dp": nil, "dq": nil, "qi": nil}), RS256, "primes"},
		"JWK e=1":                {edit(t, rsaJWK, map[string]any{"e": "AQ"}), RS256, "exponent 1"},
		"JWK e even":             {edit(t, rsaJWK, map[string]any{"e": "AQAA"}), RS256, "exponent 65536"},
		"JWK other e":            {edit(t, rsaJWK, map[string]any{"e": "Aw"}), RS256, "belong together"},
		"JWK other n":            {edit(t, rsaJWK, map[string]any{"n": b64(new(big.Int).Add(big2048.N, big.NewInt(2)).String())}), RS256, "belong together"},
		"JWK twice a member":     {strings.Replace(string(ecJWK), "{", `{"kty":"EC",`, 1), ES256, "duplicate"},
		"JWK trailing":           {string(ecJWK) + "{}", ES256, "trailing"},
		"JWK d null":             {strings.Replace(edit(t, ecJWK, map[string]any{"d": "DDD"}), `"DDD"`, `null`, 1), ES256, "public key"},
		"JWK d no base64":        {edit(t, ecJWK, map[string]any{"d": "!!!"}), ES256, "JWK"},
	} {
		t.Run(name, func(t *testing.T) {
			ks, err := StaticKeys(c.material, c.alg)
			if c.remedy != "" {
				if err == nil || !strings.Contains(err.Error(), c.remedy) {
					t.Fatalf("got %v, want an error with %q", err, c.remedy)
				}
				if len(c.material) > 24 {
					for i := 0; i+24 < len(c.material); i += 8 {
						if strings.Contains(err.Error(), c.material[i:i+24]) {
							t.Errorf("the error holds the key: %v", err)
						}
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			raw := mustMint(t, ks, testClaims())
			if _, err := NewVerifier(testPolicy(), testSeal(t), nil).Verify(ks, raw, t0); err != nil {
				t.Error(err)
			}
			again, err := StaticKeys(c.material, c.alg)
			if err != nil || again.members[0].id != ks.members[0].id {
				t.Error("the same key has two ids")
			}
		})
	}

	for _, e := range []int{-3, 0, 1, 2, 4, 65536} {
		k := *big2048
		k.E = e
		if err := checkRSA(&k); err == nil || !strings.Contains(err.Error(), "exponent") {
			t.Errorf("e = %d: %v", e, err)
		}
	}
}

// TestSecretsBytesAreTakenAsWritten checks that a secret is neither trimmed nor
// decoded: a backend that shares it would otherwise compute another MAC.
func TestSecretsBytesAreTakenAsWritten(t *testing.T) {
	const secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	ids := map[string]bool{}
	for _, s := range []string{secret, secret + "\n", " " + secret, strings.TrimSuffix(secret, "="), "0123456789abcdef0123456789abcdef"} {
		ks, err := StaticKeys(s, HS256)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(ks.members[0].private.([]byte)); got != s {
			t.Errorf("%q became %q", s, got)
		}
		ids[ks.members[0].id] = true
	}
	if len(ids) != 5 {
		t.Error("two secrets have one id")
	}
}

// TestJWKSHoldsPublicMembersOnly checks that the published JWKS contains neither a
// private member nor an HS256 secret.
func TestJWKSHoldsPublicMembersOnly(t *testing.T) {
	allowed := map[Algorithm]string{ES256: "alg crv kid kty use x y", EdDSA: "alg crv kid kty use x", RS256: "alg e kid kty n use"}
	for _, alg := range algorithms {
		var set struct{ Keys []map[string]string }
		if err := json.Unmarshal(testKeys()[alg].JWKS(), &set); err != nil || set.Keys == nil {
			t.Fatalf("%s: %v", testKeys()[alg].JWKS(), err)
		}
		if alg == HS256 {
			if len(set.Keys) != 0 {
				t.Errorf("a secret is published: %s", testKeys()[alg].JWKS())
			}
			continue
		}
		if len(set.Keys) != 1 || len(set.Keys[0]) != len(strings.Fields(allowed[alg])) {
			t.Fatalf("%s", testKeys()[alg].JWKS())
		}
		k := set.Keys[0]
		for _, name := range strings.Fields(allowed[alg]) {
			if k[name] == "" {
				t.Errorf("%s lacks %s", alg, name)
			}
		}
		if k["alg"] != string(alg) || k["use"] != "sig" || k["kid"] != testKeys()[alg].members[0].id {
			t.Errorf("%v", k)
		}
	}
}

// TestKeyIDIsTheThumbprint computes the example of RFC 7638, section 3.1.
func TestKeyIDIsTheThumbprint(t *testing.T) {
	const n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
	modulus := make([]byte, 256)
	if _, ok := decodeSegment(modulus, []byte(n)); !ok {
		t.Fatal("bad base64")
	}
	k := key{alg: RS256, public: publicKey{&rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537}}}
	if err := k.publish(); err != nil {
		t.Fatal(err)
	}
	if want := "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"; k.id != want {
		t.Errorf("kid %s, want %s", k.id, want)
	}
}

// TestParseAlgorithm parses names of algorithms. A name in the wrong case gets an error
// with the right one.
func TestParseAlgorithm(t *testing.T) {
	for name, want := range map[string]Algorithm{"": ES256, "ES256": ES256, "EdDSA": EdDSA, "RS256": RS256, "HS256": HS256} {
		if got, err := ParseAlgorithm(name); err != nil || got != want {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
	for name, remedy := range map[string]string{"none": "use ES256", "eddsa": "write EdDSA", "es256": "write ES256", "RS512": "use ES256", " ES256": "use ES256"} {
		if _, err := ParseAlgorithm(name); err == nil || !strings.Contains(err.Error(), remedy) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
