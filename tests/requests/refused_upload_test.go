package requests

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// These tests refuse uploads that are still in progress. The client must be able to read the
// reason: a mini program that only gets a reset connection does not refresh its token.

// uploadTries is how often each client tries each upload. Every attempt must read the
// answer.
const uploadTries = 8

// uploadTime bounds one upload of a test.
const uploadTime = 90 * time.Second

// again is a second wx_auth for the same request, which is refused as misconfigured.
const again = "&(again) {\nwx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n}\n}\n"

// uploadSite refuses an upload for every possible reason. It is served with and without
// TLS.
const uploadSite = `
	handle_path /store/* {
		wx_auth {env.WX_APPID} {env.WX_SECRET} {
			store postgres://nobody@127.0.0.1:1/none
			encryption_key {env.STORE_KEY}
			token {
				issuer another
			}
		}
		respond "no"
	}
	handle /limited/* {
		request_body {
			max_size 100KB
		}
		wx_auth {env.WX_APPID} {env.WX_SECRET} {
			wechat {
				api {$WX_API}
			}
		}
		reverse_proxy {$UPSTREAM}
	}
	handle {
		wx_auth {env.WX_APPID} {env.WX_SECRET} {
			public POST /twice/*
			service_key 0123456789abcdef0123456789abcdef
			wechat {
				api {$WX_API}
			}
		}
		invoke /twice/* again
		reverse_proxy {$UPSTREAM}
	}
`

