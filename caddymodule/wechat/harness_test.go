package wechat

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var testApp = App{ID: "wx0123456789abcdef", Secret: "SECRET-7b9e1c55a0d3"}

const (
	loginCode  = "LOGINCODE-0a1b2c3d"
	phoneCode  = "PHONECODE-4e5f6a7b"
	testOpenID = "o--sB5rdWBfwTidbZzzn4FXfWpEg"
	sessionOK  = `{"session_key":"tQY+38pdTVnAIWCBNiM1+A==","openid":"` + testOpenID + `"}`
)

const (
	sessionPath = "/sns/jscode2session"
	stablePath  = "/cgi-bin/stable_token"
	classicPath = "/cgi-bin/token"
	phonePath   = "/wxa/business/getuserphonenumber"
)

var start = time.Date(2025, 6, 1, 8, 0, 0, 0, time.UTC)

// testClock is a clock that tests advance.
type testClock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *testClock { return &testClock{t: start} }

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *testClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// api is a fake WeChat: it answers as the test configures it, and counts requests.
type api struct {
	*httptest.Server
	mu     sync.Mutex
	counts map[string]int
	answer map[string]http.HandlerFunc
	tokens atomic.Int64
}

func newAPI(t *testing.T) *api {
	a := &api{counts: make(map[string]int), answer: make(map[string]http.HandlerFunc)}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The server notices a client that hangs up only after the body was read.
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		a.mu.Lock()
		a.counts[r.URL.Path]++
		h := a.answer[r.URL.Path]
		a.mu.Unlock()
		if h == nil {
			http.NotFound(w, r)
			return
		}
		h(w, r)
	}))
	t.Cleanup(a.Server.Close)
	a.on(sessionPath, says(sessionOK))
	a.on(stablePath, a.nextToken)
	a.on(classicPath, a.nextToken)
	a.on(phonePath, says(phoneOK("86")))
	return a
}

func (a *api) on(path string, h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer[path] = h
}

func (a *api) count(path string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counts[path]
}

func (a *api) nextToken(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, `{"access_token":"TOKEN-%d","expires_in":7200}`, a.tokens.Add(1))
}

func says(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, body)
	}
}

// inTurn answers each request with the next body, and repeats the last one.
func inTurn(bodies ...string) http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, bodies[min(int(n.Add(1)), len(bodies))-1])
	}
}

func fails(code int) string {
	return fmt.Sprintf(`{"errcode":%d,"errmsg":"some text, rid: 65713974-7970e3f9-1a07ebbf"}`, code)
}

func phoneOK(country string) string {
	return fmt.Sprintf(`{"errcode":0,"errmsg":"ok","phone_info":{"phoneNumber":"13580006666","purePhoneNumber":"13580006666",
	"countryCode":%q,"watermark":{"timestamp":%d,"appid":%q}}}`, country, start.Unix(), testApp.ID)
}

// newClient returns a client of these hosts, without delays.
func newClient(t *testing.T, c *testClock, hosts ...string) *Client {
	tr := NewTransport()
	t.Cleanup(tr.Close)
	return &Client{APIs: hosts, Timeout: 2 * time.Second, Tokens: NewStableToken(), Transport: tr, Now: c.now,
		jitter: func() time.Duration { return 0 }}
}

// rawServer reads requests from its connections. For each, do returns the bytes to
// answer with, and whether to keep the connection open.
type rawServer struct {
	url      string
	requests atomic.Int64
	conns    atomic.Int64
	mu       sync.Mutex
	seen     []string // the head of each request
}

func newRawServer(t *testing.T, do func(n int, r *http.Request) (answer string, keep bool)) *rawServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{url: "http://" + l.Addr().String()}
	var open sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { l.Close(); cancel(); open.Wait() })
	open.Add(1)
	go func() {
		defer open.Done()
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			open.Add(1)
			go func() {
				defer open.Done()
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				s.serve(conn, do)
			}()
		}
	}()
	return s
}

func (s *rawServer) serve(conn net.Conn, do func(int, *http.Request) (string, bool)) {
	var raw bytes.Buffer
	in := bufio.NewReader(io.TeeReader(conn, &raw))
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		n := int(s.requests.Add(1))
		s.mu.Lock()
		s.seen = append(s.seen, raw.String())
		s.mu.Unlock()
		raw.Reset()
		answer, keep := do(n, r)
		if _, err := io.WriteString(conn, answer); err != nil || !keep {
			return
		}
	}
}

func http200(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func vectors(t *testing.T) map[string]json.RawMessage {
	t.Helper()
	b, err := os.ReadFile("testdata/responses.json")
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]json.RawMessage
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// failed returns err as the *Error that it must be, and checks that it contains no
// secret.
func failed(t *testing.T, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a *wechat.Error", err)
	}
	noSecret(t, e)
	return e
}

func noSecret(t *testing.T, v any) {
	t.Helper()
	j, _ := json.Marshal(v)
	for _, s := range []string{fmt.Sprintf("%v", v), fmt.Sprintf("%+v", v), fmt.Sprintf("%#v", v), fmt.Sprintf("%s|%q|%x", v, v, v), string(j)} {
		for _, secret := range []string{testApp.Secret, loginCode, phoneCode, "TOKEN-", "tQY+38pdTVnAIWCBNiM1", testOpenID, "js_code", "access_token="} {
			if strings.Contains(s, secret) || strings.Contains(s, fmt.Sprintf("%x", secret)) {
				t.Errorf("%q shows %q", s, secret)
			}
		}
	}
}

func renewIs(e *Error, want ...Renew) bool {
	return fmt.Sprint(e.Renew) == fmt.Sprint(want)
}
