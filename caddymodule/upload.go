package caddymodule

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// forward lets a request on. A body that cannot be read to its end is its
// client's fault, and is answered as such: to Caddy's proxy it looks like a
// failure of the upstream, a 502, for which it may leave the upstream out. The
// request that we were given is the one that Caddy's error routes go on with, and
// there may be a proxy there, too.
func forward(w http.ResponseWriter, given, r *http.Request, next caddyhttp.Handler) error {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 || r.Method == http.MethodConnect {
		return next.ServeHTTP(w, r)
	}
	body := &upload{ReadCloser: r.Body}
	body.left.Store(r.ContentLength)
	given.Body, r.Body = body, body
	answer := &uploadAnswer{ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, body: body}
	err := next.ServeHTTP(answer, r)
	cause := body.failed.Load()
	if cause == nil {
		return err
	}
	given.Body, given.ContentLength = http.NoBody, 0 // what is left of it is nobody's
	delete(given.Header, "Content-Length")
	if answer.heldBack {
		err = caddyhttp.Error(statusClosed, *cause) // which stays what it is if it has a status, such as 413
	}
	he, ok := errors.AsType[caddyhttp.HandlerError](err)
	if !ok || he.StatusCode < statusClosed {
		return err
	}
	he.StatusCode = http.StatusBadRequest
	if timeout, ok := errors.AsType[net.Error](*cause); ok && timeout.Timeout() {
		he.StatusCode = http.StatusRequestTimeout
	}
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close") // who knows where the next request begins
	}
	return he
}

// upload is the body of a request. A proxy reads it in a goroutine of its own, which
// may outlast it.
type upload struct {
	io.ReadCloser
	left   atomic.Int64          // bytes to come; negative if their number is not known
	failed atomic.Pointer[error] // why it could not be read to its end
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if u.left.Load() >= 0 {
		if u.left.Add(-int64(n)) > 0 && err == io.EOF {
			err = io.ErrUnexpectedEOF // HTTP/3's server does not say so
		}
	}
	if err != nil && err != io.EOF && !errors.Is(err, http.ErrBodyReadAfterClose) {
		u.failed.CompareAndSwap(nil, &err)
		return n, givenUp{err}
	}
	return n, err
}

// givenUp is why a body could not be read to its end. Caddy's proxy takes it for a
// client that hung up: it counts nothing against the upstream (fail_duration), and
// tries no other one.
type givenUp struct{ error }

func (g givenUp) Unwrap() error { return g.error }

func (givenUp) Is(target error) bool { return target == context.Canceled }

// statusClosed is what Caddy's proxy answers to nobody when a client hung up.
const statusClosed = 499

// uploadAnswer is the way of the answer to an upload. Where the proxy takes the
// client for gone, the answer is held back: the client may well be there.
type uploadAnswer struct {
	caddyhttp.ResponseWriterWrapper
	body     *upload
	heldBack bool
}

func (a *uploadAnswer) WriteHeader(status int) {
	if status == statusClosed && a.body.failed.Load() != nil {
		a.heldBack = true
		return
	}
	a.ResponseWriterWrapper.WriteHeader(status)
}

func (a *uploadAnswer) Write(p []byte) (int, error) {
	if a.heldBack {
		return len(p), nil
	}
	return a.ResponseWriterWrapper.Write(p)
}

// ReadFrom implements [io.ReaderFrom], by which proxies copy.
func (a *uploadAnswer) ReadFrom(r io.Reader) (int64, error) {
	if a.heldBack {
		return io.Copy(io.Discard, r)
	}
	return a.ResponseWriterWrapper.ReadFrom(r)
}
