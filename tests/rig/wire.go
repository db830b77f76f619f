package rig

import (
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Wire is a TCP proxy in front of a database server, as if the server were in another
// zone. It delays and counts round trips: a request by the client, followed by an
// answer.
type Wire struct {
	addr  string // of the server
	delay time.Duration
	n     atomic.Int64

	mu     sync.Mutex
	conns  []net.Conn
	closed bool
}

// Turnarounds returns the number of round trips so far, on all connections.
func (w *Wire) Turnarounds() int64 { return w.n.Load() }

// Behind returns the database as seen through a Wire that delays each round trip. The
// embedded handle still connects directly. An SQLite file needs no connection, so it is
// returned unchanged.
func (d *Database) Behind(t testing.TB, delay time.Duration) (*Database, *Wire) {
	t.Helper()
	w := &Wire{delay: delay}
	if d.Kind == "sqlite" {
		return d, w
	}
	u, err := url.Parse(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	w.addr = u.Host
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { w.carry(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		w.close()
		serving.Wait()
	})
	u.Host = listener.Addr().String()
	behind := *d
	behind.URL = u.String()
	return &behind, w
}

// carry forwards what one connection sends in both directions.
func (w *Wire) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", w.addr)
	if err != nil {
		return
	}
	defer server.Close()
	if !w.keep(client, server) {
		return
	}
	var answered atomic.Bool // the server has sent something since the client did
	answered.Store(true)
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(client, readerFunc(func(p []byte) (int, error) {
			n, err := server.Read(p)
			answered.Store(true)
			return n, err
		}))
		client.Close()
	})
	_, _ = io.Copy(server, readerFunc(func(p []byte) (int, error) {
		n, err := client.Read(p)
		if n > 0 && answered.Swap(false) {
			w.n.Add(1)
			time.Sleep(w.delay)
		}
		return n, err
	}))
	server.Close()
	back.Wait()
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// keep remembers connections to close later. It returns false if they have been closed
// already.
func (w *Wire) keep(conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, conns...)
	return !w.closed
}

func (w *Wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, c := range w.conns {
		c.Close()
	}
}
