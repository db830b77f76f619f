package rig

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// Seen is a request as the API behind the gateway received it.
type Seen struct {
	Method, URI, Path, Host, Proto string
	Header                         http.Header
	Trailer                        http.Header // known after the body
	Body                           string
}

// Upstream is the API behind the gateway: a server that counts and records the requests
// that reach it. It answers 200 with the [Seen] as JSON, unless SetHandler was called.
type Upstream struct {
	Addr string // host:port

	mu      sync.Mutex
	hits    int
	seen    []Seen
	delay   time.Duration
	handler http.Handler
}

// NewUpstream starts an Upstream for the time of the test.
func NewUpstream(t testing.TB) *Upstream {
	t.Helper()
	u := new(Upstream)
	u.Addr = Serve(t, u)
	return u
}

// Hits returns how many requests have arrived.
func (u *Upstream) Hits() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.hits
}

// Requests returns the requests that have been read to their end, oldest first.
func (u *Upstream) Requests() []Seen {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.seen)
}

// Last returns the newest of Requests; if there is none, the test ends.
func (u *Upstream) Last(t testing.TB) Seen {
	t.Helper()
	seen := u.Requests()
	if len(seen) == 0 {
		t.Fatal("nothing reached the upstream")
	}
	return seen[len(seen)-1]
}

// SetDelay delays each answer.
func (u *Upstream) SetDelay(d time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.delay = d
}

// SetHandler makes h answer from now on; nil restores the usual answer. h reads the
// body itself, so such requests are counted but not in Requests.
func (u *Upstream) SetHandler(h http.Handler) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.handler = h
}

func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.hits++
	delay, handler := u.delay, u.handler
	u.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-r.Context().Done():
			return
		}
	}
	if handler != nil {
		handler.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	seen := Seen{
		Method: r.Method, URI: r.RequestURI, Path: r.URL.Path, Host: r.Host, Proto: r.Proto,
		Header: r.Header.Clone(), Trailer: r.Trailer.Clone(), Body: string(body),
	}
	u.mu.Lock()
	u.seen = append(u.seen, seen)
	u.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(seen)
}

// Serve serves h on a free port of 127.0.0.1 until the test ends, and returns the
// address. Unlike httptest's server, it is closed without waiting for its handlers.
func Serve(t testing.TB, h http.Handler) string {
	t.Helper()
	addr, _ := serve(t, h)
	return addr
}

func serve(t testing.TB, h http.Handler) (addr string, srv *http.Server) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv = &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(ln)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-served
	})
	return ln.Addr().String(), srv
}
