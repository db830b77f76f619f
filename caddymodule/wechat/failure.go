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

// These texts say what the operator can do about a failed connection.
const (
	adviceNetwork = "check that this machine reaches the host (curl -v https://host/); if it does, WeChat or the network between is at fault, and logins go on by themselves when it is back"
	adviceProxy   = "check HTTPS_PROXY and NO_PROXY in Caddy's environment, and that the proxy lets connections to the host through"
	adviceName    = "check the host's name in the settings (wechat { api … }), and this machine's DNS (/etc/resolv.conf)"
	adviceFiles   = "raise the limit of open files for Caddy (LimitNOFILE= in its systemd unit, or ulimit -n)"
	adviceAnswer  = "check that the host is WeChat's and that no proxy answers in its place; if it is, WeChat has a fault, and logins go on by themselves when it is over"

	adviceCertificate = "check that the host is the right one, that the system has root certificates (package ca-certificates, or SSL_CERT_FILE), and that no proxy in between answers in its place"
)

// errProxyRefused means that the proxy answered CONNECT with another status than 200.
var errProxyRefused = errors.New("the proxy refuses to connect")

// explain sets kind, reason and advice. It never uses the error's own text, which may contain
// the URL and so the secret.
func (f *failure) explain(caller, asked context.Context, err error) {
	if cause := caller.Err(); cause != nil {
		*f.err = *contextError(f.err.Call, cause, f.err.Host)
		return
	}
	f.err.Kind, f.err.reason = KindUnreachable, "the connection failed"
	f.err.Advice = adviceNetwork
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
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		f.err.reason, f.err.Advice = "this process has no file descriptor left", adviceFiles
	case errors.Is(err, errProxyRefused):
		f.err.reason, f.err.Advice = "the proxy set in the environment refuses to connect to the host", adviceProxy
	case errors.As(err, &op) && op.Op == "proxyconnect":
		f.err.reason, f.err.Advice = "the proxy set in the environment cannot be reached", adviceProxy
	case errors.As(err, &dns):
		f.err.reason, f.err.Advice = "the host's address cannot be found", adviceName
	case errors.As(err, &certificate), errors.As(err, &unknown), errors.As(err, &name):
		f.err.reason, f.err.Advice = "the host's certificate is not trusted", adviceCertificate
	case errors.As(err, &record), errors.As(err, &alert):
		f.err.reason, f.err.Advice = "the host speaks no TLS version that we support", adviceCertificate
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
