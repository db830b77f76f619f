package token

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwk"
)

// StaticKeys returns a KeySet with the single key of a configuration: a private key in
// PEM (PKCS #8, PKCS #1, SEC 1) or as a JWK, or the bytes of an HS256 secret, taken as
// they are written. A key that is too weak, public, encrypted, or unsuitable for alg is
// an error that names the remedy and contains nothing of the key.
func StaticKeys(material string, alg Algorithm) (*KeySet, error) {
	k, err := parseKey(material, alg)
	if err != nil {
		return nil, err
	}
	return newKeySet([]member{{key: k}})
}

func parseKey(material string, alg Algorithm) (*key, error) {
	if !alg.known() {
		return nil, fmt.Errorf("unknown algorithm %q", alg)
	}
	trimmed := strings.TrimSpace(material)
	switch {
	case trimmed == "":
		return nil, errors.New("the key is empty")
	case strings.HasPrefix(trimmed, "-----BEGIN"):
		// PEM is refused for HS256 too: the oldest attack on JWTs signs a token with the text
		// of a public key as the HMAC secret.
		if alg == HS256 {
			return nil, errors.New("HS256 needs a secret, not a key in PEM: use the output of: openssl rand -base64 48")
		}
		return parsePEM([]byte(trimmed), alg)
	case strings.HasPrefix(trimmed, "{"):
		object, err := decodeObject([]byte(trimmed))
		if err == nil && (object["kty"] != nil || object["keys"] != nil) {
			return parseJWK([]byte(trimmed), object, alg)
		}
		if alg != HS256 {
			return nil, errors.New("the key begins like a JWK but is not one: it must be one JSON object, without duplicate members or trailing data")
		}
	}
	if alg != HS256 {
		return nil, fmt.Errorf("%s needs a private key in PEM or as a JWK", alg)
	}
	return newKey([]byte(material), alg)
}

func parsePEM(data []byte, alg Algorithm) (*key, error) {
	block, rest := pem.Decode(data)
	if block != nil && block.Type == "EC PARAMETERS" { // openssl ecparam -genkey writes them first
		block, rest = pem.Decode([]byte(strings.TrimSpace(string(rest))))
	}
	if block == nil {
		return nil, errors.New("the key is not PEM that can be read: are its line breaks lost?")
	}
	if len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("something follows the key: give the private key alone, without certificates or a second key")
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["Proc-Type"] != "" || block.Headers["DEK-Info"] != "" {
		return nil, errors.New("the key is encrypted with a passphrase: decrypt it first: openssl pkey -in key.pem")
	}
	if strings.HasSuffix(block.Type, "PUBLIC KEY") || strings.HasSuffix(block.Type, "CERTIFICATE") {
		return nil, errPublic
	}
	var whole asn1.RawValue
	if rest, err := asn1.Unmarshal(block.Bytes, &whole); err != nil {
		return nil, errors.New("the key is not DER that can be read")
	} else if len(rest) > 0 {
		return nil, errors.New("the key's DER has trailing data")
	}
	var raw any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		raw, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		raw, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		raw, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("a PEM block %q is not a readable private key: convert it to PKCS #8: openssl pkey -in key.pem", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("the PEM block %q is not a readable private key: is it whole, and of a common kind?", block.Type)
	}
	return newKey(raw, alg)
}

// parseJWK returns the key of a JWK (RFC 7517). object is data, strictly decoded.
func parseJWK(data []byte, object map[string]any, alg Algorithm) (*key, error) {
	if object["keys"] != nil {
		return nil, errors.New("this is a set of keys: give one of them, {\"kty\": …}")
	}
	if use, set := object["use"]; set && use != "sig" {
		return nil, errors.New(`the JWK's "use" is not "sig": keys for encryption do not sign`)
	}
	if a, set := object["alg"]; set && a != string(alg) {
		return nil, fmt.Errorf(`the JWK's "alg" is not %s`, alg)
	}
	if ops, set := object["key_ops"]; set {
		list, _ := ops.([]any)
		if !slices.Contains(list, any("sign")) {
			return nil, errors.New(`the JWK's "key_ops" lacks "sign"`)
		}
	}
	kty := map[Algorithm]string{ES256: "EC", EdDSA: "OKP", RS256: "RSA", HS256: "oct"}[alg]
	if object["kty"] != kty {
		return nil, fmt.Errorf(`%s needs a JWK with "kty": %q`, alg, kty)
	}
	if crv := map[Algorithm]string{ES256: "P-256", EdDSA: "Ed25519"}[alg]; crv != "" && object["crv"] != crv {
		return nil, fmt.Errorf(`%s needs a JWK with "crv": %q`, alg, crv)
	}
	if alg != HS256 && object["d"] == nil {
		return nil, errPublic
	}
	if alg == RS256 && (object["p"] == nil || object["q"] == nil) {
		return nil, errors.New("the JWK lacks the RSA key's primes (p and q): export it with them")
	}
	parsed, err := jwk.ParseKey(data)
	if err != nil {
		return nil, errors.New("the JWK cannot be read: are all its members there, in base64url?")
	}
	var raw any
	if err := parsed.Raw(&raw); err != nil {
		return nil, errors.New("the JWK cannot be used: its numbers do not belong together")
	}
	return newKey(raw, alg)
}
