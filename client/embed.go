// Package client holds the source of this directory's npm package. With it, the demo serves to
// its page the same modules that mini programs import.
package client

import "embed"

// Source holds src with the modules, as a browser can import them.
//
//go:embed src
var Source embed.FS
