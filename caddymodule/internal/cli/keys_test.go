package cli

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// Of two sites on one store, one signs with a key of the configuration. An operator who looks for
// the kid of a token finds it in the table, as in JSON.
func TestKeysListsConfiguredAndGenerated(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	static, err := token.StaticKeys(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), token.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.New("sqlite:"+filepath.Join(t.TempDir(), "wx.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	ring := token.RingSettings{Algorithm: token.ES256, Lifetime: time.Hour}
	o := &Store{Name: "sqlite", Store: db.With(nil), Rings: []token.RingSettings{ring}, Static: []*token.KeySet{static}}
	if err := o.Reopen(t.Context()); err != nil {
		t.Fatal(err)
	}
	generated := token.NewRing()
	if err := generated.Load(t.Context(), o.Store, ring, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, json := range []bool{false, true} {
		var list Keys
		var text bytes.Buffer
		out := Output{Writer: &text, JSON: json}
		if err := list.Add(t.Context(), out, o, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := list.Write(out); err != nil {
			t.Fatal(err)
		}
		for _, kid := range append(static.IDs(), generated.Keys().IDs()...) {
			if !strings.Contains(text.String(), kid) {
				t.Errorf("JSON %v: %s is not listed:\n%s", json, kid, text.String())
			}
		}
	}
}
