package wechat

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestRequestsOnTheWire compares the three requests byte by byte with those that WeChat
// documents.
func TestRequestsOnTheWire(t *testing.T) {
	s := newRawServer(t, func(n int, r *http.Request) (string, bool) {
		switch r.URL.Path {
		case sessionPath:
			return http200(sessionOK), true
		case phonePath:
			return http200(phoneOK("86")), true
		}
		return http200(`{"access_token":"TOKEN-1&x=y","expires_in":7200}`), true
	})
	nasty := loginCode + "&secret=x#y z"
	c := newClient(t, newClock(), s.url+"/")
	if _, err := c.Code2Session(context.Background(), testApp, nasty); err != nil {
		t.Fatal(err)
	}
	if err := ask(c, CallPhone); err != nil {
		t.Fatal(err)
	}
	c.Tokens = NewClassicToken()
	if err := ask(c, CallToken); err != nil {
		t.Fatal(err)
	}
	want := []struct{ line, header, body string }{
		{"GET " + sessionPath + "?appid=" + testApp.ID + "&grant_type=authorization_code&js_code=" + loginCode + "%26secret%3Dx%23y+z&secret=" + testApp.Secret + " HTTP/1.1", "", ""},
		{"POST " + stablePath + " HTTP/1.1", "Content-Length: 116", `{"appid":"` + testApp.ID + `","force_refresh":false,"grant_type":"client_credential","secret":"` + testApp.Secret + `"}`},
		{"POST " + phonePath + "?access_token=TOKEN-1%26x%3Dy HTTP/1.1", "Content-Length: 69", `{"code":"` + phoneCode + `","openid":"` + testOpenID + `"}`},
		{"GET " + classicPath + "?appid=" + testApp.ID + "&grant_type=client_credential&secret=" + testApp.Secret + " HTTP/1.1", "", ""},
	}
	if len(s.seen) != len(want) {
		t.Fatalf("%d requests", len(s.seen))
	}
	for i, w := range want {
		head, body, _ := strings.Cut(s.seen[i], "\r\n\r\n")
		if !strings.HasPrefix(head, w.line+"\r\n") || body != w.body {
			t.Errorf("request %d:\n%s\n\n%s\nwant\n%s\n%s", i, head, body, w.line, w.body)
		}
		if !strings.Contains(head, w.header) || w.header == "" && strings.Contains(head, "Content-Length") || strings.Contains(head, "Transfer-Encoding") {
			t.Errorf("request %d:\n%s\nwant %q", i, head, w.header)
		}
	}
}

// TestBodyIsBounded answers huge, endless and slow bodies: a host in WeChat's place
// must not exhaust memory or time.
func TestBodyIsBounded(t *testing.T) {
	a := newAPI(t)
	big := strings.Repeat("x", 1<<20)
	endless := func(limit int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"openid":"o1","x":"`)
			for n := 0; n < limit; n += len(big) {
				if _, err := io.WriteString(w, big); err != nil {
					return
				}
			}
			io.WriteString(w, `"}`)
		}
	}
	for name, limit := range map[string]int{"10 MB": 10 << 20, "endless": 1 << 40} {
		a.on(sessionPath, endless(limit))
		c := newClient(t, newClock(), a.URL)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		e := failed(t, ask(c, CallSession))
		runtime.ReadMemStats(&after)
		if e.Kind != KindBadAnswer || !e.Unanswered {
			t.Errorf("%s: %#v", name, e)
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
			t.Errorf("%s: took %d bytes of memory", name, grown)
		}
	}
	// A body of 64 KiB is read, and one byte more is refused.
	for size, ok := range map[int]bool{maxBody: true, maxBody + 1: false} {
		frame := `{"openid":"o1","x":""}`
		a.on(sessionPath, says(strings.Replace(frame, `""`, `"`+strings.Repeat("x", size-len(frame))+`"`, 1)))
		if err := ask(newClient(t, newClock(), a.URL), CallSession); (err == nil) != ok {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	// The body is slow and endless: the timeout covers the body, too.
	a.on(sessionPath, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			io.WriteString(w, " ")
			w.(http.Flusher).Flush()
			time.Sleep(5 * time.Millisecond)
		}
	})
	c := newClient(t, newClock(), a.URL)
	c.Timeout = 60 * time.Millisecond
	if e := failed(t, ask(c, CallSession)); e.Kind != KindTimeout || !e.Unanswered {
		t.Errorf("slowly endless: %#v", e)
	}
}

// TestNotHTTP answers something else than HTTP.
func TestNotHTTP(t *testing.T) {
	for name, answer := range map[string]string{
		"garbage":         "SSH-2.0-OpenSSH_9.6\r\n",
		"endless headers": "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 300),
		"bad chunks":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	} {
		s := newRawServer(t, func(int, *http.Request) (string, bool) { return answer, false })
		e := failed(t, ask(newClient(t, newClock(), s.url), CallSession))
		if e.Kind != KindBadAnswer || !e.Unanswered || s.requests.Load() != 2 {
			t.Errorf("%s: %#v after %d requests", name, e, s.requests.Load())
		}
	}
}

