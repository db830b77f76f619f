package requests

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// Requests are hidden in the bodies of others (request smuggling). The hidden request
// to /api/hidden must neither reach the upstream nor be answered as an authorized one.
func TestAttackFraming(t *testing.T) {
	t.Parallel()
	f := newFort(t, fortSite(""))
	host := "Host: " + f.Addr
	hidden := "GET /api/hidden HTTP/1.1\r\n" + host + "\r\n\r\n"
	next := "GET /free/next HTTP/1.1\r\n" + host + "\r\n\r\n"
	post := func(body string, lines ...string) string { return message(f.Addr, "POST", "/free/x", lines...) + body }
	const chunked = "Transfer-Encoding: chunked"

	type row struct {
		name, raw string
		want      []int // the statuses of the answers
		hits      int   // requests that reach the upstream; no hidden one may
	}
	rows := []row{
		// What follows on the connection is read as the next request, which needs a
		// token.
		{"CL and TE", post("0\r\n\r\n"+hidden, "Content-Length: 4", chunked), []int{200, 401}, 1},
		{"TE and CL", post("0\r\n\r\n"+hidden, chunked, fmt.Sprintf("Content-Length: %d", 5+len(hidden))), []int{200, 401}, 1},
		{"TE in capitals", post("0\r\n\r\n"+hidden, "TRANSFER-ENCODING: CHUNKED"), []int{200, 401}, 1},
		{"TE with an underscore", post("0\r\n\r\n"+hidden, "Transfer_Encoding: chunked", fmt.Sprintf("Content-Length: %d", 5+len(hidden))), []int{200}, 1},
		{"bare LF", "GET /free/x HTTP/1.1\n" + host + "\n\n" + hidden, []int{200, 401}, 1},
		{"a blank line before", "\r\n" + next, []int{400}, 0},
	}
	for name, value := range map[string]string{
		"twice": "chunked, chunked", "another": "xchunked", "quoted": `"chunked"`, "vertical tab": "\x0bchunked", "identity": "identity", "gzip": "gzip, chunked", "gzip behind": "chunked, gzip",
		"empty": "", "comma": "chunked,", "comma before": ",chunked", "parameter": "chunked;q=1", "NBSP": "chunked\u00a0", "trailers": "trailers", "NUL": "chunked\x00", "identity and chunked": "identity, chunked",
	} {
		want := []int{501}
		if strings.ContainsAny(value, "\x0b\x00") {
			want = []int{400}
		}
		rows = append(rows, row{"TE " + name, post("0\r\n\r\n"+hidden, "Transfer-Encoding: "+value, "Content-Length: 5"), want, 0})
	}
	rows = append(rows,
		row{"TE in two lines", post("0\r\n\r\n"+hidden, chunked, chunked), []int{501}, 0},
		row{"TE in two lines, one identity", post("0\r\n\r\n"+hidden, chunked, "Transfer-Encoding: identity"), []int{501}, 0},
		row{"TE, a blank before the colon", post("0\r\n\r\n"+hidden, "Transfer-Encoding : chunked", "Content-Length: 5"), []int{400}, 0},
		row{"TE, a blank before the name", post("0\r\n\r\n"+hidden, "X: y", " Transfer-Encoding: chunked"), []int{200, 400}, 1},
		row{"TE in the next line", post("0\r\n\r\n"+hidden, "Transfer-Encoding:", " chunked"), []int{200, 401}, 1},
	)
	for _, value := range []string{"+5", "-1", "5,5", "5, 6", "0x5", "5 5", "5\u00a0", "５", "99999999999999999999", "9223372036854775808", "1e1", "5.", "0,5", "5;x", "five"} {
		rows = append(rows, row{"CL " + value, post("abcde"+hidden, "Content-Length: "+value), []int{400}, 0})
	}
	rows = append(rows,
		row{"CL empty", post("abcde"+hidden, "Content-Length:"), []int{400}, 0},
		row{"CL twice", post("abcde"+hidden, "Content-Length: 5", "Content-Length: 5"), []int{200, 401}, 1},
		row{"CL twice, odd", post("abcde"+hidden, "Content-Length: 5", "Content-Length: 6"), []int{400}, 0},
		row{"CL twice, in lower case", post("abcde"+hidden, "Content-Length: 0", "content-length: 5"), []int{400}, 0},
		row{"CL with zeros", post("abcde"+hidden, "Content-Length: 0005"), []int{200, 401}, 1},
		row{"CL of a GET", message(f.Addr, "GET", "/free/x", "Content-Length: 5") + "abcde" + hidden, []int{200, 401}, 1},
		row{"a GET with chunks", message(f.Addr, "GET", "/free/x", chunked) + "0\r\n\r\n" + hidden, []int{200, 401}, 1},
		row{"bare CR", "GET /free/x HTTP/1.1\r" + host + "\r\r" + hidden, []int{400}, 0},
		row{"CR within a line", "GET /free/x HTTP/1.1\r\nX: a\rb\r\n" + host + "\r\n\r\n" + hidden, []int{400}, 0},
	)
	for name, body := range map[string]string{
		"0x": "0x3\r\nabc\r\n0\r\n\r\n", "plus": "+3\r\nabc\r\n0\r\n\r\n", "minus": "-3\r\nabc\r\n0\r\n\r\n", "not hex": "g\r\nabc\r\n0\r\n\r\n", "empty": "\r\nabc\r\n0\r\n\r\n", "too large": "ffffffffffffffff0\r\nabc\r\n0\r\n\r\n",
		"no line end behind": "3\r\nabc0\r\n\r\n", "more than it says": "3\r\nabcd\r\n0\r\n\r\n", "bare LF behind the size": "3\nabc\r\n0\r\n\r\n", "bare LF behind the data": "3\r\nabc\n0\r\n\r\n", "bare CR behind the size": "3\rabc\r\n0\r\n\r\n",
		"bare LF in an extension": "3;\nxx\r\nabc\r\n0\r\n\r\n", "bare LF in a trailer": "0\r\nX: a\nGET /api/hidden HTTP/1.1\r\n\r\n", "a trailer that is none": "0\r\nGET /api/hidden HTTP/1.1\r\n\r\n", "underscore": "1_0\r\nabc\r\n0\r\n\r\n",
	} {
		rows = append(rows, row{"chunks: " + name, post(body+hidden, chunked), []int{400}, 0})
	}
	rows = append(rows, row{"a GET with chunks that are none", message(f.Addr, "GET", "/free/x", chunked) + "g\r\nabc\r\n0\r\n\r\n" + hidden, []int{400}, 0})
	for name, body := range map[string]string{
		"extension": "3;a=b\r\nabc\r\n0\r\n\r\n", "extension of the last": "3\r\nabc\r\n0;GET /api/hidden HTTP/1.1\r\n\r\n", "zeros": "00003\r\nabc\r\n000\r\n\r\n", "capitals": "A\r\n0123456789\r\n0\r\n\r\n", "blanks": "3 \t\r\nabc\r\n0\r\n\r\n",
	} {
		rows = append(rows, row{"chunks: " + name, post(body+hidden, chunked), []int{200, 401}, 1})
	}
	for i, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			// Each row has its own path, because the upstream reports a broken body
			// late, during another row.
			mark := fmt.Sprintf("/free/row%d", i)
			c := converse(t, f.Addr, strings.ReplaceAll(r.raw, "/free/x", mark))
			all := f.tap.take()
			got := whole(all, mark)
			if !slices.Equal(c.statuses(), r.want) || len(got) != r.hits {
				t.Errorf("answers %d, want %d; %d at the upstream, want %d", c.statuses(), r.want, len(got), r.hits)
			}
			for i, a := range c.answers {
				if i > 0 && a.Status != 400 && a.Status != 401 {
					t.Errorf("what is hidden is answered %d: %s", a.Status, a.Body)
				}
				if a.Status >= 400 && a.Status != 401 && !c.closed {
					t.Error("the connection goes on")
				}
			}
			for _, w := range all {
				if strings.Contains(w.line, "hidden") {
					t.Errorf("at the upstream: %s", short(w))
				}
			}
			if c.rest != "" {
				t.Errorf("no answer: %q", c.rest)
			}
		})
	}
}

