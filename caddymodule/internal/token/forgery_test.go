package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // for signatures that must be refused
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// refuse checks that a token is refused with the one error for invalid tokens, with a
// cache and without, and that it leaves nothing in the cache.
func refuse(t *testing.T, ks *KeySet, raw string) {
	t.Helper()
	cache := NewCache(100)
	v := NewVerifier(testPolicy(), testSeal(t), cache)
	for range 2 {
		if c, err := v.Verify(ks, raw, t0); err != ErrInvalid || c != nil {
			t.Errorf("Verify(%.200q) = %v, %v", raw, c, err)
		}
		if c, err := v.VerifyExpired(ks, raw, t0); err != ErrInvalid || c != nil {
			t.Errorf("VerifyExpired(%.200q) = %v, %v", raw, c, err)
		}
	}
	if cache.Len() != 0 {
		t.Error("a bad token is in the cache")
	}
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// TestHeadersThatWeDoNotWriteAreRefused signs tokens correctly under headers of the
// known attacks: "alg": "none", another algorithm, a key or key URL in the header,
// "crit" and "b64", path and SQL injection in "kid", other types, other spellings.
func TestHeadersThatWeDoNotWriteAreRefused(t *testing.T) {
	for _, alg := range algorithms {
		ks := testKeys()[alg]
		kid := ks.members[0].id
		own := goodHeader(ks)
		for _, header := range []string{
			`{"alg":"none"}`, `{"alg":"None"}`, `{"alg":"NONE","typ":"at+jwt"}`, `{"alg":"nOnE","kid":"` + kid + `","typ":"at+jwt"}`,
			`{}`, ``, `null`, `[]`, `"` + string(alg) + `"`, `{"kid":"` + kid + `","typ":"at+jwt"}`,
			`{"alg":"","kid":"` + kid + `","typ":"at+jwt"}`, `{"alg":null,"kid":"` + kid + `","typ":"at+jwt"}`,
			strings.Replace(own, string(alg), strings.ToLower(string(alg)), 1),
			strings.Replace(own, string(alg), "HS256", 1) + " ",
			strings.Replace(own, "256", "384", 1) + "\n", strings.Replace(own, "256", "512", 1) + "\t",
			strings.Replace(own, "RS256", "PS256", 1) + " ", strings.Replace(own, "ES256", "ES256K", 1) + " ",
			strings.Replace(own, "EdDSA", "Ed25519", 1) + " ",
			strings.Replace(own, "{", `{"crit":["exp"],`, 1), strings.Replace(own, "{", `{"b64":false,"crit":["b64"],`, 1),
			strings.Replace(own, "{", `{"zip":"DEF",`, 1), strings.Replace(own, "{", `{"cty":"JWT",`, 1),
			strings.Replace(own, "{", `{"jku":"https://evil.example/jwks.json",`, 1),
			strings.Replace(own, "{", `{"x5u":"https://evil.example/cert.pem",`, 1),
			strings.Replace(own, "{", `{"x5c":["MIIB"],`, 1),
			strings.Replace(own, "{", `{"jwk":`+string(mustJSON(t, ks.members[0].jwk))+`,`, 1),
			strings.Replace(own, kid, "../../../../dev/null", 1), strings.Replace(own, kid, "' OR 1=1 --", 1),
			strings.Replace(own, kid, "", 1), strings.Replace(own, kid, kid+"A", 1), strings.Replace(own, kid, kid+`\u0000`, 1),
			strings.Replace(own, `"kid":"`+kid+`"`, `"kid":["`+kid+`"]`, 1), strings.Replace(own, "{", `{"kid":"x",`, 1),
			strings.Replace(own, `"at+jwt"`, `"AT+JWT"`, 1), strings.Replace(own, `"at+jwt"`, `"application/at+jwt"`, 1),
			strings.Replace(own, `"at+jwt"`, `"JWT"`, 1), strings.Replace(own, `"at+jwt"`, `"jwt"`, 1), strings.Replace(own, `,"typ":"at+jwt"`, ``, 1),
			strings.Replace(own, ",", ", ", 1), " " + own, own + " ", own + own, strings.Replace(own, "a", `\u0061`, 1),
			"\ufeff" + own, own + "\x00",
		} {
			refuse(t, ks, sign(t, ks, header, goodPayload))
			refuse(t, ks, b64(header)+"."+b64(goodPayload)+".")
		}
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestOtherAlgorithmsOfAKeyAreRefused signs with our own keys and another algorithm of
// the same family (RS384, PS256, HS512, Ed25519ph and others), once under a header that
// names that algorithm and once under our header.
func TestOtherAlgorithmsOfAKeyAreRefused(t *testing.T) {
	for alg, others := range map[Algorithm][]jwa.SignatureAlgorithm{
		RS256: {jwa.RS384, jwa.RS512, jwa.PS256, jwa.PS384, jwa.PS512}, HS256: {jwa.HS384, jwa.HS512},
	} {
		ks := testKeys()[alg]
		k := ks.members[0].key
		for _, other := range others {
			signer, err := jws.NewSigner(other)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{string(alg), other.String()} {
				signed := b64(strings.Replace(goodHeader(ks), string(alg), name, 1)) + "." + b64(goodPayload)
				sig, err := signer.Sign([]byte(signed), k.private)
				if err != nil {
					t.Fatal(err)
				}
				refuse(t, ks, signed+"."+b64(string(sig)))
				refuse(t, ks, signed+"."+b64(string(sig[:k.sigSize]))) // an HS512 signature, cut to the length of HS256
			}
		}
	}
	// jwx signs with no other algorithm under a P-256 or Ed25519 key, so these
	// signatures are made with the standard library.
	ks := testKeys()[ES256]
	signed := b64(goodHeader(ks)) + "." + b64(goodPayload)
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA224, crypto.SHA384, crypto.SHA512} {
		h := hash.New()
		h.Write([]byte(signed))
		r, s, err := ecdsa.Sign(rand.Reader, ks.members[0].key.private.(stableECDSA).PrivateKey, h.Sum(nil))
		if err != nil {
			t.Fatal(err)
		}
		refuse(t, ks, signed+"."+b64(string(r.FillBytes(make([]byte, 32)))+string(s.FillBytes(make([]byte, 32)))))
	}
	ks = testKeys()[EdDSA]
	signed = b64(goodHeader(ks)) + "." + b64(goodPayload)
	digest := sha512.Sum512([]byte(signed))
	for _, c := range []struct {
		message string
		opts    ed25519.Options
	}{{string(digest[:]), ed25519.Options{Hash: crypto.SHA512}}, {signed, ed25519.Options{Context: "at+jwt"}}, {string(digest[:]), ed25519.Options{}}} {
		sig, err := ks.members[0].key.private.(ed25519.PrivateKey).Sign(nil, []byte(c.message), &c.opts)
		if err != nil {
			t.Fatal(err)
		}
		refuse(t, ks, signed+"."+b64(string(sig)))
	}
}

// TestPublicKeysAreNoHMACSecrets is the algorithm confusion attack: tokens are signed
// by HMAC with the published key, in each of its encodings, as the secret.
func TestPublicKeysAreNoHMACSecrets(t *testing.T) {
	for _, alg := range []Algorithm{ES256, EdDSA, RS256} {
		ks := testKeys()[alg]
		k := ks.members[0].key
		der, err := x509.MarshalPKIXPublicKey(barePublic(ks))
		if err != nil {
			t.Fatal(err)
		}
		text := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		secrets := []string{"", "\x00", string(der), text, strings.TrimSpace(text), base64.StdEncoding.EncodeToString(der),
			string(mustJSON(t, k.jwk)), string(ks.JWKS()), k.id}
		switch p := barePublic(ks).(type) {
		case *ecdsa.PublicKey:
			point, _ := p.Bytes()
			secrets = append(secrets, string(point), string(point[1:]), string(point[1:33]))
		case ed25519.PublicKey:
			secrets = append(secrets, string(p))
		case *rsa.PublicKey:
			secrets = append(secrets, string(p.N.Bytes()), string(x509.MarshalPKCS1PublicKey(p)),
				string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(p)})))
		}
		for _, secret := range secrets {
			for _, header := range []string{goodHeader(ks), strings.Replace(goodHeader(ks), string(alg), "HS256", 1)} {
				signed := b64(header) + "." + b64(goodPayload)
				m := hmac.New(sha256.New, []byte(secret))
				m.Write([]byte(signed))
				refuse(t, ks, signed+"."+b64(string(m.Sum(nil))))
			}
		}
	}
}

