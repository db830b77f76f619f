//go:build !unix

package store

import "net"

// hasInput reports whether something has come on an idle connection; here that is not
// known without asking the server.
func hasInput(net.Conn) bool { return true }