// Caddy stops using an upstream that has failed. A request that a client breaks off
// must not count as a failure of the upstream, nor of the one in an error route, which
// gets the request again.
func TestAttackBrokenBodiesLeaveTheUpstreamIn(t *testing.T) {
	t.Parallel()
	const globals, proxy = "servers {\ntimeouts {\nread_body 2s\n}\n}", "reverse_proxy {$UPSTREAM} {\nfail_duration 1h\n}"
	site := func(globals, proxy string) string {
		return strings.Replace(fortSite(globals), "reverse_proxy {$UPSTREAM}", proxy, 1)
	}
	type answers struct{ broken, late, late2 int } // statuses; late2: over HTTP/2
	for _, s := range []struct {
		name, proxy string
		want        answers
	}{
		{"at the proxy", proxy, answers{400, 408, 408}},
		// When the time limit for a body passes, net/http ends the context of the
		// request.
		{"at the proxy, before an error route", proxy + "\nhandle_errors {\n" + proxy + "\n}", answers{200, 499, 200}},
		// No handler is left around an error route that could write an answer.
		{"at an error route", "error 503\nhandle_errors {\n" + proxy + "\n}", answers{499, 499, 499}},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			f := newFort3(t, site(globals, s.proxy))
			auth := "Authorization: Bearer " + f.login(t, "13800138000").Token
			post := func(addr string, fields ...field) message2 {
				return message2{fields: get2(addr, "POST", "/free/x", fields...), data: []string{"abc"}}
			}
			longer2, longer3 := post(f.Addr, field{"content-length", "9"}), post(f.addr2(), field{"content-length", "9"})
			longer3.fields[1].value = "https"
			late2 := post(f.Addr)
			late2.unended = true
			for _, c := range []struct {
				name   string
				send   func() rig.Answer
				status int
				ended  bool // there may be no answer because the stream was reset
			}{
				{"chunks that are none", func() rig.Answer {
					return rig.Raw(f.Addr, message(f.Addr, "POST", "/free/x", "Transfer-Encoding: chunked")+"3\r\nabc\r\ng\r\n\r\n")
				}, s.want.broken, false},
				{"beside an upgrade", func() rig.Answer {
					return rig.Raw(f.Addr, message(f.Addr, "POST", "/api/x", auth, "Connection: Upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked")+"3\r\nabc\r\ng\r\n\r\n")
				}, s.want.broken, false},
				{"no more comes", func() rig.Answer {
					return rig.Raw(f.Addr, message(f.Addr, "POST", "/free/x", "Content-Length: 9")+"abc")
				}, s.want.late, false},
				{"longer over HTTP/2", func() rig.Answer { return raw2(f.Addr, nil, longer2) }, s.want.broken, true},
				{"longer over HTTP/3", func() rig.Answer { return raw3(f.addr2(), longer3) }, s.want.broken, false},
				{"no more comes over HTTP/2", func() rig.Answer { return raw2(f.Addr, nil, late2) }, s.want.late2, false},
			} {
				if a := c.send(); a.Status != c.status && (a.Status != 0 || !c.ended) {
					t.Errorf("%s: %d %v, want %d", c.name, a.Status, a.Err, c.status)
				}
				if a := rig.Raw(f.Addr, message(f.Addr, "GET", "/free/next")); a.Status != http.StatusOK {
					t.Fatalf("after %s others are answered %d: %s", c.name, a.Status, a.Body)
				}
			}
		})
	}
	// An upstream that is really down is no longer used.
	away := newFort(t, site("", strings.Replace(proxy, "{$UPSTREAM}", "127.0.0.1:1", 1)))
	for _, want := range []int{http.StatusBadGateway, http.StatusServiceUnavailable} {
		if a := rig.Raw(away.Addr, message(away.Addr, "POST", "/free/x", "Content-Length: 3")+"abc"); a.Status != want {
			t.Errorf("with the upstream away: %d, want %d", a.Status, want)
		}
	}
}