// TestDegenerateECDSASignaturesAreRefused tries the signatures of the "psychic
// signatures" attack (r or s of 0, the order, the prime and their neighbors), and other
// encodings and lengths of a good signature.
func TestDegenerateECDSASignaturesAreRefused(t *testing.T) {
	ks := testKeys()[ES256]
	k := ks.members[0].key
	signed := b64(goodHeader(ks)) + "." + b64(goodPayload)
	n := elliptic.P256().Params().N
	p := elliptic.P256().Params().P
	point, err := barePublic(ks).(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	values := []*big.Int{new(big.Int), big.NewInt(1), new(big.Int).Sub(n, big.NewInt(1)), n, new(big.Int).Add(n, big.NewInt(1)),
		p, new(big.Int).Sub(p, big.NewInt(1)), new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1)),
		new(big.Int).SetBytes(point[1:33])}
	for _, r := range values {
		for _, s := range values {
			var sig [64]byte
			r.FillBytes(sig[:32])
			s.FillBytes(sig[32:])
			refuse(t, ks, signed+"."+b64(string(sig[:])))
		}
	}
	good, err := k.signer.Sign([]byte(signed), k.private)
	if err != nil {
		t.Fatal(err)
	}
	r, s := new(big.Int).SetBytes(good[:32]), new(big.Int).SetBytes(good[32:])
	der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []string{"", string(der), string(good[:63]), string(good) + "\x00", "\x00" + string(good), string(good) + string(good),
		"\x00" + string(good[:32]) + "\x00" + string(good[32:]), string(good[32:]) + string(good[:32]), strings.Repeat("\x00", 64)} {
		refuse(t, ks, signed+"."+b64(sig))
	}

	// The twin (r, n−s) of a good signature is valid, too. It makes the same statement,
	// and only the session id identifies it.
	var twin [64]byte
	r.FillBytes(twin[:32])
	new(big.Int).Sub(n, s).FillBytes(twin[32:])
	v := NewVerifier(testPolicy(), testSeal(t), NewCache(10))
	a, errA := v.Verify(ks, signed+"."+b64(string(good)), t0)
	b, errB := v.Verify(ks, signed+"."+b64(string(twin[:])), t0)
	if errA != nil || errB != nil || a.SessionID() != b.SessionID() || a.Subject() != b.Subject() {
		t.Errorf("%v, %v", errA, errB)
	}
}

