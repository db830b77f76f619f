package caddymodule

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/conn"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// upgrades reports whether a request may turn its connection into something
// else than HTTP requests: a WebSocket, over HTTP/1.1 or by extended CONNECT.
func upgrades(r *http.Request) bool {
	return r.Method == http.MethodConnect || len(r.Header["Upgrade"]) > 0
}

// serveUpgrade lets a request on whose connection, if it is upgraded, ends with
// its token and with its session. A request that only asks for an upgrade, as
// Java's client does in every one (Upgrade: h2c), is served to its end: what
// counts is that somebody takes the connection over.
func (s *site) serveUpgrade(w http.ResponseWriter, given, r *http.Request, caller *token.Identity, next caddyhttp.Handler) error {
	ctx, cancel := context.WithCancelCause(r.Context())
	u := &upgrade{
		ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		site:                  s, caller: caller, cancel: cancel,
	}
	defer u.done()
	if r.Method == http.MethodConnect {
		// Over HTTP/2 and HTTP/3 nobody takes the connection: the stream is the
		// connection. The server's own writer ends it, as Caddy's around it is for
		// one goroutine.
		u.begin(stream{conn.Innermost(w)})
	}
	return forward(u, given, r.WithContext(ctx), next) // what asks for an upgrade may be an upload all the same
}

// stream closes a stream of HTTP/2 or HTTP/3: deadlines in the past end its
// reading and its writing.
type stream struct{ http.ResponseWriter }

func (s stream) Close() error {
	rc, past := http.NewResponseController(s.ResponseWriter), time.Unix(1, 0)
	return errors.Join(rc.SetReadDeadline(past), rc.SetWriteDeadline(past))
}

// upgrade is the way of an answer that may become a connection. There is one for
// each open WebSocket, so it is kept small.
type upgrade struct {
	caddyhttp.ResponseWriterWrapper
	site       *site
	caller     *token.Identity
	cancel     context.CancelCauseFunc // ends the request's context
	watched    *session.Watched        // nil until the connection has begun
	connection io.Closer
	ending     sync.Mutex
	over       bool // the handler is done, or about to be
}

// begin watches the connection from now on.
func (u *upgrade) begin(connection io.Closer) {
	u.connection = connection
	u.watched = u.site.state.Revoked.Watch(u.caller.SessionID(), u.caller.Expires(), u)
}

// End implements [session.Connection]. It closes the connection itself: a proxy
// that waits for a client that neither reads nor sends would not see that the
// context has ended.
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

// WriteHeader keeps the credential out of what the answer says was agreed on.
func (u *upgrade) WriteHeader(status int) {
	u.site.gate.DropEcho(u.Header())
	u.ResponseWriterWrapper.WriteHeader(status)
}

// Hijack is how a proxy takes an HTTP/1.1 connection over.
func (u *upgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err == nil && u.watched == nil {
		u.begin(conn)
	}
	return conn, rw, err
}

// Interface guards
var (
	_ http.Hijacker       = (*upgrade)(nil)
	_ http.ResponseWriter = (*upgrade)(nil)
	_ session.Connection  = (*upgrade)(nil)
)
