// Package client holds the source of the npm package of this directory, so that the demo
// serves to its page what mini programs import.
package client

import "embed"

// Source holds src with the modules, as a browser can import them.
//
//go:embed src
var Source embed.FS
