package operation

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// Backends that verify tokens themselves rely on the JWKS and on what docs/backends.md
// promises about tokens.
func TestJWKSVerifiesTheTokens(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	for _, alg := range []struct {
		name    string
		members []string
	}{
		{"ES256", []string{"alg", "crv", "kid", "kty", "use", "x", "y"}},
		{"EdDSA", []string{"alg", "crv", "kid", "kty", "use", "x"}},
		{"RS256", []string{"alg", "e", "kid", "kty", "n", "use"}},
	} {
		t.Run(alg.name, func(t *testing.T) {
			if alg.name != "ES256" { // ES256 is the default
				// This site has a store of its own. In a shared one, the former key
				// would sign until every replica knows the new one.
				r.MustReload(t, rig.GatewaySite("store sqlite:{env.HOME}/"+alg.name+".db", "token {\nalgorithm "+alg.name+"\n}"))
			}
			token := r.MustLogin(t, "13800138000").Token
			r.Get("/", token).Want(t, http.StatusOK)

			a := r.Get("/auth/wx/jwks.json", "")
			a.Want(t, http.StatusOK)
			if got := a.Header.Get("Cache-Control"); got != "max-age=300" {
				t.Errorf("cache-control %q", got)
			}
			if got := a.Header.Get("Content-Type"); got != "application/json" && got != "application/jwk-set+json" {
				t.Errorf("content type %q", got)
			}
			rig.WantMembers(t, a.Body, "keys")
			var raw struct{ Keys []json.RawMessage }
			if err := json.Unmarshal([]byte(a.Body), &raw); err != nil {
				t.Fatal(err)
			}
			if len(raw.Keys) == 0 {
				t.Fatal("no keys")
			}
			for _, key := range raw.Keys {
				if got := rig.Members(t, string(key)); !slices.Equal(got, alg.members) {
					t.Errorf("members %q, want %q", got, alg.members)
				}
			}

			set, err := jwk.ParseString(a.Body)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := jws.Verify([]byte(token), jws.WithKeySet(set)); err != nil {
				t.Errorf("the published keys do not verify the token: %v", err)
			}
			header := rig.JWTPart(t, token, 0)
			kid, _ := header["kid"].(string)
			key, ok := set.LookupKeyID(kid)
			if !ok {
				t.Fatalf("the token's key %q is not published", kid)
			}
			if print, err := key.Thumbprint(crypto.SHA256); err != nil || base64.RawURLEncoding.EncodeToString(print) != kid {
				t.Errorf("kid %q is not the key's thumbprint (%v)", kid, err)
			}
			if header["alg"] != alg.name || key.Algorithm().String() != alg.name || key.KeyUsage() != "sig" {
				t.Errorf("alg %v in the token, %s for %s published", header["alg"], key.Algorithm(), key.KeyUsage())
			}
		})
	}
	t.Run("HS256", func(t *testing.T) {
		const secret = "a secret that is longer than thirty-two bytes"
		r.MustReload(t, rig.GatewaySite("token {\nalgorithm HS256\nkey \""+secret+"\"\n}"))
		token := r.MustLogin(t, "13800138000").Token
		r.Get("/", token).Want(t, http.StatusOK)
		if _, err := jws.Verify([]byte(token), jws.WithKey(jwa.HS256, []byte(secret))); err != nil {
			t.Errorf("the secret does not verify the token: %v", err)
		}

		a := r.Get("/auth/wx/jwks.json", "")
		a.Want(t, http.StatusOK)
		rig.WantMembers(t, a.Body, "keys")
		var set struct{ Keys []json.RawMessage }
		if err := json.Unmarshal([]byte(a.Body), &set); err != nil || set.Keys == nil || len(set.Keys) != 0 {
			t.Errorf("the set is not empty: %s (%v)", a.Body, err)
		}
		if got := a.Header.Get("Cache-Control"); got != "max-age=300" {
			t.Errorf("cache-control %q", got)
		}
	})
}

// An operator changes the algorithm. Backends must see the new key in the JWKS before
// it signs.
func TestNewAlgorithmIsPublishedBeforeItSigns(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	before := r.MustLogin(t, "13800138000").Token
	r.MustReload(t, rig.GatewaySite("token {\nalgorithm EdDSA\n}"))
	r.Get("/", before).Want(t, http.StatusOK)
	after := r.MustLogin(t, "13800138000").Token
	if got, want := strings.Split(after, ".")[0], strings.Split(before, ".")[0]; got != want {
		t.Errorf("a key signs that nobody has seen: %v", rig.JWTPart(t, after, 0))
	}
	a := r.Get("/auth/wx/jwks.json", "")
	set, err := jwk.ParseString(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	var algorithms []string
	for i := range set.Len() {
		key, _ := set.Key(i)
		algorithms = append(algorithms, key.Algorithm().String())
	}
	if slices.Sort(algorithms); !slices.Equal(algorithms, []string{"ES256", "EdDSA"}) {
		t.Errorf("published are keys for %q", algorithms)
	}
}
