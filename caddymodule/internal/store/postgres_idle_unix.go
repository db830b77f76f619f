//go:build unix

package store

import (
	"crypto/tls"
	"net"
	"syscall"
)

// hasInput reports whether an idle connection has received its end or a message from the server,
// which usually announces a shutdown. It does not wait.
func hasInput(conn net.Conn) bool {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	s, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return true
	}
	quiet := false
	// Read would wait for a reader that pgx may have left behind.
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
		quiet = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
	})
	return err != nil || !quiet
}
