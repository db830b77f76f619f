package caddymodule

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

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
func (s *site) serveUpgrade(w http.ResponseWriter, r *http.Request, caller *token.Identity, next caddyhttp.Handler) error {
	ctx, cancel := context.WithCancelCause(r.Context())
	u := &upgrade{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		site:                  s, caller: caller, ctx: ctx, cancel: cancel,
	}
	defer u.done()
	if r.Method == http.MethodConnect {
		// Over HTTP/2 and HTTP/3 nobody takes the connection: the stream is the
		// connection. Deadlines in the past end its reading and its writing. They
		// go to the server's own writer, as Caddy's around it is for one goroutine.
		u.begin(func() {
			rc, past := http.NewResponseController(innermost(w)), time.Unix(1, 0)
			_ = rc.SetReadDeadline(past)
			_ = rc.SetWriteDeadline(past)
		})
	}
	return next.ServeHTTP(u, r.WithContext(ctx))
}

func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = u.Unwrap()
	}
}

// upgrade is the way of an answer that may become a connection.
type upgrade struct {
	*caddyhttp.ResponseWriterWrapper
	site   *site
	caller *token.Identity
	ctx    context.Context // of the request; cancel ends it
	cancel context.CancelCauseFunc
	end    func() // once it has begun
}

// begin watches the connection from now on. close is called when its time is
// over: a proxy that waits for a client that neither reads nor sends would not
// see that the context has ended.
func (u *upgrade) begin(closeConn func()) {
	watched, release := u.site.shared.revoked.Watch(u.ctx, u.caller.SessionID(), u.caller.Expires())
	ended := make(chan struct{})
	stop := context.AfterFunc(watched, func() {
		defer close(ended)
		u.cancel(context.Cause(watched))
		closeConn()
	})
	u.end = func() {
		if !stop() {
			<-ended // the server's writer must not be touched once the handler is done
		}
		release()
	}
}

func (u *upgrade) done() {
	if u.end != nil {
		u.end()
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
	if err == nil && u.end == nil {
		u.begin(func() { _ = conn.Close() })
	}
	return conn, rw, err
}

// Interface guards
var (
	_ http.Hijacker       = (*upgrade)(nil)
	_ http.ResponseWriter = (*upgrade)(nil)
)
