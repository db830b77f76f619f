package gate

import (
	"bufio"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// arrived holds a request's headers and trailers as the upstream received them.
type arrived struct {
	header, trailer http.Header
}

// forwarding is a server in front of an upstream. Its proxy behaves like Caddy's: after
// the gate it deletes the headers that Connection names, and it forwards the trailers
// that the request has once its body has been read.
type forwarding struct {
	front *httptest.Server
	mu    sync.Mutex
	saw   []arrived
}

func forward(t *testing.T, http2 bool, prepare func(*http.Request) *http.Request, set func(http.Header)) *forwarding {
	f := &forwarding{}
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		f.mu.Lock()
		f.saw = append(f.saw, arrived{r.Header.Clone(), r.Trailer.Clone()})
		f.mu.Unlock()
	}))
	t.Cleanup(upstream.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	f.front = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = prepare(r)
		set(r.Header)
		out, err := http.NewRequestWithContext(r.Context(), r.Method, upstream.URL+r.URL.RequestURI(), nil)
		if err != nil {
			t.Error(err)
			return
		}
		out.Header = r.Header.Clone()
		for _, line := range r.Header["Connection"] {
			for name := range strings.SplitSeq(line, ",") {
				out.Header.Del(strings.TrimSpace(name))
			}
		}
		out.Header.Del("Connection")
		if r.Body != http.NoBody {
			out.Trailer = http.Header{}
			maps.Copy(out.Trailer, r.Trailer)
			out.ContentLength = -1
			out.Body = &trailing{ReadCloser: r.Body, from: r, to: out.Trailer}
		}
		res, err := transport.RoundTrip(out)
		if err != nil {
			t.Error(err)
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer res.Body.Close()
		_, _ = io.Copy(w, res.Body)
	}))
	if http2 {
		f.front.EnableHTTP2 = true
		f.front.StartTLS()
	} else {
		f.front.Start()
	}
	t.Cleanup(f.front.Close)
	return f
}

// trailing copies the trailers of a request when its body ends.
type trailing struct {
	io.ReadCloser
	from *http.Request
	to   http.Header
}

func (b *trailing) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		maps.Copy(b.to, b.from.Trailer)
	}
	return n, err
}

// raw sends bytes unchanged and returns the request that the upstream received.
func (f *forwarding) raw(t *testing.T, text string) arrived {
	t.Helper()
	c, err := net.Dial("tcp", f.front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, strings.ReplaceAll(text, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	if res.StatusCode != 200 {
		t.Fatalf("status %d", res.StatusCode)
	}
	return f.last(t)
}

func (f *forwarding) last(t *testing.T) arrived {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.saw) == 0 {
		t.Fatal("the upstream saw nothing")
	}
	return f.saw[len(f.saw)-1]
}

// announces adds trailers that were not announced when the body ends.
type announces struct {
	io.Reader
	trailer http.Header
}

func (a announces) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if err == io.EOF {
		a.trailer["X-Wx-Phone"] = []string{"forged"}
		a.trailer["X-Wx-Openid"] = []string{"forged"}
	}
	return n, err
}

// attack runs the attacks on headers and trailers. It returns, by the name of the
// attack, the request that the upstream received.
func attack(t *testing.T, prepare func(*http.Request) *http.Request, set func(http.Header)) map[string]arrived {
	t.Helper()
	seen := map[string]arrived{}
	h1 := forward(t, false, prepare, set)
	seen["connection"] = h1.raw(t, "GET / HTTP/1.1\nHost: h\nConnection: keep-alive, X-Wx-User-Id\nconnection: Authorization\nConnection: x-forwarded-for,close\n"+
		"Authorization: Basic eDp5\nX-Forwarded-For: 192.0.2.1\n\n")
	seen["declared"] = h1.raw(t, "POST / HTTP/1.1\nHost: h\nConnection: close\nTransfer-Encoding: chunked\nTrailer: X-WX-Phone, X-WX-Openid\n\n1\na\n0\nX-WX-Phone: forged\nX-WX-Openid: forged\n\n")
	seen["undeclared"] = h1.raw(t, "POST / HTTP/1.1\nHost: h\nConnection: close\nTransfer-Encoding: chunked\n\n1\na\n0\nX-WX-Phone: forged\nX_WX_Openid: forged\n\n")
	seen["announced without a body"] = h1.raw(t, "GET / HTTP/1.1\nHost: h\nConnection: close\nTrailer: X-WX-Phone\n\n")

	h2 := forward(t, true, prepare, set)
	req, err := http.NewRequest(http.MethodPost, h2.front.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"X-Wx-Phone": nil, "X-Other": {"a"}}
	req.Body = io.NopCloser(announces{strings.NewReader("a"), req.Trailer})
	req.ContentLength = -1
	res, err := h2.front.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.ProtoMajor != 2 {
		t.Fatalf("%s", res.Proto)
	}
	seen["HTTP/2"] = h2.last(t)
	return seen
}

// TestNothingForgedReachesTheUpstream has clients delete the identity headers by naming
// them in Connection, and send identities as trailers.
func TestNothingForgedReachesTheUpstream(t *testing.T) {
	g := newGate(t, Settings{}, nil)
	set := func(h http.Header) { h["X-Wx-User-Id"] = []string{"u-1"} }
	for name, a := range attack(t, func(r *http.Request) *http.Request { return g.Prepare(r, false) }, set) {
		if len(a.trailer) != 0 || a.header.Get("Trailer") != "" {
			t.Errorf("%s: trailers %v, announced %q", name, a.trailer, a.header["Trailer"])
		}
		if got := a.header.Get("X-Wx-User-Id"); got != "u-1" {
			t.Errorf("%s: the identity that was set arrives as %q", name, got)
		}
		for key, values := range a.header {
			if slices.Contains(values, "forged") {
				t.Errorf("%s: %s is forged", name, key)
			}
		}
		if name == "connection" && (a.header.Get("Authorization") == "" || a.header.Get("X-Forwarded-For") == "") {
			t.Errorf("%s: headers of others were deleted: %v", name, a.header)
		}
	}
}

// TestTheAttacksWorkWithoutTheGate runs the same attacks without the gate: they
// succeed, or the test above would prove nothing.
func TestTheAttacksWorkWithoutTheGate(t *testing.T) {
	same := func(r *http.Request) *http.Request { return r }
	seen := attack(t, same, func(h http.Header) { h["X-Wx-User-Id"] = []string{"u-1"} })
	if h := seen["connection"].header; h.Get("X-Wx-User-Id") != "" || h.Get("Authorization") != "" || h.Get("X-Forwarded-For") != "" {
		t.Errorf("Connection deletes nothing: %v", h)
	}
	for _, name := range []string{"declared", "undeclared", "HTTP/2"} {
		if tr := seen[name].trailer; tr.Get("X-Wx-Phone") != "forged" {
			t.Errorf("%s: the trailers do not arrive: %v", name, tr)
		}
	}
}
