// Package gate is a request's way in: which credential it shows, whether its
// path needs a token, and which identity headers the upstream gets.
//
// A request passes two steps. [Gate.Prepare] takes everything from it that a
// client could use to claim an identity; it runs on every request, those of our
// own endpoints included. [Gate.Enter] decides whether the request goes on, and
// sets the identity headers if a token proves one.
//
// The package knows net/http and tokens. It knows nothing of Caddy, of stores,
// or of how a token is verified.
package gate
