package wechat

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/span"
)

const (
	maxBody = 64 << 10
	// hostRest is how long a host that could not be reached is tried last.
	hostRest = 30 * time.Second
)

// Transport holds what outlives a Client: the connections to WeChat, the API hosts that
// could not be reached recently, and the calls that are paused. It holds no settings.
// It speaks HTTP/1.1, follows no redirect, and honours HTTPS_PROXY, HTTP_PROXY and
// NO_PROXY.
//
// It never sends a request twice on its own. net/http does that when a kept-alive
// connection turns out dead, if it considers the request replayable: a GET without a
// body, or any request whose GetBody is set (Request.isReplayable). So every request
// here has a body but no GetBody; that of a GET is empty (see emptyBody).
type Transport struct {
	http *http.Transport

	mu      sync.Mutex
	resting map[string]time.Time // API base URL → until when it is tried last
	pauses  map[pauseKey]pause
}

// NewTransport returns a Transport without connections.
func NewTransport() *Transport {
	dialer := &net.Dialer{KeepAlive: 30 * time.Second}
	protocols := new(http.Protocols)
	// HTTP/2 has its own rules for sending a request again, so only HTTP/1.1 is used.
	protocols.SetHTTP1(true)
	return &Transport{
		http: &http.Transport{
			Proxy: http.ProxyFromEnvironment,
			OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, a *http.Response) error {
				if a.StatusCode != http.StatusOK {
					return errProxyRefused
				}
				return nil
			},
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dialer.DialContext(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				return &countedConn{Conn: conn}, nil
			},
			Protocols:              protocols,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    10 * time.Second,
			MaxIdleConns:           128,
			MaxIdleConnsPerHost:    64,
			IdleConnTimeout:        45 * time.Second,
			MaxResponseHeaderBytes: maxBody,
			DisableCompression:     true,
		},
		resting: make(map[string]time.Time),
		pauses:  make(map[pauseKey]pause),
	}
}

// Close closes the idle connections. Calls in flight are not interrupted.
func (t *Transport) Close() { t.http.CloseIdleConnections() }

// order returns the hosts to try. Those that could not be reached recently come last.
func (t *Transport) order(hosts []string, now time.Time) []string {
	if len(hosts) < 2 {
		return hosts
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	first, last := make([]string, 0, len(hosts)), []string(nil)
	for _, h := range hosts {
		if now.Before(t.resting[h]) {
			last = append(last, h)
		} else {
			first = append(first, h)
		}
	}
	return append(first, last...)
}

// rest moves the host to the end of the order for a while.
func (t *Transport) rest(host string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resting[host] = now.Add(hostRest)
}

// outgoing is a request without its host.
type outgoing struct {
	method   string
	path     string // on an API host
	absolute string // replaces path: a URL that the operator has configured
	query    url.Values
	body     []byte
	bare     bool // the answer may be a bare token instead of JSON
}

// request returns the HTTP request to u, which net/http must not consider replayable.
func (o outgoing) request(ctx context.Context, u *url.URL) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, o.method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", "caddy-wx-auth")
	if u.User != nil { // in net/http, only a Client does this
		password, _ := u.User.Password()
		r.SetBasicAuth(u.User.Username(), password)
	}
	if o.body == nil {
		r.Body = emptyBody{}
		r.TransferEncoding = []string{"identity"}
		return r, nil
	}
	// The body is set here, because http.NewRequest would set GetBody too.
	r.Body = io.NopCloser(bytes.NewReader(o.body))
	r.ContentLength = int64(len(o.body))
	r.Header.Set("Content-Type", "application/json")
	return r, nil
}

