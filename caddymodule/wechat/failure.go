package wechat

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// failure is an HTTP request that got no answer from WeChat's API.
type failure struct {
	err    *Error
	sent   bool // a byte of the request may have been sent
	reused bool // the connection had been used before
}

// edgeRefused reports whether a proxy or firewall in front of WeChat's API refused the
// request itself. A 408 is about the connection instead.
func (f *failure) edgeRefused() bool {
	return f.err.Status >= 400 && f.err.Status < 500 && f.err.Status != http.StatusRequestTimeout
}

// explain sets kind and reason. It never uses the error's own text, which may contain
// the URL and so the secret.
func (f *failure) explain(caller, asked context.Context, err error) {
	if cause := caller.Err(); cause != nil {
		*f.err = *contextError(f.err.Call, cause, f.err.Host)
		return
	}
	f.err.Kind, f.err.reason = KindUnreachable, "the connection failed"
	var network net.Error
	var dns *net.DNSError
	var op *net.OpError
	var certificate *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case asked.Err() != nil, errors.As(err, &network) && network.Timeout():
		f.err.Kind, f.err.reason = KindTimeout, "no answer in time"
		if !f.sent {
			f.err.reason = "no connection in time"
		}
	case errors.As(err, &op) && op.Op == "proxyconnect":
		f.err.reason = "the proxy set in the environment cannot be reached"
	case errors.As(err, &dns):
		f.err.reason = "the host's address cannot be found"
	case errors.As(err, &certificate), errors.As(err, &unknown), errors.As(err, &name):
		f.err.reason = "the host's certificate is not trusted"
	case errors.As(err, &record), errors.As(err, &alert):
		f.err.reason = "the host speaks no TLS that we can"
	case errors.Is(err, syscall.ECONNREFUSED):
		f.err.reason = "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		f.err.reason = "the connection was reset"
	case errors.As(err, &op) && op.Op == "dial":
		f.err.reason = "the host cannot be reached"
	case errors.Is(err, io.ErrUnexpectedEOF):
		f.err.Kind, f.err.reason = KindBadAnswer, "the answer ends in the middle"
	case strings.Contains(err.Error(), "malformed"), strings.Contains(err.Error(), "headers exceeded"):
		// net/http has no error types for these two.
		f.err.Kind, f.err.reason = KindBadAnswer, "the answer is not HTTP"
	case f.sent:
		f.err.reason = "the connection was closed before the answer"
	}
}

// explainBody does the same for an answer whose header was read.
func (f *failure) explainBody(caller, asked context.Context, err error) {
	f.explain(caller, asked, err)
	if f.err.Kind == KindUnreachable {
		f.err.Kind, f.err.reason = KindBadAnswer, "the answer ends in the middle"
	}
}

// contextError is the error of a call whose caller has gone away, or whose time is up.
func contextError(call Call, cause error, host string) *Error {
	if errors.Is(cause, context.DeadlineExceeded) {
		return &Error{Call: call, Kind: KindTimeout, Host: host, reason: "the caller's time is up", cause: context.DeadlineExceeded}
	}
	return &Error{Call: call, Kind: KindCanceled, Host: host, reason: "the caller has gone", cause: context.Canceled}
}
