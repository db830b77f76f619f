package requests

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// These are the frames of HTTP/3 (RFC 9114, section 7.2) that raw3 writes and reads.
const (
	frameData    = 0
	frameHeaders = 1
)

func config3() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, ServerName: "127.0.0.1", NextProtos: []string{http3.NextProtoH3}}
}

// withHTTP3 adds the same site, at {$ADDR2} with TLS and HTTP/3, to a Caddyfile with
// one site. The first site also gets HTTP/2.
func withHTTP3(caddyfile string) string {
	globals, site, _ := strings.Cut(caddyfile, "http://{$ADDR} {\n")
	const protocols = "protocols h1 h2 h2c h3\n"
	globals = strings.TrimSuffix(strings.TrimSpace(strings.ReplaceAll(globals, "protocols h1 h2c\n", "")), "}")
	if before, after, ok := strings.Cut(globals, "servers {\n"); ok {
		globals = before + "servers {\n" + protocols + after
	} else {
		globals += "\nservers {\n" + protocols + "}"
	}
	globals += "\nskip_install_trust\nauto_https disable_redirects\n}\n"
	return globals + "http://{$ADDR} {\n" + site + "\nhttps://{$ADDR2} {\ntls internal\n" + site
}

// awaitHTTP3 waits until a running Caddy has made its certificate.
func awaitHTTP3(t testing.TB, addr string) {
	t.Helper()
	rig.Await(t, 20*time.Second, "HTTP/3 is served", func() bool {
		return raw3(addr, message2{fields: get3(addr, "GET", "/auth/wx/health")}).Status != 0
	})
}

// raw3 sends a request over a new HTTP/3 connection. If the stream or the connection
// was ended instead, the answer has no status and Err says so.
func raw3(addr string, m message2) rig.Answer {
	c := client3{addr: addr}
	defer c.close()
	return c.send(m)
}

// client3 sends requests one after the other, over one connection for as long as that
// lasts.
type client3 struct {
	addr string
	conn *quic.Conn
}

func (c *client3) send(m message2) rig.Answer {
	ctx, cancel := context.WithTimeout(context.Background(), m.patience())
	defer cancel()
	if c.conn == nil || c.conn.Context().Err() != nil {
		conn, err := quic.DialAddr(ctx, c.addr, config3(), nil)
		if err != nil {
			return rig.Answer{Err: err}
		}
		new(http3.Transport).NewClientConn(conn) // opens its control stream
		c.conn = conn
	}
	return send3(ctx, c.conn, m)
}

func (c *client3) close() {
	if c.conn != nil {
		_ = c.conn.CloseWithError(0, "")
	}
}

func send3(ctx context.Context, conn *quic.Conn, m message2) rig.Answer {
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return rig.Answer{Err: err}
	}
	if end, ok := ctx.Deadline(); ok {
		_ = stream.SetDeadline(end)
	}
	if _, err := stream.Write(m.frames3()); err != nil {
		return rig.Answer{Err: err}
	}
	if !m.unended {
		_ = stream.Close()
	}
	return readAnswer3(stream)
}

// frames3 returns the frames of the message.
func (m message2) frames3() []byte {
	var out []byte
	frame := func(kind uint64, payload []byte) {
		out = quicvarint.Append(quicvarint.Append(out, kind), uint64(len(payload)))
		out = append(out, payload...)
	}
	headers := func(fields []field) {
		var block bytes.Buffer
		enc := qpack.NewEncoder(&block)
		for _, f := range fields {
			_ = enc.WriteField(qpack.HeaderField{Name: f.name, Value: f.value})
		}
		frame(frameHeaders, block.Bytes())
	}
	headers(m.fields)
	for _, d := range m.data {
		frame(frameData, []byte(d))
	}
	if m.trailers != nil {
		headers(m.trailers)
	}
	return out
}

func readAnswer3(stream io.Reader) rig.Answer {
	a := rig.Answer{Header: http.Header{}}
	r := quicvarint.NewReader(stream)
	for {
		kind, err := quicvarint.Read(r)
		if err == io.EOF && a.Status != 0 {
			return a
		}
		var length uint64
		if err == nil {
			length, err = quicvarint.Read(r)
		}
		payload := make([]byte, min(length, 8<<20))
		if err == nil {
			_, err = io.ReadFull(r, payload)
		}
		if err != nil {
			if a.Status == 0 {
				a.Err = err
			}
			return a
		}
		switch kind {
		case frameData:
			a.Body += string(payload)
		case frameHeaders:
			decode := qpack.NewDecoder().Decode(payload)
			for f, err := decode(); err == nil; f, err = decode() {
				if f.Name == ":status" {
					a.Status, _ = strconv.Atoi(f.Value)
				} else {
					a.Header.Add(f.Name, f.Value)
				}
			}
		}
	}
}

// get3 returns the first fields of a request over HTTP/3.
func get3(addr, method, target string, fields ...field) []field {
	all := get2(addr, method, target, fields...)
	all[1].value = "https"
	return all
}

