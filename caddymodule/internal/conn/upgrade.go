package conn

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Keeper decides how long a connection may last that no longer carries HTTP requests.
type Keeper interface {
	// Watch is called when the connection begins. The keeper may call End until the connection is
	// released.
	Watch(interface{ End(why error) }) Watched
	// Answer may change the header of the answer, just before it is sent.
	Answer(http.Header)
}

// Watched is a connection that a [Keeper] watches.
type Watched interface{ Release() }

// Upgrades reports whether a request may turn its connection into a WebSocket or another connection
// without HTTP requests, over HTTP/1.1 or by extended CONNECT.
func Upgrades(r *http.Request) bool {
	return r.Method == http.MethodConnect || len(r.Header["Upgrade"]) > 0
}

// ServeUpgrade serves such a request. The keeper watches the connection only from the moment when
// it is taken over. A request that asks for an upgrade and gets none is served to its end. Java's
// client asks in every request (Upgrade: h2c).
func ServeUpgrade(w http.ResponseWriter, r *http.Request, keeper Keeper, serve func(http.ResponseWriter, *http.Request) error) error {
	ctx, cancel := context.WithCancelCause(r.Context())
	u := &upgrade{writer: writer{w}, keeper: keeper, cancel: cancel}
	defer u.done()
	if r.Method == http.MethodConnect {
		// Over HTTP/2 and HTTP/3 no connection is taken over: the stream serves as the connection.
		// The server's own writer ends it, because only one goroutine may use the writers around
		// that one.
		u.begin(stream{Innermost(w)})
	}
	return serve(u, r.WithContext(ctx))
}

// stream closes a stream of HTTP/2 or HTTP/3: deadlines in the past end its
// reading and its writing.
type stream struct{ http.ResponseWriter }

func (s stream) Close() error {
	rc, past := http.NewResponseController(s.ResponseWriter), time.Unix(1, 0)
	return errors.Join(rc.SetReadDeadline(past), rc.SetWriteDeadline(past))
}

// upgrade is the writer of an answer that may become a connection. Each open WebSocket
// has one, so it is kept small.
type upgrade struct {
	writer
	keeper     Keeper
	cancel     context.CancelCauseFunc // ends the request's context
	watched    Watched                 // nil until the connection has begun
	connection io.Closer
	ending     sync.Mutex
	over       bool // the handler is done, or about to be
}

// begin watches the connection from now on.
func (u *upgrade) begin(connection io.Closer) {
	u.connection = connection
	u.watched = u.keeper.Watch(u)
}

// End ends the context and closes the connection. A proxy that waits for a client that neither
// reads nor sends would not notice the end of the context.
func (u *upgrade) End(why error) {
	u.cancel(why)
	go func() { // closing may take its time
		u.ending.Lock()
		defer u.ending.Unlock()
		if !u.over {
			_ = u.connection.Close()
		}
	}()
}

func (u *upgrade) done() {
	if u.watched != nil {
		u.watched.Release()
		// The server's writer must not be touched once the handler is done.
		u.ending.Lock()
		u.over = true
		u.ending.Unlock()
	}
	u.cancel(context.Canceled)
}

// WriteHeader implements [http.ResponseWriter].
func (u *upgrade) WriteHeader(status int) {
	u.keeper.Answer(u.Header())
	u.ResponseWriter.WriteHeader(status)
}

// Hijack implements [http.Hijacker], which a proxy uses to take an HTTP/1.1 connection over.
func (u *upgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err == nil && u.watched == nil {
		u.begin(conn)
	}
	return conn, rw, err
}

// writer passes on the optional methods of a ResponseWriter that Caddy's handlers use.
type writer struct{ http.ResponseWriter }

// ReadFrom implements [io.ReaderFrom], which proxies use to copy a body.
func (w writer) ReadFrom(r io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, r) }

// Push implements [http.Pusher], which Caddy's push directive asks for.
func (w writer) Push(target string, opts *http.PushOptions) error {
	if p, ok := w.ResponseWriter.(http.Pusher); ok {
		return p.Push(target, opts)
	}
	return http.ErrNotSupported
}

// Unwrap lets [http.ResponseController] reach the writer inside.
func (w writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