// A refusal does not need the request's body, so it must be sent before the body
// arrives. Bytes in place of the body must not be taken for a request.
func TestAttackRefusalsAreSentAtOnce(t *testing.T) {
	t.Parallel()
	for name, caddyfile := range map[string]string{"with access logs": loggedSite(""), "without": fortSite("")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFort(t, caddyfile)
			auth := "Authorization: Bearer " + f.login(t, "13800138000").Token
			hidden := message(f.Addr, "GET", "/free/hidden") + message(f.Addr, "GET", "/api/hidden", auth)
			json := "Content-Type: application/json"
			func() {
				var all sync.WaitGroup
				defer all.Wait()
				for _, r := range []struct {
					name, raw string
					want      refusal
				}{
					{"401", message(f.Addr, "POST", "/api/x", "Content-Length: 1000000"), tokenMissing},
					{"401 of a GET", message(f.Addr, "GET", "/api/x", "Content-Length: 1000000"), tokenMissing},
					{"401 of a small body", message(f.Addr, "POST", "/api/x", "Content-Length: 1000"), tokenMissing},
					{"413 of a small body", message(f.Addr, "POST", "/auth/wx", json, "Content-Length: 5000"), refusal{413, "body_too_large"}},
					{"401 of chunks", message(f.Addr, "PUT", "/api/x", "Transfer-Encoding: chunked"), tokenMissing},
					{"401 of a bad token", message(f.Addr, "POST", "/api/x", auth+"x", "Content-Length: 1000000"), tokenInvalid},
					{"400 of two tokens", message(f.Addr, "POST", "/public/x", auth, auth, "Content-Length: 1000000"), twoTokens},
					{"405 of TRACE", message(f.Addr, "TRACE", "/free/x", "Content-Length: 1000000"), refusal{405, "method_not_allowed"}},
					{"405 of an endpoint", message(f.Addr, "PUT", "/auth/wx", json, "Content-Length: 1000000"), refusal{405, "method_not_allowed"}},
					{"404 of an endpoint", message(f.Addr, "POST", "/auth/wx/nothing", json, "Content-Length: 1000000"), refusal{404, "not_found"}},
					{"413", message(f.Addr, "POST", "/auth/wx", json, "Content-Length: 1073741824"), refusal{413, "body_too_large"}},
					{"415", message(f.Addr, "POST", "/auth/wx", "Content-Length: 1000000"), refusal{415, "unsupported_media_type"}},
					{"415 of chunks", message(f.Addr, "POST", "/auth/wx/refresh", "Transfer-Encoding: chunked"), refusal{415, "unsupported_media_type"}},
					{"401 of verify", message(f.Addr, "POST", "/auth/wx/verify", "Content-Length: 1000000"), tokenMissing},
					{"401 of me", message(f.Addr, "GET", "/auth/wx/me", "Content-Length: 1000000"), tokenMissing},
				} {
					for _, expect := range []string{"", "Expect: 100-continue\r\n", "expect: 100-Continue\r\n"} {
						raw := strings.Replace(r.raw, "Host:", expect+"Host:", 1)
						name := strings.TrimSpace(r.name + " " + expect)
						all.Go(func() {
							c := converse(t, f.Addr, raw) // the body never comes
							if len(c.answers) != 1 || c.answers[0].Status != r.want.status {
								t.Errorf("%s: answers %d, want %d", name, c.statuses(), r.want.status)
								return
							}
							c.answers[0].WantProblem(t, r.want.status, r.want.code, nil)
							if c.first > 5*time.Second || !c.closed {
								t.Errorf("%s: answered after %s; closed: %v, though a body is to come", name, c.first, c.closed)
							}
							// These are requests in place of the body.
							if c := converse(t, f.Addr, raw+hidden); len(c.answers) != 1 || !c.closed {
								t.Errorf("%s: answers %d, closed %v", name, c.statuses(), c.closed)
							}
						})
					}
				}
			}()
			if got := f.tap.take(); len(got) > 0 {
				t.Errorf("at the upstream: %s", short(got))
			}
			// If no body was announced, the connection stays open, and the next request
			// is decided on its own.
			next := message(f.Addr, "GET", "/free/x")
			c := converse(t, f.Addr, message(f.Addr, "GET", "/api/x")+next+message(f.Addr, "POST", "/api/x", "Content-Length: 0")+message(f.Addr, "GET", "/api/x", auth)+next)
			if want := []int{401, 200, 401, 200, 200}; !slices.Equal(c.statuses(), want) || c.closed {
				t.Errorf("answers %d, want %d; closed %v", c.statuses(), want, c.closed)
			}
			f.tap.take()
			// An upload that is let in gets 100-continue.
			c = converse(t, f.Addr, message(f.Addr, "POST", "/free/x", "Expect: 100-continue", "Content-Length: 3")+"abc")
			if want := []int{100, 200}; !slices.Equal(c.statuses(), want) {
				t.Errorf("answers %d, want %d", c.statuses(), want)
			}
			if got := f.tap.take(); len(got) != 1 || got[0].body != "abc" {
				t.Errorf("at the upstream: %s", short(got))
			}
			c = converse(t, f.Addr, message(f.Addr, "POST", "/free/x", "Expect: 200-ok", "Content-Length: 3")+"abc")
			if len(c.answers) != 1 || c.answers[0].Status != http.StatusExpectationFailed || len(f.tap.take()) > 0 {
				t.Errorf("another expectation: %d", c.statuses())
			}
		})
	}
}

