package token

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
)

const (
	minSecret  = 32   // bytes of an HS256 secret: RFC 7518, section 3.2
	minRSABits = 2048 // RFC 7518, section 3.3
	maxRSABits = 8192 // a signature of a larger key would fill a large part of a token
)

// key is one key that signs and verifies. It never changes. jwx's signers and verifiers
// hold no state, so one of each serves all requests.
type key struct {
	id  string // kid
	alg Algorithm

	private  any // for signer
	signer   jws.Signer
	public   any // for verifier: a publicKey, or the secret itself for HS256
	verifier jws.Verifier
	sigSize  int // bytes of a signature

	jwk jwk.Key // the public key as published; nil for HS256
}

// stableECDSA prevents jwx from copying the private key for each signature: the
// standard library caches precomputed values of a key under the key's address.
type stableECDSA struct{ *ecdsa.PrivateKey }

// publicKey wraps a public key in a crypto.Signer, which jwx accepts without converting
// the key by reflection for each signature. It cannot sign.
type publicKey struct{ key crypto.PublicKey }

func (p publicKey) Public() crypto.PublicKey { return p.key }

func (p publicKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errPublic
}

// newKey checks that raw is a private key suitable for alg, and prepares it. Errors
// name the remedy and contain nothing of the key.
func newKey(raw any, alg Algorithm) (*key, error) {
	k := &key{alg: alg}
	switch raw := raw.(type) {
	case []byte:
		if alg != HS256 {
			return nil, fmt.Errorf("a secret cannot sign with %s: give a private key, or set algorithm HS256", alg)
		}
		if err := checkSecret(raw); err != nil {
			return nil, err
		}
		raw = bytes.Clone(raw)
		k.private, k.public, k.sigSize = raw, raw, sha256.Size
		k.id = secretID(raw)
	case *ecdsa.PrivateKey:
		if alg != ES256 {
			return nil, wrongKind("an EC key", ES256, alg)
		}
		if raw.Curve != elliptic.P256() {
			return nil, errors.New("ES256 needs a key on the curve P-256: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256")
		}
		k.private, k.public, k.sigSize = stableECDSA{raw}, publicKey{&raw.PublicKey}, 64
	case ed25519.PrivateKey:
		if alg != EdDSA {
			return nil, wrongKind("an Ed25519 key", EdDSA, alg)
		}
		// Signatures made with a public half that does not match the private key reveal
		// the private key.
		if len(raw) != ed25519.PrivateKeySize || !raw.Equal(ed25519.NewKeyFromSeed(raw.Seed())) {
			return nil, errors.New("the key's public and private halves do not belong together")
		}
		k.private, k.public, k.sigSize = raw, publicKey{raw.Public()}, ed25519.SignatureSize
	case *rsa.PrivateKey:
		if alg != RS256 {
			return nil, wrongKind("an RSA key", RS256, alg)
		}
		if err := checkRSA(raw); err != nil {
			return nil, err
		}
		k.private, k.public, k.sigSize = raw, publicKey{&raw.PublicKey}, raw.Size()
	case *ecdsa.PublicKey, *rsa.PublicKey, ed25519.PublicKey:
		return nil, errPublic
	default:
		return nil, fmt.Errorf("a key of this kind cannot sign with %s", alg)
	}

	var err error
	if k.signer, err = jws.NewSigner(alg.jwa()); err != nil {
		return nil, err
	}
	if k.verifier, err = jws.NewVerifier(alg.jwa()); err != nil {
		return nil, err
	}
	// A key pair with mismatched halves would sign tokens that nobody accepts.
	probe := []byte("probe")
	sig, err := k.signer.Sign(probe, k.private)
	if err != nil || k.verifier.Verify(probe, sig, k.public) != nil {
		return nil, errors.New("the key's public and private halves do not belong together")
	}
	if alg != HS256 {
		if err := k.publish(); err != nil {
			return nil, err
		}
	}
	return k, nil
}

var errPublic = errors.New("this is a public key: signing needs the private key")

func wrongKind(what string, fits, alg Algorithm) error {
	return fmt.Errorf("%s cannot sign with %s: set algorithm %s, or give a key for %s", what, alg, fits, alg)
}

func checkSecret(secret []byte) error {
	if len(secret) < minSecret {
		return fmt.Errorf("an HS256 secret of %d bytes is too short: use at least %d, such as the output of: openssl rand -base64 48", len(secret), minSecret)
	}
	if bytes.Count(secret, secret[:1]) == len(secret) {
		return errors.New("an HS256 secret that repeats one byte can be guessed: use the output of: openssl rand -base64 48")
	}
	return nil
}

func checkRSA(k *rsa.PrivateKey) error {
	const generate = "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048"
	if k.N == nil || k.N.BitLen() < minRSABits {
		return fmt.Errorf("an RSA key below %d bits is too weak: %s", minRSABits, generate)
	}
	if k.N.BitLen() > maxRSABits {
		return fmt.Errorf("an RSA key above %d bits makes tokens too long: %s", maxRSABits, generate)
	}
	if k.E < 3 || k.E%2 == 0 {
		return fmt.Errorf("an RSA key with the public exponent %d is broken: %s", k.E, generate)
	}
	if err := k.Validate(); err != nil {
		return fmt.Errorf("the RSA key is broken: its numbers do not belong together: %s", generate)
	}
	return nil
}

// secretID returns an id for a secret. The id does not help an attacker to guess the
// secret: checking a guess against it costs as much as checking the guess against a
// token's MAC.
func secretID(secret []byte) string {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte("wx_auth kid"))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:16])
}

// publish sets the public JWK and the key id, which is its RFC 7638 thumbprint.
func (k *key) publish() error {
	pub, err := jwk.FromRaw(k.public.(publicKey).key)
	if err != nil {
		return fmt.Errorf("making a JWK: %w", err)
	}
	sum, err := pub.Thumbprint(crypto.SHA256)
	if err != nil {
		return fmt.Errorf("making a key id: %w", err)
	}
	k.id = base64.RawURLEncoding.EncodeToString(sum)
	k.jwk = pub
	return errors.Join(
		pub.Set(jwk.KeyIDKey, k.id),
		pub.Set(jwk.AlgorithmKey, k.alg.jwa()),
		pub.Set(jwk.KeyUsageKey, jwk.ForSignature),
	)
}

// generate creates a new key and its private JWK, the form that a key store keeps.
func generate(alg Algorithm) (*key, []byte, error) {
	var raw any
	var err error
	switch alg {
	case ES256:
		raw, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case EdDSA:
		_, raw, err = ed25519.GenerateKey(rand.Reader)
	case RS256:
		raw, err = rsa.GenerateKey(rand.Reader, minRSABits)
	case HS256:
		secret := make([]byte, 64)
		rand.Read(secret)
		raw = secret
	default:
		err = fmt.Errorf("unknown algorithm %q", alg)
	}
	if err != nil {
		return nil, nil, err
	}
	k, err := newKey(raw, alg)
	if err != nil {
		return nil, nil, err
	}
	private, err := jwk.FromRaw(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("making a JWK: %w", err)
	}
	if err := errors.Join(private.Set(jwk.KeyIDKey, k.id), private.Set(jwk.AlgorithmKey, alg.jwa()),
		private.Set(jwk.KeyUsageKey, jwk.ForSignature)); err != nil {
		return nil, nil, err
	}
	data, err := json.Marshal(private)
	if err != nil {
		return nil, nil, fmt.Errorf("writing a JWK: %w", err)
	}
	return k, data, nil
}
