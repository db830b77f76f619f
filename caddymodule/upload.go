package caddymodule

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// forward lets a request on. A body that cannot be read to its end is its
// client's fault, and is answered as such: to Caddy's proxy it looks like a
// failure of the upstream, a 502.
func forward(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 || r.Method == http.MethodConnect {
		return next.ServeHTTP(w, r)
	}
	body := &upload{ReadCloser: r.Body, left: r.ContentLength}
	r.Body = body
	err := next.ServeHTTP(w, r)
	cause := body.failed.Load()
	if err == nil || cause == nil {
		return err
	}
	he, ok := errors.AsType[caddyhttp.HandlerError](err)
	if !ok || he.StatusCode < http.StatusInternalServerError {
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

// upload is the body of a request. A proxy reads it in a goroutine of its own.
type upload struct {
	io.ReadCloser
	left   int64                 // bytes to come; negative if their number is not known
	failed atomic.Pointer[error] // why it could not be read to its end
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if u.left >= 0 {
		if u.left -= int64(n); err == io.EOF && u.left > 0 {
			err = io.ErrUnexpectedEOF // HTTP/3's server does not say so
		}
	}
	if err != nil && err != io.EOF && !errors.Is(err, http.ErrBodyReadAfterClose) {
		u.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}
