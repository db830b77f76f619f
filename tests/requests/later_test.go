package requests

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// The tables of attacks are written as HTTP/1.1, and sent over HTTP/2 and HTTP/3 too.

// sender sends a request that is written as HTTP/1.1 over a later version. A nil sender
// sends it unchanged.
type sender func(raw string) rig.Answer

func (s sender) send(addr, raw string) rig.Answer {
	if s == nil {
		return rig.Raw(addr, raw)
	}
	return s(raw)
}

// later2 and later3 return senders for HTTP/2 without TLS and for HTTP/3.
func later2(addr string) sender {
	return func(raw string) rig.Answer { return ended(raw2(addr, nil, later(raw, addr, "http"))) }
}

func later3(t testing.TB, addr string) sender {
	c := &client3{addr: addr}
	t.Cleanup(c.close)
	return func(raw string) rig.Answer { return ended(c.send(later(raw, addr, "https"))) }
}

// later translates a request to a later version. Names become lower case, as required;
// the target and the values stay unchanged; chunks become data and trailers. A request
// for a WebSocket becomes an extended CONNECT (RFC 8441, RFC 9220), for which GODEBUG
// must contain http2xconnect=1.
func later(raw, addr, scheme string) message2 {
	head, body, _ := strings.Cut(raw, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	method, target, _ := strings.Cut(lines[0], " ")
	socket := strings.Contains(head, "\r\nUpgrade: websocket\r\n") && strings.Contains(head, "\r\nConnection: Upgrade\r\n")
	if socket && method == http.MethodGet {
		method = http.MethodConnect
	} else {
		socket = false
	}
	m := message2{fields: get2(addr, method, strings.TrimSuffix(target, " HTTP/1.1"))}
	m.fields[1].value = scheme
	if socket {
		m.fields = append(m.fields, field{":protocol", "websocket"})
	}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		name = strings.ToLower(name)
		if name == "host" || name == "transfer-encoding" || socket && (name == "connection" || name == "upgrade" || name == "sec-websocket-key") {
			continue
		}
		m.fields = append(m.fields, field{name, strings.TrimPrefix(value, " ")})
	}
	if strings.Contains(head, "\r\nTransfer-Encoding: chunked\r\n") {
		r := bufio.NewReader(strings.NewReader(body))
		data, _ := io.ReadAll(httputil.NewChunkedReader(r)) // we wrote these chunks ourselves
		body = string(data)
		m.trailers, _ = readFields(r)
		for i := range m.trailers {
			m.trailers[i].name = strings.ToLower(m.trailers[i].name)
		}
	}
	if body != "" {
		m.data = []string{body}
	}
	return m
}

// ended returns the answer, or 400 if the server has ended the stream, which is how it
// refuses malformed requests.
func ended(a rig.Answer) rig.Answer {
	_, stream := errors.AsType[*quic.StreamError](a.Err)
	_, conn := errors.AsType[*quic.ApplicationError](a.Err)
	if a.Status == 0 && (stream || conn || errors.Is(a.Err, errEnded)) {
		return rig.Answer{Status: http.StatusBadRequest}
	}
	return a
}

// newFort3 is newFort with HTTP/2 and HTTP/3, for a Caddyfile with one site.
func newFort3(t testing.TB, caddyfile string, env ...string) *fort {
	t.Helper()
	f := newFort(t, withHTTP3(caddyfile), append(env, "ADDR2="+rig.FreeAddress(t))...)
	awaitHTTP3(t, f.addr2())
	return f
}

// everyHTTP runs a table over each version of HTTP, with a copy of the gateway that
// sends over it.
func everyHTTP[T any, P fronted[T]](t *testing.T, g P, try func(t *testing.T, g P)) {
	t.Run("HTTP1", func(t *testing.T) { try(t, g) })
	over := func(name string, turn func(t *testing.T, f *front)) {
		c := *g
		t.Run(name, func(t *testing.T) {
			turn(t, P(&c).self())
			try(t, &c)
		})
	}
	over("HTTP2", func(_ *testing.T, f *front) { f.later = later2(f.Addr) })
	over("HTTP3", func(t *testing.T, f *front) { f.later, f.origin = later3(t, f.addr2()), "https://"+f.addr2() })
}

// fronted is implemented by guard and fort.
type fronted[T any] interface {
	*T
	self() *front
}

func (f *front) self() *front { return f }
