// Package token makes and checks the JSON Web Tokens that callers show: signing
// keys and their rotation, the JWKS, minting, strict verification, and the
// cache of tokens that were verified already.
//
// A token is a compact JWS whose header is one of a few constants, one for each
// key and type, compared byte by byte before anything is parsed. What it says
// of the caller follows RFC 9068; the phone number and what the directory said
// are sealed in the claim "wx".
//
// The package knows nothing of HTTP, of WeChat or of where keys are stored. It
// is the only one that uses jwx, and every signature is made and checked there.
package token
