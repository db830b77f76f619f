package rig

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// EchoUpgrade upgrades requests that ask for it and echoes the bytes that arrive; under /flood
// it sends without end instead. Its answer names the protocol in X-Protocol.
func EchoUpgrade(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" {
		http.Error(w, "no upgrade", http.StatusBadRequest)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	if p := r.Header.Get("X-Protocol"); p != "" {
		fmt.Fprintf(rw, "Sec-WebSocket-Protocol: %s\r\n", p)
	}
	fmt.Fprint(rw, "\r\n")
	if rw.Flush() != nil {
		return
	}
	if strings.HasSuffix(r.URL.Path, "/flood") {
		for block := make([]byte, 64<<10); err == nil; {
			_, err = conn.Write(block)
		}
		return
	}
	_, _ = io.Copy(conn, rw)
}

// Socket is an upgraded connection. It does not use real frames: a single byte, which
// could be part of any frame, is sent and echoed.
type Socket struct {
	io.ReadWriteCloser
	R io.Reader
}

// UpgradeLines are the header lines with which a client requests a WebSocket.
func UpgradeLines(more ...string) []string {
	return append([]string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}, more...)
}

// OpenSocket requests an upgrade with a token.
func OpenSocket(t testing.TB, addr, target, token string) *Socket {
	t.Helper()
	return OpenSocketWith(t, addr, target, "Authorization: Bearer "+token)
}

// OpenSocketWith requests an upgrade with further header lines. The socket is closed at the
// test's end.
func OpenSocketWith(t testing.TB, addr, target string, lines ...string) *Socket {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", target, addr, strings.Join(UpgradeLines(lines...), "\r\n"))
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("not upgraded: %s %s", resp.Status, body)
	}
	return &Socket{conn, r}
}

// Alive fails the test unless the socket echoes.
func (s *Socket) Alive(t testing.TB) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		b := []byte{0}
		_, err := s.Write([]byte{7})
		if err == nil {
			_, err = io.ReadFull(s.R, b)
		}
		if err == nil && b[0] != 7 {
			err = errors.New("something else came back")
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("the socket is dead: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the socket does not echo")
	}
}

// Ends waits for the end of the connection and returns the time at which it came.
func (s *Socket) Ends(t testing.TB, within time.Duration) time.Time {
	t.Helper()
	done := make(chan time.Time, 1)
	go func() {
		_, _ = io.Copy(io.Discard, s.R)
		done <- time.Now()
	}()
	select {
	case at := <-done:
		return at
	case <-time.After(within):
		t.Fatalf("the connection is still there after %s", within)
	}
	return time.Time{}
}
