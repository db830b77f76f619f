package requests

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// The attacks are grouped as in SECURITY.md, with one file for each class. The tests write
// them byte by byte, because net/http would not send them. The tests also read byte by byte
// what reaches the upstream, because net/http would clean it up.

// field is one line of a header or trailer section, as it was sent.
type field struct{ name, value string }

// wire is a request as it arrived at a wiretap.
type wire struct {
	line     string // the request line
	fields   []field
	trailers []field
	body     string
	broken   error // what was wrong with the request; the other fields hold what came before
}

// values returns the values of all lines with that name, spelled exactly so except for
// case.
func (w wire) values(name string) []string {
	var vs []string
	for _, f := range w.fields {
		if strings.EqualFold(f.name, name) {
			vs = append(vs, f.value)
		}
	}
	return vs
}

// wiretap is an upstream that records requests as they arrive, and answers 200.
type wiretap struct {
	addr string

	mu   sync.Mutex
	hits int
	got  []wire
}

func newWiretap(t testing.TB) *wiretap {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &wiretap{addr: ln.Addr().String()}
	var mu sync.Mutex
	var conns []net.Conn
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			served.Go(func() {
				defer conn.Close()
				for r := bufio.NewReader(conn); e.answer(conn, r); {
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		served.Wait()
	})
	return e
}

// answer reads and answers one request. It returns false if no more will come.
func (e *wiretap) answer(conn net.Conn, r *bufio.Reader) bool {
	if _, err := r.Peek(1); err != nil {
		return false
	}
	e.mu.Lock()
	e.hits++ // counted even if it turns out to be malformed
	e.mu.Unlock()
	w := readWire(r)
	e.mu.Lock()
	e.got = append(e.got, w)
	e.mu.Unlock()
	if w.broken != nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		return false
	}
	body := "upstream\n"
	if strings.HasPrefix(w.line, "HEAD ") {
		body = ""
	}
	_, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\n%s", body)
	return err == nil
}

func readWire(r *bufio.Reader) (w wire) {
	if w.line, w.broken = readLine(r); w.broken != nil {
		return w
	}
	if w.fields, w.broken = readFields(r); w.broken != nil {
		return w
	}
	switch codings, lengths := w.values("Transfer-Encoding"), w.values("Content-Length"); {
	case len(codings) > 0 && len(lengths) > 0:
		w.broken = errors.New("both a length and a coding")
	case len(codings) == 1 && codings[0] == "chunked":
		var body strings.Builder
		_, w.broken = io.Copy(&body, httputil.NewChunkedReader(r))
		w.body = body.String()
		if w.broken == nil {
			w.trailers, w.broken = readFields(r)
		}
	case len(codings) > 0:
		w.broken = fmt.Errorf("codings %q", codings)
	case len(lengths) == 1:
		n, err := strconv.Atoi(lengths[0])
		if err != nil {
			w.broken = err
			return w
		}
		body := make([]byte, n)
		_, w.broken = io.ReadFull(r, body)
		w.body = string(body)
	case len(lengths) > 1:
		w.broken = fmt.Errorf("lengths %q", lengths)
	}
	return w
}

func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err == nil && !strings.HasSuffix(line, "\r\n") {
		err = fmt.Errorf("line end in %q", line)
	}
	return strings.TrimSuffix(line, "\r\n"), err
}

func readFields(r *bufio.Reader) (fields []field, err error) {
	for {
		line, err := readLine(r)
		if err != nil || line == "" {
			return fields, err
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return fields, fmt.Errorf("field %q", line)
		}
		fields = append(fields, field{name, textproto.TrimString(value)})
	}
}

// take returns the requests that arrived since the last take.
func (e *wiretap) take() []wire {
	e.mu.Lock()
	defer e.mu.Unlock()
	got := e.got
	e.got, e.hits = nil, 0
	return got
}

// whole returns the complete requests whose request line contains that text.
func whole(got []wire, text string) []wire {
	return slices.DeleteFunc(slices.Clone(got), func(w wire) bool { return w.broken != nil || !strings.Contains(w.line, text) })
}

// fort is a gateway under attack, with a wiretap as its upstream.
type fort struct {
	front
	tap *wiretap
}

// newFort starts a gateway with that Caddyfile, in which {$UPSTREAM} is the wiretap and
// {$ADDR2} is a second address.
func newFort(t testing.TB, caddyfile string, env ...string) *fort {
	t.Helper()
	tap := newWiretap(t)
	return &fort{startFront(t, caddyfile, tap.addr, env...), tap}
}

// fortSite has every kind of path: /public/ and /healthz are public, /optional/ is
// optional, and the matcher leaves /free/ out. options are options of wx_auth, globals
// are global options.
func fortSite(globals string, options ...string) string {
	return rig.Site("@guarded not path /free/*\nwx_auth @guarded {env.WX_APPID} {env.WX_SECRET} {\n"+
		"public /public/* /healthz\noptional /optional/*\nwechat {\napi {$WX_API}\n}\n"+strings.Join(options, "\n")+"\n}\n"+
		"reverse_proxy {$UPSTREAM}", globals)
}

// message returns a request with exactly these header lines, and Host.
func message(addr, method, target string, lines ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: " + addr + "\r\n" + strings.Join(append(lines, "", ""), "\r\n")
}

// fire sends a request. It returns the answer, and the requests that reached the
// upstream since the last call.
func (f *fort) fire(t testing.TB, raw string) (rig.Answer, []wire) {
	t.Helper()
	a := f.later.send(f.Addr, raw)
	if a.Err != nil {
		t.Fatalf("%v\n%.300q", a.Err, raw)
	}
	if a.Status >= 500 {
		t.Errorf("input causes a %d: %s\n%.300q", a.Status, a.Body, raw)
	}
	return a, f.tap.take()
}