// An attacker asks for protocols that would turn the connection into a tunnel.
func TestAttackTunnels(t *testing.T) {
	t.Parallel()
	for name, globals := range map[string]string{"by default": "", "with h2c": "servers {\nprotocols h1 h2 h2c\n}"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFort(t, fortSite(globals))
			pair := f.login(t, "13800138000")
			auth := "Authorization: Bearer " + pair.Token
			// CONNECT has no path, so it needs a token. With a token the upstream gets
			// the request with its authority, no tunnel is opened, and what follows is
			// an ordinary request.
			for _, target := range []string{f.tap.addr, f.Addr, "127.0.0.1:22", "/api/x", "/public/x"} {
				next := message(f.Addr, "GET", "/api/x")
				c := converse(t, f.Addr, message(f.Addr, "CONNECT", target)+next, "CONNECT")
				if want := []int{401, 401}; !slices.Equal(c.statuses(), want) || len(f.tap.take()) > 0 {
					t.Errorf("CONNECT %s: answers %d, want %d", target, c.statuses(), want)
				}
				c = converse(t, f.Addr, message(f.Addr, "CONNECT", target, auth)+next, "GET")
				got := f.tap.take()
				if want := []int{200, 401}; !slices.Equal(c.statuses(), want) || len(got) != 1 {
					t.Fatalf("CONNECT %s with a token: answers %d, want %d; upstream %s", target, c.statuses(), want, short(got))
				}
				got[0].wantIdentity(t, f.identity(t, pair))
			}
			for _, target := range []string{"http://" + f.Addr + "/api/x", "*", "x:y"} {
				c := converse(t, f.Addr, message(f.Addr, "CONNECT", target), "CONNECT")
				if got := f.tap.take(); len(got) > 0 || len(c.answers) != 1 {
					t.Errorf("CONNECT %s: answers %d, upstream %s", target, c.statuses(), short(got))
				}
			}
			h2c := []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"}
			f.refuses(t, tokenMissing, message(f.Addr, "GET", "/api/x", h2c...))
			f.refuses(t, tokenMissing, message(f.Addr, "GET", "/auth/wx/me", h2c...))
			f.passes(t, message(f.Addr, "GET", "/public/x", h2c...)).wantIdentity(t, nil)
			f.passes(t, message(f.Addr, "GET", "/api/x", append(h2c, auth)...)).wantIdentity(t, f.identity(t, pair))
			c := converse(t, f.Addr, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+message(f.Addr, "GET", "/api/x"))
			if len(c.answers) > 0 || !c.closed || len(f.tap.take()) > 0 {
				t.Errorf("HTTP/1.1 behind a preface of HTTP/2: answers %d", c.statuses())
			}
		})
	}
}

