package requests

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// openRefused starts an upload that is going to be refused, and reads the refusal.
func openRefused(t testing.TB, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(uploadTime))
	if _, err := io.WriteString(conn, message(addr, "POST", "/up", fmt.Sprintf("Content-Length: %d", 64<<20))); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("%d %v", resp.StatusCode, err)
	}
	return conn
}

// closed waits for the end of the connection, and returns its error.
func closed(conn net.Conn) error {
	_, err := io.Copy(io.Discard, conn)
	if nerr, ok := err.(net.Error); ok && nerr.Timeout() {
		return err
	}
	return nil
}

// Clients try to occupy memory and connections with refused uploads. One that sends
// only a trickle is disconnected, and so is each beyond the 256th; both get the answer
// first.
func TestRefusedUploadsHoldLittle(t *testing.T) {
	t.Parallel()
	g := newGuard(t, guardSite())
	slow := openRefused(t, g.Addr)
	start := time.Now()
	go func() {
		for {
			if _, err := slow.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	if err := closed(slow); err != nil {
		t.Errorf("a byte now and then holds the connection: %v", err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("closed after %s", took)
	}
	// Of 300 clients that keep the minimum rate, 44 exceed the bound of 256.
	piece := make([]byte, 64<<10)
	ended := make(chan struct{}, 300)
	stop := make(chan struct{})
	for range 300 {
		conn := openRefused(t, g.Addr)
		go func() {
			for {
				if _, err := conn.Write(piece); err != nil {
					ended <- struct{}{}
					return
				}
				select {
				case <-stop:
					return
				case <-time.After(500 * time.Millisecond):
				}
			}
		}()
	}
	for range 300 - 256 {
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Fatal("more connections are held than 256")
		}
	}
	close(stop)
}

// A client that uploads must not keep Caddy from stopping.
func TestRefusedUploadsEndWithTheProcess(t *testing.T) {
	t.Parallel()
	g := newGuard(t, guardSite())
	for range 3 {
		conn := openRefused(t, g.Addr)
		go func() {
			piece := make([]byte, 64<<10)
			for {
				if _, err := conn.Write(piece); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}()
	}
	g.Stop() // the test fails if this takes longer than rig.StopTime
}

// nginx may buffer the body, or forward it as it arrives. In both cases its client reads the
// gateway's refusal, and not a 502.
func TestRefusedUploadsBehindNginx(t *testing.T) {
	t.Parallel()
	for _, buffering := range []string{"on", "off"} {
		t.Run("proxy_request_buffering "+buffering, func(t *testing.T) {
			g := newUploadGuard(t)
			addr := rig.FreeAddress(t)
			rig.StartNginx(t, addr, fmt.Sprintf("server {\nlisten %s;\nclient_max_body_size 100m;\nproxy_request_buffering %s;\nproxy_http_version 1.1;\nlocation / {\nproxy_pass http://%s;\n}\nlocation /tls/ {\nproxy_pass https://%s/;\n}\n}\n", addr, buffering, g.Addr, g.addr2()))
			for _, target := range []string{"/up", "/tls/up", "/auth/wx"} {
				for _, chunked := range []bool{false, true} {
					for _, size := range uploadSizes() {
						a := uploader{addr, false, chunked}.send("POST", target, size)
						want := 401
						if target == "/auth/wx" {
							want = 415
						}
						if a.Err != nil || a.Status != want || !strings.Contains(a.Body, `"code"`) {
							t.Fatalf("%s, chunked %t, %d bytes: %d %v %s", target, chunked, size, a.Status, a.Err, a.Body)
						}
					}
				}
			}
		})
	}
}

// An H5 page of another origin uses the CORS configuration of docs/browsers.md. Its preflights are
// answered, also at our endpoints, and it can read refusals.
func TestPagesOfAnotherOrigin(t *testing.T) {
	t.Parallel()
	for _, page := range rig.InBothLanguages("browsers.md") {
		block := rig.Replaced(t, rig.PageBlock(t, page, "Access-Control-Allow-Origin https://h5.example.com"), "api.example.com {", "http://{$ADDR} {", "localhost:3000", "{$UPSTREAM}",
			"wx_auth {env.WX_APPID} {env.WX_SECRET}", "wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n}")
		g := newGuard(t, "{\ndefault_bind 127.0.0.1\n}\n"+block)
		page, method := "Origin: https://h5.example.com", "Access-Control-Request-Method: POST"
		for _, target := range []string{"/orders", "/auth/wx", "/auth/wx/refresh", "/auth/wx/me"} {
			a := g.ask("OPTIONS", target, page, method)
			if a.Status != http.StatusNoContent || a.Header.Get("Access-Control-Allow-Origin") != "https://h5.example.com" || !strings.Contains(a.Header.Get("Access-Control-Allow-Headers"), "Authorization") {
				t.Errorf("%s: %d %v", target, a.Status, a.Header)
			}
			a = g.ask("OPTIONS", target, "Origin: https://evil.example", method)
			if a.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s: another origin gets %v", target, a.Header)
			}
		}
		a := g.ask("GET", "/orders", page)
		a.WantProblem(t, 401, "token_missing", nil)
		if a.Header.Get("Access-Control-Allow-Origin") != "https://h5.example.com" || !strings.Contains(a.Header.Get("Access-Control-Expose-Headers"), "WWW-Authenticate") {
			t.Errorf("the page cannot read the refusal: %v", a.Header)
		}
	}
}
