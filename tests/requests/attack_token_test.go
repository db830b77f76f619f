package requests

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

var b64 = base64.RawURLEncoding

// forger makes tokens from the parts of a good one. The tests of package token cover
// what the verifier refuses; these tests check that every token passes through the
// verifier.
type forger struct {
	header, payload, signature string // parts of the good token
	public                     *ecdsa.PublicKey
	jwk                        string // the public key as published
	own                        *ecdsa.PrivateKey
}

func newForger(t testing.TB, f *fort, token string) *forger {
	t.Helper()
	parts := strings.Split(token, ".")
	a := f.Client().Get("/auth/wx/jwks.json", "")
	a.Want(t, http.StatusOK)
	var set struct{ Keys []json.RawMessage }
	var key struct{ X, Y string }
	if err := json.Unmarshal([]byte(a.Body), &set); err != nil || len(set.Keys) == 0 {
		t.Fatal(err, a.Body)
	}
	if err := json.Unmarshal(set.Keys[0], &key); err != nil {
		t.Fatal(err)
	}
	x, _ := b64.DecodeString(key.X)
	y, _ := b64.DecodeString(key.Y)
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
	if err != nil {
		t.Fatal(err)
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &forger{parts[0], parts[1], parts[2], public, string(set.Keys[0]), own}
}

// head returns a header with these members; "kid" stands for the kid of the good token.
func (f *forger) head(members string) string {
	raw, _ := b64.DecodeString(f.header)
	var h struct{ Kid string }
	_ = json.Unmarshal(raw, &h)
	return b64.EncodeToString([]byte(strings.ReplaceAll(members, "KID", h.Kid)))
}

func (f *forger) hmac(members string, secret []byte) string {
	signed := f.head(members) + "." + f.payload
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(signed))
	return signed + "." + b64.EncodeToString(m.Sum(nil))
}

// sign signs with a key of the attacker.
func (f *forger) sign(header, payload string) string {
	digest := sha256.Sum256([]byte(header + "." + payload))
	r, s, err := ecdsa.Sign(rand.Reader, f.own, digest[:])
	if err != nil {
		panic(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return header + "." + payload + "." + b64.EncodeToString(sig)
}

// numbers returns r and s of a token's signature.
func numbers(token string) (signed string, r, s *big.Int) {
	i := strings.LastIndexByte(token, '.')
	raw, _ := b64.DecodeString(token[i+1:])
	return token[:i], new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])
}

