package conn

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

// Upload is the body of a request that is passed on. It records whether reading it failed before
// its end, which is the client's fault and not the upstream's. A proxy reads the body in its own
// goroutine, which may outlast the request.
type Upload struct {
	io.ReadCloser
	left   atomic.Int64          // bytes to come; negative if their number is not known
	failed atomic.Pointer[error] // the error of the read that failed
}

// NewUpload returns the body of a request as an Upload; nil if there is none.
func NewUpload(r *http.Request) *Upload {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 || r.Method == http.MethodConnect {
		return nil
	}
	u := &Upload{ReadCloser: r.Body}
	u.left.Store(r.ContentLength)
	return u
}

func (u *Upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if u.left.Load() >= 0 {
		if u.left.Add(-int64(n)) > 0 && err == io.EOF {
			err = io.ErrUnexpectedEOF // HTTP/3's server returns a plain io.EOF then
		}
	}
	if err != nil && err != io.EOF && !errors.Is(err, http.ErrBodyReadAfterClose) {
		u.failed.CompareAndSwap(nil, &err)
		return n, givenUp{err}
	}
	return n, err
}

// Failed returns the error of the read that failed, or nil if none has.
func (u *Upload) Failed() error {
	if err := u.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Status returns the HTTP status for a client whose body failed.
func (u *Upload) Status() int {
	if timeout, ok := errors.AsType[net.Error](u.Failed()); ok && timeout.Timeout() {
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}

// givenUp is the error of a body that could not be read to its end. Caddy's proxy takes it for a
// client that hung up. So the proxy counts no failure of the upstream (fail_duration), and tries no
// other upstream.
type givenUp struct{ error }

func (g givenUp) Unwrap() error { return g.error }

func (givenUp) Is(target error) bool { return target == context.Canceled }

// StatusClosed is the status that Caddy's proxy writes when a client hung up.
const StatusClosed = 499

// UploadAnswer is the ResponseWriter for an upload. It drops the 499 of a proxy that believes the
// client to be gone, because the client may still wait for an answer.
type UploadAnswer struct {
	writer
	body     *Upload
	heldBack bool
}

// Answer returns the writer for the answer to an upload.
func (u *Upload) Answer(w http.ResponseWriter) *UploadAnswer {
	return &UploadAnswer{writer: writer{w}, body: u}
}

// HeldBack reports whether a 499 was dropped.
func (a *UploadAnswer) HeldBack() bool { return a.heldBack }

// WriteHeader implements [http.ResponseWriter].
func (a *UploadAnswer) WriteHeader(status int) {
	if status == StatusClosed && a.body.Failed() != nil {
		a.heldBack = true
		return
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *UploadAnswer) Write(p []byte) (int, error) {
	if a.heldBack {
		return len(p), nil
	}
	return a.ResponseWriter.Write(p)
}

// ReadFrom implements [io.ReaderFrom], which proxies use to copy a body.
func (a *UploadAnswer) ReadFrom(r io.Reader) (int64, error) {
	if a.heldBack {
		return io.Copy(io.Discard, r)
	}
	return a.writer.ReadFrom(r)
}