// Requests of HTTP/1.0 and earlier, and requests without a host.
func TestAttackOldHTTP(t *testing.T) {
	t.Parallel()
	f := newFort(t, fortSite(""))
	auth := "Authorization: Bearer " + f.login(t, "13800138000").Token
	host := "Host: " + f.Addr
	for _, r := range []struct {
		name, raw string
		want      []int
		hits      int
	}{
		{"1.0", "GET /api/x HTTP/1.0\r\n" + host + "\r\n\r\n", []int{401}, 0},
		{"1.0 with a token", "GET /api/x HTTP/1.0\r\n" + host + "\r\n" + auth + "\r\n\r\n", []int{200}, 1},
		{"1.0 kept alive", "GET /api/x HTTP/1.0\r\n" + host + "\r\nConnection: keep-alive\r\n\r\nGET /api/y HTTP/1.0\r\n" + host + "\r\n\r\n", []int{401, 401}, 0},
		{"1.0 with chunks", "POST /free/x HTTP/1.0\r\n" + host + "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /api/hidden HTTP/1.1\r\n" + host + "\r\n\r\n", []int{200}, 1},
		{"1.0 without a host", "GET /api/x HTTP/1.0\r\n\r\n", []int{200}, 0}, // Caddy's answer when no site matches
		{"0.9", "GET /api/" + strings.Repeat("x", 30) + "\r\n", []int{400}, 0},
		{"1.1 without a host", "GET /api/x HTTP/1.1\r\n\r\n", []int{400}, 0},
		{"two hosts", "GET /api/x HTTP/1.1\r\n" + host + "\r\n" + host + "\r\n\r\n", []int{400}, 0},
		{"a host that is none", "GET /api/x HTTP/1.1\r\nHost: a b\r\n\r\n", []int{400}, 0},
		{"a host with a path", "GET /api/x HTTP/1.1\r\nHost: " + f.Addr + "/free/x\r\n\r\n", []int{400}, 0},
		{"another host", "GET /api/x HTTP/1.1\r\nHost: other.example\r\n\r\n", []int{200}, 0}, // not our site
		{"another host in the target", "GET http://other.example/api/x HTTP/1.1\r\n" + host + "\r\n\r\n", []int{200}, 0},
		{"1.2", "GET /api/x HTTP/1.2\r\n" + host + "\r\n\r\n", []int{401}, 0},
		{"2.0", "GET /api/x HTTP/2.0\r\n" + host + "\r\n\r\n", []int{505}, 0},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n\r\n", []int{200}, 0}, // net/http answers it
		{"20 KB of fields", message(f.Addr, "GET", "/api/x", "X: "+strings.Repeat("x", 21<<10)), []int{431}, 0},
	} {
		t.Run(r.name, func(t *testing.T) {
			c := converse(t, f.Addr, r.raw)
			if got := f.tap.take(); !slices.Equal(c.statuses(), r.want) || len(got) != r.hits {
				t.Errorf("answers %d, want %d; %d at the upstream, want %d: %s", c.statuses(), r.want, len(got), r.hits, short(got))
			}
			if r.hits == 0 && len(c.answers) > 0 && c.answers[0].Status == 200 && c.answers[0].Body != "" {
				t.Errorf("body %q", c.answers[0].Body)
			}
		})
	}
}

