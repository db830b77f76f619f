// Package gate admits or refuses requests. It decides which credential a request
// presents, whether the path needs a token, and which identity headers the upstream
// gets.
//
// A request passes two steps. [Gate.Prepare] removes everything that a client could use
// to claim an identity; it runs on every request, including those to our own endpoints.
// [Gate.Enter] decides whether the request proceeds, and sets the identity headers if a
// token proves an identity.
//
// The package knows net/http and tokens. It knows nothing of Caddy, of stores, or of
// how a token is verified.
package gate
