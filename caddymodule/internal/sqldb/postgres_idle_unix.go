//go:build unix

package sqldb

import (
	"crypto/tls"
	"net"
	"syscall"
)

// hasInput reports, without waiting, whether the server has closed an idle connection or has sent a
// message on it. Such a message usually announces a shutdown.
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
	// raw.Read would wait for another reader, which pgx may have left behind. raw.Control does not
	// wait.
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
		quiet = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
	})
	return err != nil || !quiet
}
