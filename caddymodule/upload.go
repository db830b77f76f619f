package caddymodule

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/conn"
)

// forward passes a request on. A body that cannot be read to its end is the client's
// fault, and the answer says so: Caddy's proxy would take it for a failure of the
// upstream, answer 502, and might count it against the upstream (fail_duration).
// Caddy's error routes, which may hold a proxy too, go on with the given request.
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
	given.Body, given.ContentLength = http.NoBody, 0 // the rest of it must not be read
	delete(given.Header, "Content-Length")
	if answer.heldBack {
		err = caddyhttp.Error(statusClosed, *cause) // which keeps a status of its own, such as 413
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
		w.Header().Set("Connection", "close") // nothing says where the next request begins
		conn.CloseInSteps(w)
	}
	return he
}

// upload is the body of a request. A proxy reads it in its own goroutine, which may
// outlast the request.
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

// givenUp is the error of a body that could not be read to its end. Caddy's proxy
// takes it for a client that hung up: it counts nothing against the upstream
// (fail_duration), and tries no other one.
type givenUp struct{ error }

func (g givenUp) Unwrap() error { return g.error }

func (givenUp) Is(target error) bool { return target == context.Canceled }

// statusClosed is the status that Caddy's proxy writes when a client hung up.
const statusClosed = 499

// uploadAnswer is the ResponseWriter for an upload. It drops the 499 of a proxy that
// takes the client for gone, as the client may well be there.
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