// Logins send their bodies slowly. Each must end in time, and others must not wait for
// them.
func TestAttackSlowBodies(t *testing.T) {
	t.Parallel()
	f := newFort(t, fortSite("servers {\ntimeouts {\nread_header 3s\n}\n}"))
	var all sync.WaitGroup
	slow := func(name, begin string, drip string, within time.Duration, status int) {
		all.Go(func() {
			conn, err := net.Dial("tcp", f.Addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			start := time.Now()
			_, _ = io.WriteString(conn, begin)
			ended := make(chan struct{})
			all.Go(func() {
				for {
					select {
					case <-ended:
						return
					case <-time.After(500 * time.Millisecond):
						_, _ = io.WriteString(conn, drip)
					}
				}
			})
			defer close(ended)
			_ = conn.SetReadDeadline(start.Add(within))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			took := time.Since(start)
			switch {
			case status == 0 && err == nil:
				t.Errorf("%s: status %d", name, resp.StatusCode)
			case status != 0 && (err != nil || resp.StatusCode != status):
				t.Errorf("%s: %v after %s: %v", name, resp, took, err)
			case took > within:
				t.Errorf("%s: only after %s", name, took)
			}
			if resp != nil {
				resp.Body.Close()
			}
		})
	}
	login := message(f.Addr, "POST", "/auth/wx", "Content-Type: application/json", "Content-Length: 1000") + `{"code":"`
	for i := range 40 {
		slow(fmt.Sprint("body ", i), login, "x", 20*time.Second, 400)
	}
	slow("chunks", message(f.Addr, "POST", "/auth/wx/refresh", "Content-Type: application/json", "Transfer-Encoding: chunked")+"400\r\n", "x", 20*time.Second, 400)
	slow("silence", login, "", 20*time.Second, 400)
	slow("head", "POST /auth/wx HTTP/1.1\r\nHost: "+f.Addr+"\r\nX-", "x", 10*time.Second, 400)
	start := time.Now()
	pair := f.login(t, "13800138000")
	f.passes(t, message(f.Addr, "GET", "/api/x", "Authorization: Bearer "+pair.Token))
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("beside slow ones a login took %s", took)
	}
	all.Wait()
	if got := f.tap.take(); len(got) > 0 {
		t.Errorf("at the upstream: %s", short(got))
	}
}