// open3 opens a WebSocket by extended CONNECT over HTTP/3 (RFC 9220).
func (g *guard) open3(t testing.TB, target string, headers ...string) *rig.Socket {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), rig.RawTime)
	defer cancel()
	conn, err := quic.DialAddr(ctx, g.addr2(), config3(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	stream, err := new(http3.Transport).NewClientConn(conn).OpenRequestStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodConnect, "https://"+g.addr2()+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Proto = "websocket"
	r.Header.Set("Sec-WebSocket-Version", "13")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	if err := stream.SendRequestHeader(r); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.ReadResponse()
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("not upgraded: %s %s", resp.Status, body)
	}
	return &rig.Socket{ReadWriteCloser: stream, R: stream}
}

// holdable is a client's socket that holds back incoming packets until it is released,
// and after that sends nothing.
type holdable struct {
	net.PacketConn
	released chan struct{}
}

func (h *holdable) ReadFrom(p []byte) (int, net.Addr, error) {
	n, addr, err := h.PacketConn.ReadFrom(p)
	if err == nil {
		<-h.released
	}
	return n, addr, err
}

func (h *holdable) WriteTo(p []byte, addr net.Addr) (int, error) {
	select {
	case <-h.released:
		return len(p), nil
	default:
		return h.PacketConn.WriteTo(p, addr)
	}
}

// early3 sends a request as early data and never completes the handshake. Anybody who
// has recorded the packets could do this.
func early3(t testing.TB, addr string, sessions tls.ClientSessionCache, m message2) rig.Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), rig.RawTime)
	defer cancel()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	held := &holdable{udp, make(chan struct{})}
	release := sync.OnceFunc(func() { close(held.released) })
	defer release()
	server, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	config := config3()
	config.ClientSessionCache = sessions
	transport := &quic.Transport{Conn: held}
	defer func() {
		release()
		_ = transport.Close()
		_ = udp.Close()
	}()
	conn, err := transport.DialEarly(ctx, server, config, nil)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(200*time.Millisecond, release) // by then the request has been sent
	if conn.ConnectionState().TLS.HandshakeComplete {
		t.Fatal("the handshake is complete: this tries nothing")
	}
	return send3(ctx, conn, m)
}

// Early data (0-RTT) can be replayed by anybody who recorded it, so a login or refresh
// in it is refused with 425.
func TestAttackEarlyData(t *testing.T) {
	t.Parallel()
	f := newFort3(t, fortSite("servers {\nprotocols h1 h2c\n}", "service_key "+rig.ServiceKey))
	pair := f.login(t, "13800138000")
	addr := f.addr2()
	sessions := tls.NewLRUClientSessionCache(8)
	ticket := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), rig.RawTime)
		defer cancel()
		config := config3()
		config.ClientSessionCache = sessions
		conn, err := quic.DialAddr(ctx, addr, config, nil)
		if err != nil {
			t.Fatal(err)
		}
		new(http3.Transport).NewClientConn(conn)
		if a := send3(ctx, conn, message2{fields: get3(addr, "GET", "/auth/wx/health")}); a.Status != 200 {
			t.Fatalf("%d %v", a.Status, a.Err)
		}
		_ = conn.CloseWithError(0, "")
	}
	codes := f.wx.Tap(t, "13900139000")
	login := fmt.Sprintf(`{"code":%q,"phoneCode":%q}`, codes.Code, codes.PhoneCode)
	refresh := fmt.Sprintf(`{"refreshToken":%q}`, pair.RefreshToken)
	json := field{"content-type", "application/json"}
	service := fmt.Sprintf(`{"userId":%q}`, pair.UserInfo.ID)
	asked := f.wx.Asked()
	for target, body := range map[string]string{"/auth/wx": login, "/auth/wx/": login, "/auth/wx/refresh": refresh, "/auth/wx/service/revoke": service} {
		ticket()
		early3(t, addr, sessions, message2{fields: get3(addr, "POST", target, json, field{"authorization", "Bearer " + rig.ServiceKey}), data: []string{body}}).WantProblem(t, http.StatusTooEarly, "too_early", nil)
		// A proxy in front of us says so in a header, and overrides what a client says.
		everyHTTP(t, f, func(t *testing.T, f *fort) {
			for _, says := range [][]string{{"Early-Data: 1"}, {"early-data: 1", "Early-Data: 1"}, {"Early-Data: 0", "Early-Data: 1"}, {"Early-Data:", "Early-Data: 1"}, {"Early-Data: 1, 1"}, {"Early-Data: 0"}} {
				lines := append(says, "Content-Type: application/json", "Authorization: Bearer "+rig.ServiceKey, fmt.Sprint("Content-Length: ", len(body)))
				f.refuses(t, refusal{http.StatusTooEarly, "too_early"}, message(f.Addr, "POST", target, lines...)+body)
			}
		})
	}
	if f.wx.Asked() != asked {
		t.Error("WeChat was asked")
	}
	// A request that passes carries the header Early-Data, because it may be a replay.
	ticket()
	a := early3(t, addr, sessions, message2{fields: get3(addr, "GET", "/api/x", field{"authorization", "Bearer " + pair.Token})})
	if got := f.tap.take(); a.Status != 200 || len(got) != 1 || strings.Join(got[0].values("Early-Data"), "|") != "1" {
		t.Errorf("%d %v, upstream %s", a.Status, a.Err, short(got))
	}
	// After the handshake both requests are accepted.
	raw3(addr, message2{fields: get3(addr, "POST", "/auth/wx", json), data: []string{login}}).Pair(t)
	raw3(addr, message2{fields: get3(addr, "POST", "/auth/wx/refresh", json), data: []string{refresh}}).Pair(t)
}