// short returns the beginning of a value, for a failure message.
func short(v any) string { return fmt.Sprintf("%.600s", fmt.Sprintf("%+q", v)) }

// refuses sends a request that must get that answer and not reach the upstream.
func (f *fort) refuses(t testing.TB, want refusal, raw string) rig.Answer {
	t.Helper()
	a, got := f.fire(t, raw)
	if len(got) > 0 {
		t.Errorf("reached the upstream: %s\n%.300q", short(got), raw)
	}
	if a.Status != want.status {
		t.Errorf("status %d, want %d: %.300s\n%.300q", a.Status, want.status, a.Body, raw)
	} else if want.code != "" {
		a.WantProblem(t, want.status, want.code, nil)
	}
	return a
}

// passes sends a request that must reach the upstream exactly once and complete.
func (f *fort) passes(t testing.TB, raw string) wire {
	t.Helper()
	a, got := f.fire(t, raw)
	if a.Status != http.StatusOK || len(got) != 1 || got[0].broken != nil {
		t.Fatalf("status %d, upstream %s: %.300s\n%.300q", a.Status, short(got), a.Body, raw)
	}
	return got[0]
}

// talk holds everything that came back on one connection.
type talk struct {
	answers []rig.Answer
	said    bool          // the last answer announced that the connection would be closed
	closed  bool          // the gateway closed the connection after the last answer
	first   time.Duration // until the header of the first answer
	rest    string        // bytes that are not part of an answer
}

// quiet is how long nothing must arrive before a connection counts as left open.
const quiet = 300 * time.Millisecond

// converse sends bytes over one connection and reads answers until the gateway closes
// it or falls silent. methods are the methods of the requests, which matter where an
// answer depends on them.
func converse(t testing.TB, addr, raw string, methods ...string) talk {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return talk{}
	}
	defer conn.Close()
	start := time.Now()
	_ = conn.SetWriteDeadline(start.Add(rig.RawTime))
	_, _ = io.WriteString(conn, raw) // the gateway may close the connection before all is sent
	var all talk
	r := bufio.NewReader(conn)
	for {
		wait := quiet
		if len(all.answers) == 0 || all.said {
			wait = rig.RawTime
		}
		_ = conn.SetReadDeadline(time.Now().Add(wait))
		if _, err := r.Peek(1); err != nil {
			var timeout net.Error
			all.closed = !errors.As(err, &timeout) || !timeout.Timeout()
			return all
		}
		if len(all.answers) == 0 {
			all.first = time.Since(start)
		}
		method := "GET"
		if len(all.answers) < len(methods) {
			method = methods[len(all.answers)]
		}
		if head, _ := r.Peek(5); string(head) != "HTTP/" {
			rest, _ := io.ReadAll(r)
			all.rest, all.closed = string(rest), true
			return all
		}
		_ = conn.SetReadDeadline(time.Now().Add(rig.RawTime))
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Errorf("reading an answer: %v", err)
			return all
		}
		body, _ := io.ReadAll(resp.Body) // a connection that is reset meanwhile counts as closed
		resp.Body.Close()
		all.said = resp.Close
		all.answers = append(all.answers, rig.Answer{Status: resp.StatusCode, Header: resp.Header, Body: string(body)})
	}
}

func (c talk) statuses() []int {
	var s []int
	for _, a := range c.answers {
		s = append(s, a.Status)
	}
	return s
}

// folded returns a header name as CGI and similar interfaces would see it.
func folded(name string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case 'A' <= c && c <= 'Z':
			return c + 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			return c
		}
		return '-'
	}, name)
}

// wantIdentity fails the test unless the request has exactly these identity fields,
// with these names and values, each once. own lists identity headers besides X-WX-*.
func (w wire) wantIdentity(t testing.TB, want []field, own ...string) {
	t.Helper()
	var got []field
	for _, f := range slices.Concat(w.fields, w.trailers) {
		if name := folded(f.name); strings.HasPrefix(name, "x-wx-") || slices.Contains(own, name) {
			got = append(got, f)
		}
	}
	if len(w.trailers) > 0 || len(w.values("Trailer")) > 0 {
		t.Errorf("trailers at the upstream: %q, announced %q", w.trailers, w.values("Trailer"))
	}
	byName := func(a, b field) int { return strings.Compare(a.name, b.name) }
	slices.SortFunc(got, byName)
	want = slices.SortedFunc(slices.Values(want), byName)
	if !slices.Equal(got, want) {
		t.Errorf("identity at the upstream: %q\nwant %q\nof %q", got, want, w.line)
	}
}

// identity returns what an upstream must by default receive about a user of the
// simulator.
func (f *fort) identity(t testing.TB, p rig.Pair) []field {
	t.Helper()
	claims := rig.JWTPart(t, p.Token, 1)
	openid, _ := claims["openid"].(string)
	id := []field{
		{"X-Wx-User-Id", p.UserInfo.ID},
		{"X-Wx-Openid", openid},
		{"X-Wx-Appid", rig.AppID},
		{"X-Wx-Phone", p.UserInfo.PhoneNumber},
	}
	if unionid, ok := claims["unionid"].(string); ok {
		t.Fatalf("this token was to lack a claim, and has unionid %q", unionid)
	}
	return id
}

// loggedSite is a site with access logs.
func loggedSite(globals string) string {
	return "{\ndefault_bind 127.0.0.1\n" + globals + "\n}\nhttp://{$ADDR} {\nlog\n@guarded not path /free/*\nwx_auth @guarded {env.WX_APPID} {env.WX_SECRET} {\n" +
		"public /public/*\noptional /optional/*\nwechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}\n}"
}