// exchange makes one HTTP request and reads its answer, all within timeout.
func (t *Transport) exchange(ctx context.Context, timeout time.Duration, base string, call Call, o outgoing) (a answer, f *failure) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return answer{}, &failure{err: &Error{Call: call, Kind: KindOperator, reason: "the URL to ask is not an http or https URL",
			Advice: "check the URLs set for WeChat's API and for the external access token"}}
	}
	if o.absolute == "" {
		u = u.JoinPath(o.path)
		u.RawQuery = o.query.Encode()
	}
	f = &failure{err: &Error{Call: call, Host: u.Host}}
	ctx, s := span.StartCall(ctx, "WeChat "+string(call), u.Host)
	defer func() { traced(s, a, f) }()

	sending := &sending{}
	asked, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	asked = httptrace.WithClientTrace(asked, &httptrace.ClientTrace{GotConn: sending.gotConn})

	r, err := o.request(asked, u)
	if err != nil {
		f.err.Kind, f.err.reason = KindBug, "the request cannot be made"
		return answer{}, f
	}
	response, err := t.http.RoundTrip(r)
	if err != nil {
		f.sent, f.reused = sending.sent(asked.Err() != nil), sending.reused()
		f.err.unconnected = !f.sent
		f.explain(ctx, asked, err)
		return answer{}, f
	}
	defer response.Body.Close()
	f.sent = true
	if response.StatusCode != http.StatusOK {
		f.err.Kind, f.err.Status, f.err.Advice = KindBadAnswer, response.StatusCode, adviceAnswer
		return answer{}, f
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err != nil {
		f.explainBody(ctx, asked, err)
		return answer{}, f
	}
	if len(body) > maxBody {
		f.err.Kind, f.err.reason = KindBadAnswer, "the answer is longer than 64 KiB"
		f.err.Advice = adviceAnswer
		return answer{}, f
	}
	a, ok := readAnswer(body, o.bare)
	if !ok {
		f.err.Kind, f.err.reason = KindBadAnswer, "the answer is not WeChat's JSON"
		f.err.Advice = adviceAnswer
		return answer{}, f
	}
	a.host = u.Host
	a.date, _ = http.ParseTime(response.Header.Get("Date"))
	return a, nil
}

// traced ends the span of a request.
func traced(s span.Span, a answer, f *failure) {
	if f != nil && f.err.Status != 0 {
		s.SetInt("http.response.status_code", f.err.Status)
	}
	if a.code != 0 {
		s.SetInt("wechat.errcode", a.code)
	}
	s.End(f != nil || a.code != 0)
}

// emptyBody is an empty body that is not http.NoBody, so net/http considers a GET with
// it not replayable. With the transfer encoding "identity", net/http writes neither a
// body nor a header about it. (Otherwise it probes the body for up to 200 ms, and might
// send a chunked request on a busy machine.)
type emptyBody struct{}

func (emptyBody) Read([]byte) (int, error) { return 0, io.EOF }
func (emptyBody) Close() error             { return nil }

// WriteTo spares each request the buffer of 32 KB with which io.Copy would read.
func (emptyBody) WriteTo(io.Writer) (int64, error) { return 0, nil }

// countedConn counts the writes to a connection, so that we know whether a failed
// request was sent.
type countedConn struct {
	net.Conn
	writes atomic.Int64
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// sending observes on which connection a request is sent.
type sending struct {
	mu      sync.Mutex
	got     bool
	again   bool // the connection had carried a request before
	conn    *countedConn
	written int64 // writes to the connection before this request
}

func (s *sending) gotConn(info httptrace.GotConnInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got, s.again = true, info.Reused
	conn := info.Conn
	for {
		switch c := conn.(type) {
		case *countedConn:
			s.conn, s.written = c, c.writes.Load()
			return
		case interface{ NetConn() net.Conn }: // TLS
			conn = c.NetConn()
		default:
			return
		}
	}
}

// sent reports whether a byte of the request may have been sent. If the context ended the
// request, net/http may still be writing, so any connection counts. (Over TLS the closing
// alert counts as a byte. The error is on the safe side: an unsent code is then taken for a
// sent one.)
func (s *sending) sent(brokenOff bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got && (brokenOff || s.conn == nil || s.conn.writes.Load() != s.written)
}

func (s *sending) reused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.again
}