func newUploadGuard(t testing.TB, options ...string) *guard {
	t.Helper()
	g := startGuard(t, withAgain, rig.Site(uploadSite, append(options, "log {\noutput stderr\n}")...), "ADDR2="+rig.FreeAddress(t),
		"STORE_KEY=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
	awaitHTTP3(t, g.addr2())
	return g
}

func withAgain(caddyfile string) string {
	return strings.Replace(withHTTP3(caddyfile), "http://{$ADDR} {", again+"http://{$ADDR} {", 1)
}

// uploader sends a request with a body of that size. Like many clients, it reads nothing until
// it has sent everything.
type uploader struct {
	addr    string
	tls     bool
	chunked bool
}

func (u uploader) dial() (net.Conn, error) {
	if u.tls {
		return tls.Dial("tcp", u.addr, &tls.Config{InsecureSkipVerify: true})
	}
	return net.Dial("tcp", u.addr)
}

func (u uploader) send(method, target string, size int, lines ...string) rig.Answer {
	conn, err := u.dial()
	if err != nil {
		return rig.Answer{Err: err}
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(uploadTime))
	framing := fmt.Sprintf("Content-Length: %d", size)
	if u.chunked {
		framing = "Transfer-Encoding: chunked"
	}
	w := bufio.NewWriterSize(conn, 128<<10)
	_, _ = io.WriteString(w, message(u.addr, method, target, append(lines, framing)...))
	piece := make([]byte, 64<<10)
	for left := size; left > 0; left -= len(piece) {
		piece = piece[:min(left, len(piece))]
		if u.chunked {
			fmt.Fprintf(w, "%x\r\n", len(piece))
		}
		_, _ = w.Write(piece)
		if u.chunked {
			_, _ = io.WriteString(w, "\r\n")
		}
	}
	if u.chunked {
		_, _ = io.WriteString(w, "0\r\n\r\n")
	}
	if err := w.Flush(); err != nil {
		return rig.Answer{Err: fmt.Errorf("sending: %w", err)}
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return rig.Answer{Err: fmt.Errorf("reading the answer: %w", err)}
	}
	return rig.ReadAnswer(resp)
}

// Uploads of every size are refused for every possible reason. The client always reads
// the refusal.
func TestRefusedUploads(t *testing.T) {
	t.Parallel()
	g := newUploadGuard(t)
	good := g.login(t, "13800138000").Token
	const bad, json = "Authorization: Bearer bad", "Content-Type: application/json"
	rows := []struct {
		method, target string
		want           refusal
		lines          []string
	}{
		{"POST", "/up", tokenMissing, nil},
		{"PUT", "/up/a", tokenInvalid, []string{bad}},
		{"DELETE", "/up", twoTokens, []string{bad, bad}},
		{"GET", "/up", tokenInvalid, []string{bad}},
		{"TRACE", "/up", refusal{405, "method_not_allowed"}, nil},
		{"POST", "/up/../up", tokenMissing, nil},
		{"POST", "/auth/wx", refusal{413, "body_too_large"}, []string{json}},
		{"POST", "/auth/wx", refusal{415, "unsupported_media_type"}, nil},
		{"PUT", "/auth/wx", refusal{405, "method_not_allowed"}, []string{json}},
		{"POST", "/auth/wx/refresh", refusal{413, "body_too_large"}, []string{json}},
		{"POST", "/auth/wx/logout", refusal{413, "body_too_large"}, []string{json}},
		{"GET", "/auth/wx/me", tokenMissing, nil},
		{"POST", "/auth/wx/verify", tokenInvalid, []string{bad}},
		{"POST", "/auth/wx/none", refusal{404, "not_found"}, nil},
		{"POST", "/auth/wx/service/revoke", refusal{401, "service_key_invalid"}, []string{json, bad}},
		{"POST", "/store/up", refusal{503, "store_unavailable"}, []string{"Authorization: Bearer " + good}},
		{"POST", "/store/auth/wx", refusal{413, "body_too_large"}, []string{json}},
		{"POST", "/limited/up", tokenInvalid, []string{bad}}, // if it has a length, request_body refuses it itself
		{"POST", "/twice/up", refusal{500, "misconfigured"}, nil},
	}
	for _, encrypted := range []bool{false, true} {
		for _, chunked := range []bool{false, true} {
			u := uploader{map[bool]string{false: g.Addr, true: g.addr2()}[encrypted], encrypted, chunked}
			t.Run(fmt.Sprintf("tls=%t,chunked=%t", encrypted, chunked), func(t *testing.T) {
				for _, r := range rows {
					size := 2 << 20
					if strings.HasPrefix(r.target, "/limited/") {
						if size = 300 << 10; !chunked {
							continue
						}
					}
					for range uploadTries {
						a := u.send(r.method, r.target, size, r.lines...)
						if a.Err != nil {
							t.Fatalf("%s %s: %v", r.method, r.target, a.Err)
						}
						if a.WantProblem(t, r.want.status, r.want.code, nil); a.Header.Get("Content-Length") == "" {
							t.Errorf("%s %s: no length", r.method, r.target)
						}
					}
				}
				for _, size := range []int{1, 5 << 10, 300 << 10, 20 << 20, 64 << 20} {
					a := u.send("POST", "/up", size, bad)
					if a.Err != nil {
						t.Fatalf("%d bytes: %v", size, a.Err)
					}
					a.WantProblem(t, 401, "token_invalid", nil)
				}
			})
		}
	}
	if n := g.up.Hits(); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
}

// The answer is sent before the body has arrived.
func TestRefusalDoesNotWaitForTheUpload(t *testing.T) {
	t.Parallel()
	g := newUploadGuard(t)
	for _, c := range []struct {
		name, target string
		want         int
		lines        []string
	}{
		{"gate", "/up", 401, nil},
		{"endpoint", "/auth/wx", 415, nil},
		{"a client that waits for 100 Continue", "/up", 401, []string{"Expect: 100-continue"}},
		{"more than is read", "/up", 401, []string{"Content-Length: 67108865"}},
	} {
		lines := c.lines
		if !strings.Contains(strings.Join(lines, ""), "Length") {
			lines = append(lines, "Content-Length: 2000000")
		}
		conn, err := net.Dial("tcp", g.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(rig.RawTime))
		if _, err := io.WriteString(conn, message(g.Addr, "POST", c.target, lines...)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != c.want || err != nil || !resp.Close || !strings.Contains(string(body), `"code"`) {
			t.Errorf("%s: %d, %v, closes: %t, %s", c.name, resp.StatusCode, err, resp.Close, body)
		}
		// A client that sends nothing is disconnected, because it misses the minimum
		// rate.
		if _, err := r.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection is held (%v)", c.name, err)
		}
		t.Logf("%s: closed after %s", c.name, time.Since(start))
	}
}

// uploadClients are real HTTP clients. Each prints one line per upload: its size and
// the status that it read.
var uploadClients = []uploadClient{
	{"node http", "node", []string{"testdata/upload/http.js"}, []string{"sized", "chunked"}},
	{"node fetch", "node", []string{"testdata/upload/fetch.js"}, []string{"sized", "chunked"}},
	{"python http.client", "python3", []string{"testdata/upload/upload.py", "client"}, []string{"sized", "chunked"}},
	{"python urllib", "python3", []string{"testdata/upload/upload.py", "urllib"}, []string{"sized", "chunked"}},
	{"java", "java", []string{"testdata/upload/Upload.java"}, []string{"sized", "chunked", "buffered"}},
	{"curl", "bash", []string{"testdata/upload/curl.sh"}, []string{"sized", "chunked", "expect"}},
}

type uploadClient struct {
	name, tool string
	args       []string
	framings   []string
}

// wantAll uploads to the URL in each framing. The test fails unless every attempt reads
// that status.
func (c uploadClient) wantAll(t *testing.T, url, status string, sizes ...int) {
	t.Helper()
	for _, framing := range c.framings {
		args := append(slices.Clone(c.args), url, framing)
		for _, size := range sizes {
			args = append(args, strconv.Itoa(size))
		}
		cmd := exec.Command(c.tool, args...)
		cmd.Env = append(os.Environ(), "NODE_TLS_REJECT_UNAUTHORIZED=0", "NODE_NO_WARNINGS=1")
		out, err := cmd.Output()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%s: %v: %s", c.name, err, exit.Stderr)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		for i, size := range sizes {
			if i >= len(lines) || lines[i] != fmt.Sprint(size, " ", status) {
				t.Errorf("%s to %s, %s, %d bytes: %q, want %s", c.name, url, framing, size, lines[min(i, len(lines)-1)], status)
			}
		}
	}
}

// installed skips the test if the client is missing.
func (c uploadClient) installed(t *testing.T) {
	t.Helper()
	for _, tool := range []string{c.tool, c.name} {
		if _, err := exec.LookPath(tool); err != nil && (tool == c.tool || tool == "curl") {
			rig.LeaveOut(t, "refused uploads of %s: %v", c.name, err)
		}
	}
}

// uploadSizes are the sizes that each client uploads: a common one twice and a large
// one once, or with WX_AUTH_TEST_LONG each uploadTries times.
func uploadSizes() []int {
	if rig.Long {
		return slices.Repeat([]int{300 << 10, 2 << 20, 20 << 20, 64 << 20}, uploadTries)
	}
	return []int{300 << 10, 300 << 10, 2 << 20, 2 << 20, 64 << 20}
}

// Clients treat an early answer in different ways, so real clients are tested.
func TestRefusedUploadsOfRealClients(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes: six clients upload 70 MB each, several times")
	}
	t.Parallel()
	g := newUploadGuard(t)
	for _, c := range uploadClients {
		t.Run(c.name, func(t *testing.T) {
			c.installed(t)
			for _, origin := range []string{"http://" + g.Addr, "https://" + g.addr2()} {
				c.wantAll(t, origin+"/up", "401", uploadSizes()...)
			}
		})
	}
}