// TestUntrustedCertificate impersonates WeChat with a certificate of an unknown
// authority: no byte of the code is sent.
func TestUntrustedCertificate(t *testing.T) {
	asked := false
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked = true }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	a := newAPI(t)
	e := failed(t, ask(newClient(t, newClock(), s.URL), CallSession))
	if e.Kind != KindUnreachable || e.Unanswered || asked || !strings.Contains(e.Error(), "certificate") {
		t.Errorf("got %#v", e)
	}
	plain := strings.Replace(a.URL, "http:", "https:", 1)
	if e := failed(t, ask(newClient(t, newClock(), plain), CallSession)); e.Kind != KindUnreachable || e.Unanswered {
		t.Errorf("plain HTTP: %#v", e)
	}
	// Nothing was sent to that host, so the code may go to the next one.
	if err := ask(newClient(t, newClock(), s.URL, a.URL), CallSession); err != nil {
		t.Error(err)
	}
}

// TestOverTLS loses an answer over TLS: the bytes that left are counted there, too, so
// the code is known to be unanswered.
func TestOverTLS(t *testing.T) {
	n := 0
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		if n > 1 {
			panic(http.ErrAbortHandler)
		}
		if r.ProtoMajor != 1 {
			t.Error(r.Proto)
		}
		io.WriteString(w, sessionOK)
	}))
	defer s.Close()
	c := newClient(t, newClock(), s.URL)
	c.Transport.http.TLSClientConfig.RootCAs = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	if err := ask(c, CallSession); err != nil {
		t.Fatal(err)
	}
	if e := failed(t, ask(c, CallSession)); !e.Unanswered || n != 3 {
		t.Errorf("got %#v after %d requests", e, n)
	}
}

// TestURLThatIsNone configures URLs that cannot be called: the error advises the
// operator.
func TestURLThatIsNone(t *testing.T) {
	for _, u := range []string{"api.weixin.qq.com", "://", "ftp://x", "https://", "http://a b/"} {
		e := failed(t, ask(newClient(t, newClock(), u), CallSession))
		if e.Kind != KindOperator || e.Advice == "" || e.Unanswered {
			t.Errorf("%q: %#v", u, e)
		}
	}
}

// TestUnknownHost configures a name that does not resolve.
func TestUnknownHost(t *testing.T) {
	e := failed(t, ask(newClient(t, newClock(), "http://wechat.invalid"), CallSession))
	if e.Kind != KindUnreachable && e.Kind != KindTimeout || e.Unanswered || e.Host != "wechat.invalid" {
		t.Errorf("got %#v", e)
	}
}

// TestProxyEnvironmentIsHonoured runs itself in a second process, because the
// environment is read only once in a process.
func TestProxyEnvironmentIsHonoured(t *testing.T) {
	if os.Getenv("WECHAT_TEST_PROXIED") != "" {
		c := newClient(t, newClock(), "http://wechat.invalid")
		if err := ask(c, CallSession); err != nil {
			t.Fatal(err)
		}
		return
	}
	var host string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host = r.Host
		io.WriteString(w, sessionOK)
	}))
	defer proxy.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestProxyEnvironmentIsHonoured$")
	cmd.Env = append(os.Environ(), "WECHAT_TEST_PROXIED=1", "HTTP_PROXY="+proxy.URL, "http_proxy="+proxy.URL, "NO_PROXY=", "no_proxy=")
	if out, err := cmd.CombinedOutput(); err != nil || host != "wechat.invalid" {
		t.Errorf("%v, proxy asked for %q\n%s", err, host, out)
	}
}

// TestSecretsDoNotPrint prints and marshals every type that contains a secret, also
// through pointers, slices and maps.
func TestSecretsDoNotPrint(t *testing.T) {
	a := AccessToken{Token: "TOKEN-9"}
	c := newClient(t, newClock(), "http://x")
	e := &ExternalToken{url: "http://x/?key=" + testApp.Secret}
	for _, v := range []any{testApp, &testApp, []App{testApp}, a, &a, map[string]any{"t": a}, e, c.Tokens, struct{ A App }{testApp}} {
		noSecret(t, v)
	}
	if strings.Contains(fmt.Sprintf("%v %s %x %#v", e, e, e, e), "key=") {
		t.Error("the external source shows its URL")
	}
	if got := fmt.Sprintf("%v %s %q %d %x", testApp, testApp, testApp, testApp, testApp); strings.Contains(got, "SECRET") {
		t.Error(got)
	}
	if b, err := json.Marshal(testApp); err != nil || string(b) != `{"id":"`+testApp.ID+`"}` {
		t.Errorf("%s %v", b, err)
	}
	if b, err := json.Marshal(map[App]int{testApp: 1}); err != nil || strings.Contains(string(b), "SECRET") {
		t.Errorf("%s %v", b, err)
	}
	// The tokens of a source that has fetched are behind pointers.
	s := newAPI(t)
	c = newClient(t, newClock(), s.URL)
	if err := ask(c, CallToken); err != nil {
		t.Fatal(err)
	}
	noSecret(t, c.Tokens)
	noSecret(t, c)
}
