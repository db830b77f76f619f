//go:build linux

package bench

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// signing is a key with which both the gateway and the benchmark sign.
type signing struct {
	algorithm string
	file      string // for `token { key … }`
	private   any
}

func newSigning(t testing.TB, algorithm string) signing {
	t.Helper()
	s := signing{algorithm: algorithm, file: filepath.Join(t.TempDir(), "key.pem")}
	var err error
	switch algorithm {
	case "ES256":
		s.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, s.private, err = ed25519.GenerateKey(rand.Reader)
	case "RS256":
		s.private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "HS256":
		s.private = []byte(strings.Repeat("a secret of 48 bytes", 3))
	}
	if err != nil {
		t.Fatal(err)
	}
	text, ok := s.private.([]byte)
	if !ok {
		der, err := x509.MarshalPKCS8PrivateKey(s.private)
		if err != nil {
			t.Fatal(err)
		}
		text = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	if err := os.WriteFile(s.file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// tokens returns n tokens with the claims of the given one, each with its own jti.
func (s signing) tokens(t testing.TB, token string, n int) []string {
	t.Helper()
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(payload), `"jti":"`)
	_, after, ended := strings.Cut(rest, `"`)
	if !ok || !ended {
		t.Fatalf("no jti in %s", payload)
	}
	list := make([]string, n)
	for i := range list {
		var id [16]byte
		rand.Read(id[:]) // never fails
		signed := parts[0] + "." + encode([]byte(before+`"jti":"`+encode(id[:])+`"`+after))
		list[i] = signed + "." + encode(s.sign(t, []byte(signed)))
	}
	return list
}

func (s signing) sign(t testing.TB, signed []byte) (signature []byte) {
	var err error
	sum := sha256.Sum256(signed)
	switch k := s.private.(type) {
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, k, sum[:])
		signature = make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
		err = e
	case ed25519.PrivateKey:
		signature = ed25519.Sign(k, signed)
	case *rsa.PrivateKey:
		signature, err = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	case []byte:
		m := hmac.New(sha256.New, k)
		m.Write(signed)
		signature = m.Sum(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// options returns the options of wx_auth for that key.
func (s signing) options() string {
	return fmt.Sprintf("token {\nalgorithm %s\nkey {file.%s}\nlifetime 12h\n}", s.algorithm, s.file)
}

// login logs in a user and returns the token, from which further tokens are made.
func login(t testing.TB, c *rig.Caddy, wx *rig.WeChat) string {
	t.Helper()
	codes := wx.Tap(t, "13800138000")
	return c.Client().Login(codes.Code, codes.PhoneCode).Pair(t).Token
}
