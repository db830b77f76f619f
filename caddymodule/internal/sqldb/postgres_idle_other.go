//go:build !unix

package sqldb

import "net"

// hasInput reports whether an idle connection has received something. This system has no means to
// look without waiting, so it returns true, and the caller asks the server.
func hasInput(net.Conn) bool { return true }
