package token

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// accepts runs a token through the two layers that the vectors test: its encoding and
// its signature. segment is the header segment of this key's tokens.
func accepts(k *key, segment, raw string) bool {
	ks := &KeySet{headers: []header{{segment: segment, key: k}}}
	_, p, ok := ks.split(raw)
	if !ok {
		return false
	}
	_, ok = new(scratch).open(k, p)
	return ok
}

func readJSON(t *testing.T, path string, to any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// loadVector loads a vector's key as a configuration would, for the one of our algorithms that
// fits the key.
func loadVector(jwk json.RawMessage) (*key, error) {
	var k struct{ Kty, Crv string }
	json.Unmarshal(jwk, &k)
	alg := map[string]Algorithm{"EC": ES256, "RSA": RS256, "OKP": EdDSA}[k.Kty]
	if alg == "" {
		alg = HS256
	}
	return parseKey(string(jwk), alg)
}

const (
	noSuchAlgorithm = "the algorithm is not one of our four: the key is refused"
	keySet          = "a configuration has one key: a set of several keys is refused"
	lostPadding     = "the padding under test is missing from the file: the token is that of vector 357, which is valid"
	strictSpelling  = "the vector tolerates a character outside base64url; we do not"
	vectorsTypo     = `the vector's key_ops has the one element "sign, verify", which is no operation`
)

// unfitting lists the Wycheproof vectors whose expected result differs from ours, with
// the reason.
var unfitting = map[string]map[int]string{
	"json_web_signature_test.json": {
		// RS384, RS512
		264: noSuchAlgorithm, 265: noSuchAlgorithm, 266: noSuchAlgorithm, 267: noSuchAlgorithm,
		268: noSuchAlgorithm, 269: noSuchAlgorithm, 270: noSuchAlgorithm, 271: noSuchAlgorithm,
		// PS256, PS384, PS512
		272: noSuchAlgorithm, 273: noSuchAlgorithm, 274: noSuchAlgorithm, 275: noSuchAlgorithm, 287: noSuchAlgorithm, 288: noSuchAlgorithm,
		320: noSuchAlgorithm, 321: noSuchAlgorithm, 322: noSuchAlgorithm, 323: noSuchAlgorithm,
		325: noSuchAlgorithm, 326: noSuchAlgorithm, 327: noSuchAlgorithm, 328: noSuchAlgorithm,
		// RFC 7520 with PS384 and ES512
		346: noSuchAlgorithm, 347: noSuchAlgorithm, 350: noSuchAlgorithm, 351: noSuchAlgorithm,
		349: vectorsTypo,
		367: lostPadding, 370: lostPadding,
		372: strictSpelling, 373: strictSpelling,
	},
	"json_web_key_test.json": {
		2:  keySet,
		7:  "recognizing a ROCA key by its modulus would need our own RSA arithmetic; such keys come from smart cards made before 2017",
		14: noSuchAlgorithm, 15: noSuchAlgorithm,
	},
}

// TestWycheproof runs Google's collection of known attacks on JWS and JWK
// implementations.
func TestWycheproof(t *testing.T) {
	for _, file := range []string{"json_web_signature_test.json", "json_web_key_test.json"} {
		var vectors struct {
			NumberOfTests int
			TestGroups    []struct {
				Comment string
				Private json.RawMessage
				Tests   []struct {
					TcID                 int
					Comment, JWS, Result string
				}
			}
		}
		readJSON(t, filepath.Join("testdata", "wycheproof", file), &vectors)
		ran, signatures, differing := 0, 0, map[int]bool{}
		for _, g := range vectors.TestGroups {
			private := g.Private
			var set struct{ Keys []json.RawMessage }
			if json.Unmarshal(private, &set) == nil && len(set.Keys) == 1 {
				private = set.Keys[0]
			}
			k, err := loadVector(private)
			if g.Comment == "base64" {
				// The secret of this group is all zeros. It is refused as a configured
				// key, but its signatures are tested nevertheless.
				if err == nil || !strings.Contains(err.Error(), "repeats one byte") {
					t.Errorf("the secret of zeros: %v", err)
				}
				k, _ = newKey([]byte("any secret that is long enough to be taken"), HS256)
				k.private, k.public = make([]byte, 32), make([]byte, 32)
				err = nil
			}
			// common is the header of this group's valid tokens. In a group without
			// valid tokens, each token's own header is used.
			common := ""
			for _, tt := range g.Tests {
				if h, _, _ := strings.Cut(tt.JWS, "."); tt.Result == "valid" && common == "" {
					common = h
				}
			}
			for _, tt := range g.Tests {
				ran++
				own, _, _ := strings.Cut(tt.JWS, ".")
				header := common
				if header == "" || tt.Result == "valid" {
					header = own
				}
				got := err == nil && accepts(k, header, tt.JWS)
				if err == nil && own == header {
					signatures++
				}
				if want := tt.Result == "valid"; got != want {
					differing[tt.TcID] = true
					if unfitting[file][tt.TcID] == "" {
						t.Errorf("%s %d %s, %s: accepted %v, want %v (%v)", file, tt.TcID, g.Comment, tt.Comment, got, want, err)
					}
				}
			}
		}
		if ran != vectors.NumberOfTests {
			t.Errorf("%s: %d of %d vectors ran", file, ran, vectors.NumberOfTests)
		}
		if file == "json_web_signature_test.json" && signatures < 250 {
			t.Errorf("only %d vectors reached the signature", signatures)
		}
		for id, reason := range unfitting[file] {
			if !differing[id] {
				t.Errorf("%s %d is listed (%s), but fits", file, id, reason)
			}
		}
	}
}

// TestRFC7520 checks the examples of RFC 7520: the examples that fit our algorithms and
// the compact form verify, and the others are refused.
func TestRFC7520(t *testing.T) {
	const otherForm = "it is not in the compact form"
	unfit := map[string]string{
		"4_2": noSuchAlgorithm, "4_3": noSuchAlgorithm, // PS384, ES512
		"4_5": "its content is detached: a token without content is refused", "4_6": otherForm, "4_7": otherForm, "4_8": otherForm,
	}
	type signing struct {
		Protected64 string `json:"protected_b64u"`
		SigInput    string `json:"sig-input"`
		Sig         string
	}
	files, err := filepath.Glob("testdata/rfc7520/*.json")
	if err != nil || len(files) != 8 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		section := filepath.Base(file)[:3]
		t.Run(section, func(t *testing.T) {
			var v struct {
				Reproducible bool
				Input        struct{ Payload string }
				Output       struct{ Compact string }
			}
			var keys struct{ Input struct{ Key json.RawMessage } }
			var signings struct{ Signing json.RawMessage }
			readJSON(t, file, &v)
			readJSON(t, file, &keys)
			readJSON(t, file, &signings)
			var keyList []json.RawMessage
			if json.Unmarshal(keys.Input.Key, &keyList) != nil {
				keyList = []json.RawMessage{keys.Input.Key}
			}
			var signingList []signing
			if json.Unmarshal(signings.Signing, &signingList) != nil {
				signingList = make([]signing, 1)
				if err := json.Unmarshal(signings.Signing, &signingList[0]); err != nil {
					t.Fatal(err)
				}
			}
			good := false
			for i, s := range signingList {
				var kind struct{ Crv string }
				if err := json.Unmarshal(keyList[i], &kind); err != nil {
					t.Fatal(err)
				}
				k, err := loadVector(keyList[i])
				if kind.Crv == "P-521" {
					if err == nil {
						t.Error("a key on P-521 is accepted")
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				sig := make([]byte, 1024)
				sig, ok := decodeSegment(sig, []byte(s.Sig))
				if !ok {
					t.Fatal("the signature is not base64url")
				}
				fits := k.verifier.Verify([]byte(s.SigInput), sig, k.public) == nil
				if section == "4_2" { // PSS padding under RS256
					if fits {
						t.Error("PS384 passes for RS256")
					}
					continue
				}
				if !fits {
					t.Errorf("signature %d is refused", i)
				}
				sig[len(sig)/2] ^= 1
				if k.verifier.Verify([]byte(s.SigInput), sig, k.public) == nil {
					t.Errorf("signature %d is accepted with a bit changed", i)
				}
				if made, err := k.signer.Sign([]byte(s.SigInput), k.private); err != nil ||
					v.Reproducible && base64.RawURLEncoding.EncodeToString(made) != s.Sig {
					t.Errorf("signing again makes another signature: %v", err)
				}
				good = v.Output.Compact != "" && accepts(k, s.Protected64, v.Output.Compact)
			}
			if reason := unfit[section]; good == (reason != "") {
				t.Errorf("accepted %v, but %q", good, reason)
			}
		})
	}
}

// TestVectorsHeadersAreNotOurs: a vector's header must never be taken for one of the
// constants that we write.
func TestVectorsHeadersAreNotOurs(t *testing.T) {
	var vectors struct {
		TestGroups []struct{ Tests []struct{ JWS string } }
	}
	readJSON(t, "testdata/wycheproof/json_web_signature_test.json", &vectors)
	for _, alg := range algorithms {
		for _, g := range vectors.TestGroups {
			for _, tt := range g.Tests {
				if testKeys()[alg].Ours(tt.JWS) {
					t.Errorf("%.80s is taken for our token", tt.JWS)
				}
			}
		}
	}
}