// TestSpellingsOfBase64AreRefused spells a good token differently: with padding, line
// breaks, unused bits, the standard alphabet. One token must have one spelling, or a
// deny list or log search would miss the others.
func TestSpellingsOfBase64AreRefused(t *testing.T) {
	for _, alg := range algorithms {
		ks := testKeys()[alg]
		header := b64(goodHeader(ks))
		// There is one payload for each length modulo 3, with and without unused bits.
		for pad := range 3 {
			payload := b64(goodPayload + strings.Repeat(" ", pad))
			raw := signSegments(t, ks, header, payload)
			if _, err := NewVerifier(testPolicy(), testSeal(t), nil).Verify(ks, raw, t0); err != nil {
				t.Fatal(err)
			}
			for _, p := range []string{payload + "=", payload + "==", payload + "\n", "\n" + payload, payload[:9] + "\r\n" + payload[9:],
				payload + "A", payload + " ", payload + "\x00", payload[:9] + "\n\n\n\n" + payload[9:],
				base64.StdEncoding.EncodeToString([]byte(goodPayload + `"\u00ff?>`)), "", "A", payload + "é"} {
				refuse(t, ks, signSegments(t, ks, header, p))
			}
			if last := payload[len(payload)-1]; len(payload)%4 != 0 {
				const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
				refuse(t, ks, signSegments(t, ks, header, payload[:len(payload)-1]+string(alphabet[strings.IndexByte(alphabet, last)|1])))
			}
			dot := strings.LastIndexByte(raw, '.')
			signed, sig := raw[:dot], raw[dot+1:]
			for _, s := range []string{sig + "=", sig + "==", sig + "\n", "\n" + sig, sig[:9] + "\n" + sig[9:], sig[:9] + "\n" + sig[10:], sig + " ", " " + sig, sig + "A",
				sig + "AA", sig[:len(sig)-1], "", strings.Map(func(r rune) rune {
					return map[rune]rune{'-': '+', '_': '/'}[r]
				}, "-_") + sig[2:]} {
				refuse(t, ks, signed+"."+s)
			}
			refuse(t, ks, "\n"+raw)
			refuse(t, ks, raw[:9]+"\n"+raw[9:])
			refuse(t, ks, header+"="+raw[len(header):])
			refuse(t, ks, "Bearer "+raw)
		}
	}
}