func withNumbers(signed string, r, s *big.Int) string {
	return signed + "." + b64.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

// forgeries returns tokens that must not be accepted, made from a good one; canary is a
// URL that must not be fetched.
func forgeries(t testing.TB, f *forger, canary string) map[string]string {
	t.Helper()
	all := map[string]string{}
	good := f.header + "." + f.payload + "." + f.signature
	for _, alg := range []string{"none", "None", "NONE", "nOnE", ""} {
		header := f.head(`{"alg":"` + alg + `","kid":"KID","typ":"at+jwt"}`)
		all["alg "+alg] = header + "." + f.payload + "."
		all["alg "+alg+" with the signature"] = header + "." + f.payload + "." + f.signature
	}
	for _, h := range []string{`{"kid":"KID","typ":"at+jwt"}`, `{"alg":null,"kid":"KID","typ":"at+jwt"}`, `{"alg":["ES256"],"kid":"KID","typ":"at+jwt"}`, `{"alg":256,"kid":"KID","typ":"at+jwt"}`,
		`{"alg":"es256","kid":"KID","typ":"at+jwt"}`, `{"alg":"ES384","kid":"KID","typ":"at+jwt"}`, `{"alg":"ES256K","kid":"KID","typ":"at+jwt"}`, `{"alg":"EdDSA","kid":"KID","typ":"at+jwt"}`, `{"alg":"ES256","kid":"KID","typ":"JWT"}`,
		`{"alg":"ES256","typ":"at+jwt"}`, `{"alg":"ES256","kid":"../../../../dev/null","typ":"at+jwt"}`, `{"alg":"ES256","kid":"' OR 1=1 --","typ":"at+jwt"}`, `{"alg":"ES256","kid":"","typ":"at+jwt"}`, `{"alg":"ES256","kid":"` + canary + `","typ":"at+jwt"}`,
		`{"alg":"ES256","kid":"KID","typ":"at+jwt","crit":["exp"]}`, `{"alg":"ES256","kid":"KID","typ":"at+jwt","b64":false,"crit":["b64"]}`, `{"alg":"ES256","kid":"KID","typ":"at+jwt","zip":"DEF"}`, `{"alg":"ES256","kid":"KID","typ":"at+jwt","cty":"JWT"}`,
		`{"alg":"ES256","kid":"KID","typ":"at+jwt","jku":"` + canary + `"}`, `{"alg":"ES256","kid":"KID","typ":"at+jwt","x5u":"` + canary + `"}`, `{"alg":"none","alg":"ES256","kid":"KID","typ":"at+jwt"}`, ` {"alg":"ES256","kid":"KID","typ":"at+jwt"}`,
		`{"alg": "ES256","kid":"KID","typ":"at+jwt"}`, `{"kid":"KID","alg":"ES256","typ":"at+jwt"}`, `{"\u0061lg":"ES256","kid":"KID","typ":"at+jwt"}`, `null`, `[]`, `"ES256"`, `{}`, ``} {
		all["header "+h] = f.sign(f.head(h), f.payload)
		all["header with the signature "+h] = f.head(h) + "." + f.payload + "." + f.signature
	}
	own := fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":%q,"y":%q}`, b64.EncodeToString(f.own.X.FillBytes(make([]byte, 32))), b64.EncodeToString(f.own.Y.FillBytes(make([]byte, 32))))
	cert := base64.StdEncoding.EncodeToString([]byte("no certificate"))
	all["embedded jwk"] = f.sign(f.head(`{"alg":"ES256","kid":"KID","typ":"at+jwt","jwk":`+own+`}`), f.payload)
	all["embedded jwk without kid"] = f.sign(f.head(`{"alg":"ES256","typ":"at+jwt","jwk":`+own+`}`), f.payload)
	all["embedded x5c"] = f.sign(f.head(`{"alg":"ES256","kid":"KID","typ":"at+jwt","x5c":["`+cert+`"]}`), f.payload)
	all["our header, another key"] = f.sign(f.header, f.payload)

	// The public key is used as an HMAC secret, in every encoding that a library might
	// accept.
	der, err := x509.MarshalPKIXPublicKey(f.public)
	if err != nil {
		t.Fatal(err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	point, _ := f.public.Bytes()
	for name, secret := range map[string][]byte{"PEM": block, "PEM without its end": block[:len(block)-1], "DER": der, "base64 of DER": []byte(base64.StdEncoding.EncodeToString(der)), "JWK": []byte(f.jwk), "JWKS": []byte(`{"keys":[` + f.jwk + `]}`),
		"point": point, "x and y": point[1:], "x": point[1:33], "hex": fmt.Appendf(nil, "%x", point), "empty": nil, "kid": []byte(f.head("KID")), "NUL": {0}} {
		all["HS256 by "+name] = f.hmac(`{"alg":"HS256","kid":"KID","typ":"at+jwt"}`, secret)
		all["HS256 by "+name+", our header"] = func() string {
			m := hmac.New(sha256.New, secret)
			m.Write([]byte(f.header + "." + f.payload))
			return f.header + "." + f.payload + "." + b64.EncodeToString(m.Sum(nil))
		}()
	}
	if key, err := rsa.GenerateKey(rand.Reader, 2048); err == nil {
		header := f.head(`{"alg":"RS256","kid":"KID","typ":"at+jwt"}`)
		digest := sha256.Sum256([]byte(header + "." + f.payload))
		sig, _ := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
		all["RS256"] = header + "." + f.payload + "." + b64.EncodeToString(sig)
	}

	signed, r, s := numbers(good)
	order := elliptic.P256().Params().N
	zero, one := new(big.Int), big.NewInt(1)
	for name, rs := range map[string][2]*big.Int{"0,0": {zero, zero}, "r,0": {r, zero}, "0,s": {zero, s}, "n,n": {order, order}, "n,s": {order, s}, "1,1": {one, one}, "n-1,1": {new(big.Int).Sub(order, one), one}, "s,r": {s, r}} {
		all["signature "+name] = withNumbers(signed, rs[0], rs[1])
	}
	if sig, err := asn1.Marshal(struct{ R, S *big.Int }{r, s}); err == nil {
		all["signature in DER"] = signed + "." + b64.EncodeToString(sig)
	}
	raw, _ := b64.DecodeString(f.signature)
	last := f.signature[len(f.signature)-1]
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for name, token := range map[string]string{
		"signature empty": signed + ".", "signature cut": signed + "." + b64.EncodeToString(raw[:63]), "signature longer": signed + "." + b64.EncodeToString(append(raw, 0)), "signature twice": signed + "." + b64.EncodeToString(append(raw, raw...)),
		"padding": good + "==", "padding of one": good + "=", "the last character's spare bits": good[:len(good)-1] + string(alphabet[strings.IndexByte(alphabet, last)^1]), "standard base64": signed + "." + base64.StdEncoding.EncodeToString(raw),
		"a dot behind": good + ".", "a dot before": "." + good, "four parts": good + "." + f.signature, "two parts": signed, "one part": f.header, "another payload": f.header + "." + b64.EncodeToString([]byte(`{"sub":"admin"}`)) + "." + f.signature,
		"no payload": f.header + ".." + f.signature, "payload null": f.header + "." + b64.EncodeToString([]byte("null")) + "." + f.signature, "deep nesting": f.sign(f.header, b64.EncodeToString([]byte(strings.Repeat("[", 4000)))),
		"10,000 dots": strings.Repeat(".", 10000), "8 KiB": good + strings.Repeat("A", 8<<10-len(good)), "8 KiB and one": good + strings.Repeat("A", 8<<10-len(good)+1), "8 KiB of our header": f.header + "." + strings.Repeat("A", 7<<10) + "." + f.signature,
		"JSON": b64.EncodeToString([]byte(`{"payload":"` + f.payload + `","protected":"` + f.header + `","signature":"` + f.signature + `"}`)), "a NUL escape": good + "%00", "percent": strings.ReplaceAll(good, ".", "%2e"), "a cut": good[:len(good)/2], "in capitals": strings.ToUpper(good), "quoted": `"` + good + `"`,
		"its own dots wide": strings.ReplaceAll(good, ".", "．"), "with a BOM": "\ufeff" + good,
	} {
		all[name] = token
	}
	// The claims are changed, and the token is signed with the attacker's key.
	for name, change := range map[string]map[string]any{"another user": {"sub": "admin"}, "for ever": {"exp": 1 << 40}, "another session": {"sid": "x"}, "exp as text": {"exp": "9999999999"}, "no exp": {"exp": nil}} {
		payload, _ := b64.DecodeString(f.payload)
		var claims map[string]any
		_ = json.Unmarshal(payload, &claims)
		for k, v := range change {
			claims[k] = v
		}
		changed, _ := json.Marshal(claims)
		all["claims, signed by us: "+name] = f.sign(f.header, b64.EncodeToString(changed))
		all["claims, old signature: "+name] = f.header + "." + b64.EncodeToString(changed) + "." + f.signature
	}
	return all
}

// Every classic forgery of a JWT is sent through the gateway: none of them identifies
// anybody.
func TestAttackForgedTokens(t *testing.T) {
	t.Parallel()
	canary := rig.NewUpstream(t)
	f := newFort(t, withHTTP3(fortSite("servers {\nmax_header_size 4MB\n}"))+"\nhttp://{$ADDR3} {\nwx_auth {env.WX_APPID} {env.WX_SECRET} {\ntoken {\nissuer another\n}\nwechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}\n}\n", "ADDR2="+rig.FreeAddress(t), "ADDR3="+rig.FreeAddress(t))
	awaitHTTP3(t, f.addr2())
	pair := f.login(t, "13800138000")
	identity := f.identity(t, pair)
	bad := forgeries(t, newForger(t, f, pair.Token), "http://"+canary.Addr+"/jwks.json")
	bad["1 MB"] = strings.Repeat("A", 1<<20)
	bad["1 MB of our header"] = pair.Token[:strings.LastIndexByte(pair.Token, '.')+1] + strings.Repeat("A", 1<<20)
	bad["the refresh token"] = pair.RefreshToken
	bad["a bit in the middle"] = broken(pair.Token)
	for i := range 24 { // package token's tests try every position
		at := i * len(pair.Token) / 24
		if flipped := pair.Token[:at] + string(pair.Token[at]^1) + pair.Token[at+1:]; !strings.ContainsAny(string(flipped[at]), ", ") {
			bad[fmt.Sprint("bit flipped at ", at)] = flipped
		}
	}

	// These are tokens of another site with the same store and keys, and of another
	// gateway.
	second := rig.NewClient(t, "http://"+f.Getenv("ADDR3"))
	codes := f.wx.Tap(t, "13900139000")
	foreign := second.Login(codes.Code, codes.PhoneCode).Pair(t)
	second.Get("/x", foreign.Token).Want(t, http.StatusOK)
	second.Get("/x", pair.Token).WantProblem(t, 401, "token_invalid", nil)
	bad["another issuer's"] = foreign.Token
	elsewhere := newFort(t, fortSite(""))
	bad["another gateway's"] = elsewhere.login(t, "13800138000").Token
	f.tap.take()

	everyHTTP(t, f, func(t *testing.T, f *fort) {
		for name, token := range bad {
			t.Run(name, func(t *testing.T) {
				line := "Authorization: Bearer " + token
				for _, target := range []string{"/api/x", "/auth/wx/me", "/auth/wx/verify", "/auth/wx/sessions"} {
					f.refuses(t, tokenInvalid, message(f.Addr, "GET", target, line))
				}
				f.refuses(t, tokenInvalid, message(f.Addr, "POST", "/auth/wx/logout", line, "Content-Length: 0"))
				// A token that looks like ours is refused, and one that does not is
				// left alone. Neither identifies anybody.
				for _, target := range []string{"/optional/x", "/public/x", "/free/x"} {
					if a, got := f.fire(t, message(f.Addr, "GET", target, line)); len(got) > 0 {
						got[0].wantIdentity(t, nil)
					} else if a.Status != 401 {
						t.Errorf("%s: %d %s", target, a.Status, a.Body)
					}
				}
			})
		}
	})
	// An access token does not work as a refresh token.
	a := f.Client().Refresh(pair.Token)
	a.WantProblem(t, 401, "refresh_invalid", nil)
	// A revoked token is sent with the other form of its signature.
	ended := f.login(t, "13700137000").Token
	f.Client().Logout(ended, "", false).Want(t, http.StatusNoContent)
	signed, r, s := numbers(ended)
	other := withNumbers(signed, r, new(big.Int).Sub(elliptic.P256().Params().N, s))
	everyHTTP(t, f, func(t *testing.T, f *fort) {
		f.refuses(t, tokenRevoked, message(f.Addr, "GET", "/api/x", "Authorization: Bearer "+other))
	})
	// None of this has changed anything for the good token, and nobody has fetched the
	// key.
	f.passes(t, message(f.Addr, "GET", "/api/x", "Authorization: Bearer "+pair.Token)).wantIdentity(t, identity)
	time.Sleep(100 * time.Millisecond)
	if n := canary.Hits(); n > 0 {
		t.Errorf("%d requests for a key that a token names", n)
	}
}
