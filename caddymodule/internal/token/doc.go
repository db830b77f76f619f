// Package token mints and verifies the JSON Web Tokens that callers present. It holds
// the signing keys and their rotation, the JWKS, minting, strict verification, and the
// cache of tokens that were already verified.
//
// A token is a compact JWS. Its header is one of a few constants, one for each key and
// type, and is compared byte by byte before anything is parsed. The claims about the
// caller follow RFC 9068; the phone number and the directory's claims are sealed in the
// claim "wx".
//
// The package knows nothing of HTTP, of WeChat or of the place where keys are stored.
// It is the only package that uses jwx, and every signature is made and checked here.
package token