// TestShapesThatAreNoToken sends strings that are no compact JWS: too few or too many
// dots, the JSON serialization, megabytes of text, and a good token cut off at each
// place.
func TestShapesThatAreNoToken(t *testing.T) {
	ks := testKeys()[ES256]
	raw := mustMint(t, ks, testClaims())
	parts := strings.Split(raw, ".")
	for _, bad := range []string{
		"", ".", "..", "...", "....", strings.Repeat(".", 10_000), strings.Repeat(".", 8000), strings.Repeat("A", 1<<20), strings.Repeat("A", MaxSize),
		raw + ".", "." + raw, raw + "." + parts[2], parts[0], parts[0] + ".", parts[0] + "." + parts[1], parts[0] + "." + parts[1] + ".",
		parts[0] + ".." + parts[2], "." + parts[1] + "." + parts[2], parts[1] + "." + parts[2],
		parts[0] + "." + parts[1] + ".." + parts[2], parts[0] + "." + parts[1][:40] + "." + parts[1][40:] + "." + parts[2],
		`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		parts[0] + "." + parts[1] + strings.Repeat("A", MaxSize) + "." + parts[2], raw + strings.Repeat("A", 1<<20),
		parts[0] + "." + strings.Repeat("A", MaxSize-len(parts[0])-2-len(parts[2])) + "." + parts[2],
	} {
		refuse(t, ks, bad)
	}
	for i := range raw { // truncated anywhere, from either end
		refuse(t, ks, raw[:i])
		if i > 0 {
			refuse(t, ks, raw[i:])
		}
	}
}

// TestEverySingleBitCounts flips each bit of a cached token in turn: none of the
// results is valid.
func TestEverySingleBitCounts(t *testing.T) {
	for _, alg := range algorithms {
		ks := testKeys()[alg]
		c := testClaims()
		c.Plain = map[string]any{"tenant": "a"}
		raw := mustMint(t, ks, c)
		cache := NewCache(100)
		v := NewVerifier(testPolicy(), testSeal(t), cache)
		if _, err := v.Verify(ks, raw, t0); err != nil { // the good one is in the cache
			t.Fatal(err)
		}
		for i := range len(raw) * 8 {
			bad := []byte(raw)
			bad[i/8] ^= 1 << (i % 8)
			if _, err := v.Verify(ks, string(bad), t0); err != ErrInvalid {
				t.Fatalf("%s: bit %d of %s: %v", alg, i, raw, err)
			}
		}
		if cache.Len() != 1 {
			t.Errorf("%d tokens in the cache", cache.Len())
		}
	}
}

// payloads returns payloads for signed tokens: those that are accepted, and those that
// are refused.
func payloads(t testing.TB) (good, bad map[string]string) {
	long := strings.Repeat("x", 3000)
	good = map[string]string{
		"plain":                  goodPayload,
		"white space":            " \t\r\n" + strings.ReplaceAll(goodPayload, `":`, `" : `) + "\n",
		"audience list":          with(t, `"aud":"wx-auth"`, `"aud":["other","wx-auth"]`),
		"escapes":                with(t, `"sub":"u1"`, `"s\u0075b":"\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t"`),
		"unicode":                with(t, `"sub":"u1"`, `"sub":"é漢😀"`),
		"further claims":         with(t, `{`, `{"scope":"a b","roles":["x",{"y":null}],"n":-1.5e3,"t":true,"f":false,"e":{},"l":[],"":"",`),
		"deep enough":            with(t, `{`, `{"d":`+strings.Repeat("[", 15)+strings.Repeat("]", 15)+`,`),
		"long":                   with(t, `{`, `{"d":"`+long+`",`),
		"auth_time":              with(t, `{`, `{"auth_time":1772366400,`),
		"no jti":                 with(t, `"jti":"j1",`, ``),
		"second app":             with(t, `wx0000000000000001`, `wx0000000000000002`),
		"end of time":            with(t, `"exp":1772370000`, `"exp":253402300799`),
		"issued long ago":        with(t, `"iat":1772366400`, `"iat":1`),
		"same name, other place": with(t, `{`, `{"d":{"sub":"x","iss":"y"},`),
	}
	bad = map[string]string{}
	for name, list := range map[string][]string{
		"not an object": {``, ` `, `null`, `[]`, `"x"`, `1`, `true`, `{`, `{}`, `[` + goodPayload + `]`, `{"":` + goodPayload + `}`, "\ufeff" + goodPayload, "\x00" + goodPayload},
		"trailing":      {goodPayload + `x`, goodPayload + goodPayload, goodPayload + `,`, goodPayload + "\x00", goodPayload + `}`, goodPayload[:len(goodPayload)-1] + `,}`, goodPayload + "\u00a0", goodPayload[:len(goodPayload)-1]},
		"syntax": {with(t, `,"jti"`, `,,"jti"`), with(t, `"jti":`, `"jti"`), with(t, `"jti"`, `jti`), with(t, `"jti"`, `'jti'`), with(t, `"jti":"j1"`, `"jti":'j1'`), with(t, `{`, `{,`),
			with(t, `{`, `{/**/`), with(t, `"j1"`, "\"j\n1\""), with(t, `"j1"`, "\"j\x001\""), with(t, `"j1"`, `"\x41"`), with(t, `"j1"`, `"\u12g4"`), with(t, `"j1"`, `"\u12"`), with(t, `"j1"`, `"\u+123"`), with(t, `"j1"`, `"\`)},
		"broken text": {with(t, `"u1"`, "\"\xff\""), with(t, `"u1"`, "\"\xc0\xaf\""), with(t, `"u1"`, "\"\xed\xa0\x80\""), with(t, `"u1"`, `"\ud800"`), with(t, `"u1"`, `"\udc00"`), with(t, `"u1"`, `"\ud800\u0041"`), with(t, `"u1"`, `"\ud800\ud800"`), with(t, `"u1"`, `"\ud800x"`), with(t, `"jti"`, "\"\xff\":1,\"jti\""), with(t, `"u1"`, "\"\\n\xff\"")},
		"duplicates": {with(t, `"sub":"u1"`, `"sub":"u1","sub":"u1"`), with(t, `"sub":"u1"`, `"sub":"root","sub":"u1"`), with(t, `"sub":"u1"`, `"sub":"u1","s\u0075b":"root"`), with(t, `{`, `{"exp":9999999999,`), with(t, `{`, `{"a":1,"a":1,`), with(t, `{`, `{"a":1,"\u0061":2,`),
			with(t, `{`, `{"d":{"a":1,"a":1},`), with(t, `{`, `{"d":[{"x":{"a":1,"a":1}}],`), with(t, `{`, `{"aud":"wx-auth",`), with(t, `{`, `{"auth_time":1,"auth_time":2,`)},
		"other case": {with(t, `{`, `{"Sub":"root",`), with(t, `{`, `{"SUB":"root",`), with(t, `"sub"`, `"Sub"`), with(t, `"iss"`, `"Iss"`), with(t, `{`, `{"\u017fub":"root",`), with(t, `{`, `{"\u212aid":"x","Exp":1,`), with(t, `{`, `{"WX":"x",`), with(t, `{`, `{"Client_ID":"x",`), with(t, `{`, `{"NBF":1,`), with(t, `{`, `{"Auth_Time":1,`)},
		"deep":       {with(t, `{`, `{"d":`+strings.Repeat("[", 17)+strings.Repeat("]", 17)+`,`), with(t, `{`, `{"d":`+strings.Repeat(`{"a":`, 1000)+`1`+strings.Repeat("}", 1000)+`,`), strings.Repeat("[", 5000), strings.Repeat(`{"a":`, 1000)},
		"numbers":    {with(t, `{`, `{"n":1e999,`), with(t, `{`, `{"n":-1e999,`), with(t, `{`, `{"n":01,`), with(t, `{`, `{"n":+1,`), with(t, `{`, `{"n":.5,`), with(t, `{`, `{"n":1.,`), with(t, `{`, `{"n":1e,`), with(t, `{`, `{"n":-,`), with(t, `{`, `{"n":NaN,`), with(t, `{`, `{"n":Infinity,`), with(t, `{`, `{"n":0x10,`), with(t, `{`, `{"n":`+strings.Repeat("9", 65)+`,`), with(t, `{`, `{"n":tru,`), with(t, `{`, `{"n":nul`)},
	} {
		for i, p := range list {
			bad[fmt.Sprintf("%s %d", name, i)] = p
		}
	}
	for _, claim := range []string{"exp", "iat"} {
		old := map[string]string{"exp": `"exp":1772370000`, "iat": `"iat":1772366400`}[claim]
		for _, v := range []string{`null`, `"1772370000"`, `1772370000.0`, `1772370000.5`, `1.77237e9`, `1e10`, `-1`, `-1772370000`, `0`, `-0`, `01772370000`, `true`, `[]`, `[1772370000]`, `{}`,
			`9223372036854775807`, `9223372036854775808`, `18446744073709551617`, `253402300800`, `1e400`, `99999999999999999999999999999999999999`, `""`, `+1772370000`, `1772370000x`} {
			bad[claim+" "+v] = with(t, old, `"`+claim+`":`+v)
			bad["nbf "+v] = with(t, `{`, `{"nbf":`+v+`,`)
			bad["auth_time "+v] = with(t, `{`, `{"auth_time":`+v+`,`)
		}
		bad["no "+claim] = with(t, old+",", ``)
	}
	for claim, old := range map[string]string{"iss": `"iss":"wx-auth"`, "sub": `"sub":"u1"`, "aud": `"aud":"wx-auth"`, "client_id": `"client_id":"wx0000000000000001"`, "sid": `"sid":"s1"`, "jti": `"jti":"j1"`, "openid": `"openid":"o1"`} {
		for _, v := range []string{`null`, `""`, `1`, `true`, `{}`, `{"a":"wx-auth"}`, `[]`, `[1]`, `[null]`, `[""]`, `[["wx-auth"]]`} {
			bad[claim+" "+v] = with(t, old, `"`+claim+`":`+v)
		}
		if claim != "aud" {
			bad[claim+" list"] = with(t, old, strings.Replace(old, `:`, `:[`, 1)+`]`)
		}
		if claim != "jti" && claim != "openid" {
			bad["no "+claim] = strings.Replace(strings.Replace(goodPayload, old, ``, 1), `,,`, `,`, 1)
			bad["no "+claim] = strings.Replace(bad["no "+claim], `{,`, `{`, 1)
		}
	}
	bad["other issuer"] = with(t, `"iss":"wx-auth"`, `"iss":"wx-auth2"`)
	bad["issuer, other case"] = with(t, `"iss":"wx-auth"`, `"iss":"WX-auth"`)
	bad["other audience"] = with(t, `"aud":"wx-auth"`, `"aud":"wx-aut"`)
	bad["other audiences"] = with(t, `"aud":"wx-auth"`, `"aud":["a","b"]`)
	bad["audiences with a null"] = with(t, `"aud":"wx-auth"`, `"aud":["wx-auth",null]`)
	bad["33 audiences"] = with(t, `"aud":"wx-auth"`, `"aud":["wx-auth"`+strings.Repeat(`,"x"`, 32)+`]`)
	bad["other app"] = with(t, `wx0000000000000001`, `wx0000000000000003`)
	bad["issued in the future"] = with(t, `"iat":1772366400`, `"iat":1772366411`)
	for i, wx := range []string{`""`, `null`, `1`, `{}`, `[]`, `"AAAA"`, `"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"`, `"="`, `"!"`, `"A"`} {
		bad[fmt.Sprintf("sealed %d", i)] = with(t, `{`, `{"wx":`+wx+`,`)
	}
	return good, bad
}

// TestPayloads presents correctly signed tokens with the payloads above. A backend that
// shares the key, or a bug in minting, must not get an ambiguous payload past us.
func TestPayloads(t *testing.T) {
	ks := testKeys()[HS256] // the fastest; the signature is not under test
	good, bad := payloads(t)
	for name, p := range good {
		t.Run("good "+name, func(t *testing.T) {
			v := NewVerifier(testPolicy(), testSeal(t), NewCache(10))
			if _, err := v.Verify(ks, sign(t, ks, goodHeader(ks), p), t0); err != nil {
				t.Errorf("%s: %v", p, err)
			}
		})
	}
	for name, p := range bad {
		t.Run("bad "+name, func(t *testing.T) { refuse(t, ks, sign(t, ks, goodHeader(ks), p)) })
	}
}

// TestSealedClaimOfAnotherTokenIsRefused moves the sealed claim of one token to a token
// of another user, session or issuer, and seals malformed contents.
func TestSealedClaimOfAnotherTokenIsRefused(t *testing.T) {
	ks, seal := testKeys()[HS256], testSeal(t)
	v := NewVerifier(testPolicy(), seal, nil)
	make := func(plain string, aad ...string) string {
		sealed, err := seal.Seal(appendAAD(nil, aad...), []byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		return sign(t, ks, goodHeader(ks), with(t, `{`, `{"wx":"`+b64(string(sealed))+`",`))
	}
	c, err := v.Verify(ks, make(`{"phone":"+8613800138000"}`, "wx-auth", "u1", "s1"), t0)
	if err != nil || c.Phone() != "+8613800138000" {
		t.Fatalf("%+v, %v", c, err)
	}
	refuse(t, ks, make(`{"phone":"+8613800138000"}`, "wx-auth", "u2", "s1"))
	refuse(t, ks, make(`{"phone":"+8613800138000"}`, "wx-auth", "u1", "s2"))
	refuse(t, ks, make(`{"phone":"+8613800138000"}`, "wx-aut", "hu1", "s1"))
	for _, plain := range []string{``, `null`, `[]`, `{"phone":1}`, `{"phone":""}`, `{"phone":"1","phone":"2"}`, `{"claims":[]}`, `{"claims":null}`, `{"claims":{},"claims":{}}`,
		`{"claims":{"a":1,"a":2}}`, `{"other":1}`, `{}x`, `{"claims":{"a":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + `}}`} {
		refuse(t, ks, make(plain, "wx-auth", "u1", "s1"))
	}
	raw := make(`{"phone":"+8613800138000"}`, "wx-auth", "u1", "s1")
	if _, err := NewVerifier(testPolicy(), nil, nil).Verify(ks, raw, t0); err != ErrInvalid {
		t.Errorf("without a seal: %v", err)
	}
	other, _ := NewSeal([]byte(strings.Repeat("x", 32)))
	if _, err := NewVerifier(testPolicy(), other, nil).Verify(ks, raw, t0); err != ErrInvalid {
		t.Errorf("with another seal: %v", err)
	}
}

// TestTokensOfOtherSites presents a valid token to sites with another issuer, audience,
// app, type or key, and a token of an unknown key under our header.
func TestTokensOfOtherSites(t *testing.T) {
	ks := testKeys()[ES256]
	raw := mustMint(t, ks, testClaims())
	for name, change := range map[string]func(*Policy){
		"issuer":      func(p *Policy) { p.Issuer = "other" },
		"audience":    func(p *Policy) { p.Audience = []string{"other"} },
		"no audience": func(p *Policy) { p.Audience = nil },
		"app":         func(p *Policy) { p.Apps = []string{"wx0000000000000002"} },
		"no app":      func(p *Policy) { p.Apps = nil },
		"type":        func(p *Policy) { p.Type = TypeJWT },
	} {
		p := testPolicy()
		change(&p)
		if _, err := NewVerifier(p, testSeal(t), nil).Verify(ks, raw, t0); err != ErrInvalid {
			t.Errorf("another %s: %v", name, err)
		}
	}
	// The same header, but signed with another key.
	unknown, _, err := generate(ES256)
	if err != nil {
		t.Fatal(err)
	}
	foreign := *unknown
	foreign.id = ks.members[0].id
	set, err := newKeySet([]member{{key: &foreign}})
	if err != nil {
		t.Fatal(err)
	}
	forged := mustMint(t, set, testClaims())
	if !ks.Ours(forged) {
		t.Fatal("the headers differ")
	}
	refuse(t, ks, forged)
	refuse(t, nil, raw)
	refuse(t, testKeys()[EdDSA], raw)
	if _, err := NewVerifier(testPolicy(), testSeal(t), nil).Verify(ks, raw, t0.Add(time.Minute)); err != nil {
		t.Error(err)
	}
}
