package wechattest_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// When the connection breaks, a client cannot know whether its code was used up. Each fault
// can be injected on either side of that moment.
func TestFaultBeforeOrAfterTheCodeIsUsed(t *testing.T) {
	kinds := []wechattest.Kind{
		wechattest.Reset, wechattest.Close, wechattest.Status, wechattest.HTML, wechattest.Empty, wechattest.Truncated,
		wechattest.Cut, wechattest.Oversized, wechattest.Redirect, wechattest.Errcode,
	}
	for _, kind := range kinds {
		for _, late := range []bool{false, true} {
			b := newBench(t)
			codes := b.mint("ann")
			token := b.stable(false).AccessToken
			b.inject(wechattest.Fault{Call: wechattest.Code2Session, Kind: kind, Late: late})
			b.inject(wechattest.Fault{Call: wechattest.PhoneNumber, Kind: kind, Late: late})
			// Use a new connection: when a kept-alive one dies, Go's client repeats the
			// request by itself.
			b.client.CloseIdleConnections()
			b.do("GET", sessionPath(appID, secret, codes.Code), "")
			b.client.CloseIdleConnections()
			b.do("POST", phonePath(token), phoneBody(codes.PhoneCode, codes.OpenID))
			session, phone, outcome := "0", "0", string(kind)
			if late {
				session, phone, outcome = "40163", "40029", outcome+" late"
			}
			name := outcome + ", then"
			if n := b.Count(wechattest.Code2Session); n.Total != 1 || n.Outcomes[outcome] != 1 {
				t.Errorf("%s: counted %+v", name, n)
			}
			b.want(name, b.session(codes.Code), session)
			b.want(name, b.phone(token, codes.PhoneCode, codes.OpenID), phone)
			if p := b.PhoneCodes()[0]; p.Lost != late {
				t.Errorf("%s lost %t, want %t", name, p.Lost, late)
			}
		}
	}
}

// Each kind of fault must look to the client as the real failure does.
func TestWhatFaultsLookLike(t *testing.T) {
	tests := []struct {
		fault wechattest.Fault
		check func(a answer, err error) bool
	}{
		{wechattest.Fault{Kind: wechattest.Reset}, func(_ answer, err error) bool { return errors.Is(err, syscall.ECONNRESET) }},
		{wechattest.Fault{Kind: wechattest.Close}, func(_ answer, err error) bool { return errors.Is(err, io.EOF) }},
		{wechattest.Fault{Kind: wechattest.Status}, func(a answer, _ error) bool {
			return a.Status == 502 && strings.Contains(a.Raw, "<html>")
		}},
		{wechattest.Fault{Kind: wechattest.Status, Status: 504}, func(a answer, _ error) bool { return a.Status == 504 }},
		{wechattest.Fault{Kind: wechattest.HTML}, func(a answer, _ error) bool {
			return a.Status == 200 && strings.HasPrefix(a.Raw, "<!DOCTYPE")
		}},
		{wechattest.Fault{Kind: wechattest.Empty}, func(a answer, err error) bool { return err == nil && a.Status == 200 && a.Raw == "" }},
		{wechattest.Fault{Kind: wechattest.Truncated, Late: true}, func(a answer, err error) bool {
			return err == nil && strings.HasPrefix(a.Raw, `{"access_token":"`) && !strings.HasSuffix(a.Raw, "}")
		}},
		{wechattest.Fault{Kind: wechattest.Cut}, func(_ answer, err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		{wechattest.Fault{Kind: wechattest.Dirty}, func(a answer, _ error) bool {
			return strings.HasPrefix(a.Raw, "\ufeff\x00{\"access_token\":") && strings.HasSuffix(a.Raw, "}\x1f\x00\r\n")
		}},
		{wechattest.Fault{Kind: wechattest.Oversized, Late: true}, func(a answer, err error) bool {
			return err == nil && len(a.Raw) > 10<<20 && a.AccessToken != ""
		}},
		{wechattest.Fault{Kind: wechattest.Redirect}, func(a answer, _ error) bool { return a.Status == 302 }},
		{wechattest.Fault{Kind: wechattest.Redirect, Status: 307}, func(a answer, _ error) bool { return a.Status == 307 }},
		{wechattest.Fault{Kind: wechattest.Errcode}, func(a answer, _ error) bool {
			return a.code() == "-1" && strings.HasPrefix(a.Errmsg, "system error rid: ")
		}},
		{wechattest.Fault{Kind: wechattest.Errcode, Errcode: 89506, Errmsg: "no"}, func(a answer, _ error) bool {
			return a.code() == "89506" && a.Errmsg == "no"
		}},
		{wechattest.Fault{Kind: wechattest.Errcode, Errcode: 40164}, func(a answer, _ error) bool {
			return strings.HasPrefix(a.Errmsg, "invalid ip 127.0.0.1 ipv6 ::ffff:127.0.0.1, not in whitelist, rid: ")
		}},
	}
	for _, tt := range tests {
		b := newBench(t)
		b.inject(tt.fault)
		a, err := b.do("POST", "/cgi-bin/stable_token", stableBody(appID, secret, false))
		if !tt.check(a, err) {
			t.Errorf("%+v: status %d, error %v, body %.200q", tt.fault, a.Status, err, a.Raw)
		}
		b.want("the next call", b.stable(false), "0")
	}
}

// Several faults wait for the same call. They strike in the order in which they were
// injected, each as often as it says.
func TestFaultsStrikeInTurnAndAreUsedUp(t *testing.T) {
	b := newBench(t)
	b.inject(wechattest.Fault{Call: wechattest.ClassicToken, Kind: wechattest.Errcode, Skip: 1, Count: 2})
	b.inject(wechattest.Fault{Call: wechattest.ClassicToken, Kind: wechattest.Errcode, Errcode: 50002, Skip: 1})
	b.inject(wechattest.Fault{Kind: wechattest.Errcode, Errcode: 48001, Call: wechattest.StableToken, Count: -1})
	for i, want := range []string{"0", "-1", "-1", "50002", "0"} {
		if a := b.classic(); a.code() != want {
			t.Errorf("call %d: %s, want %s", i+1, a.Raw, want)
		}
	}
	for range 5 {
		b.want("without end", b.stable(false), "48001")
	}
	b.ClearFaults()
	b.want("cleared", b.stable(false), "0")
	n := b.Count(wechattest.ClassicToken)
	if n.Total != 5 || n.Outcomes["ok"] != 2 || n.Outcomes["errcode"] != 3 {
		t.Errorf("counted %+v", n)
	}
}

// A client that follows a redirect would send its secret elsewhere. The simulator
// counts such clients.
func TestFollowedRedirectsAreCounted(t *testing.T) {
	b := newBench(t)
	b.client.CheckRedirect = nil
	b.inject(wechattest.Fault{Call: wechattest.StableToken, Kind: wechattest.Redirect, Status: 307})
	b.stable(false)
	if n := b.Count(wechattest.Redirected); n.Total != 1 {
		t.Errorf("a client that followed was counted %d times", n.Total)
	}
}

// A client that reads without a bound would read for ever. When it hangs up, the
// handler must end.
func TestEndlessBodyEndsWithTheClient(t *testing.T) {
	b := newBench(t)
	b.inject(wechattest.Fault{Call: wechattest.StableToken, Kind: wechattest.Endless})
	res, err := b.client.Post(b.server.URL+"/cgi-bin/stable_token", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.CopyN(io.Discard, res.Body, 20<<20)
	if err != nil {
		t.Errorf("the body ended after %d bytes: %v", n, err)
	}
	res.Body.Close()
	b.server.Close() // waits for the handler
}

// A client gives up while an answer is delayed. The handler must end, or the test
// server could not close.
func TestDelayEndsWhenTheClientLeaves(t *testing.T) {
	for _, late := range []bool{false, true} {
		b := newBench(t)
		codes := b.mint("ann")
		token := b.stable(false).AccessToken
		never := make(chan struct{})
		b.inject(wechattest.Fault{Call: wechattest.PhoneNumber, Kind: wechattest.Delay, Hold: never, Late: late})
		ctx, leave := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "POST", b.server.URL+phonePath(token), strings.NewReader(phoneBody(codes.PhoneCode, "")))
		left := make(chan struct{})
		go func() {
			defer close(left)
			if res, err := b.client.Do(req); err == nil {
				res.Body.Close()
				t.Error("an answer came")
			}
		}()
		until(t, func() bool { return b.Count(wechattest.PhoneNumber).Total == 1 })
		if late {
			until(t, func() bool { return !b.PhoneCodes()[0].Exchanged.IsZero() })
		}
		leave()
		<-left
		if late {
			until(t, func() bool { return b.PhoneCodes()[0].Lost })
			b.want("carried out before", b.phone(token, codes.PhoneCode, ""), "40029")
		} else {
			until(t, func() bool { return b.Count(wechattest.PhoneNumber).Outcomes["gone"] == 1 })
			b.want("never carried out", b.phone(token, codes.PhoneCode, ""), "0")
		}
	}
}

// A test holds an answer back until it releases it.
func TestHeldAnswerComesWhenReleased(t *testing.T) {
	b := newBench(t)
	hold := make(chan struct{})
	b.inject(wechattest.Fault{Call: wechattest.StableToken, Kind: wechattest.Delay, Hold: hold, Delay: time.Millisecond})
	got := make(chan answer)
	go func() {
		a, _ := b.do("POST", "/cgi-bin/stable_token", stableBody(appID, secret, false))
		got <- a
	}()
	until(t, func() bool { return b.Count(wechattest.StableToken).Total == 1 })
	select {
	case <-got:
		t.Fatal("the answer came before it was released")
	default:
	}
	close(hold)
	b.want("released", <-got, "0")
}

// The reset must reach the client over TLS too.
func TestResetOverTLS(t *testing.T) {
	sim := wechattest.New(wechattest.Options{})
	server := httptest.NewTLSServer(sim)
	defer server.Close()
	sim.Inject(wechattest.Fault{Kind: wechattest.Reset})
	res, err := server.Client().Get(server.URL + "/cgi-bin/token")
	if err == nil {
		res.Body.Close()
		t.Errorf("status %d, want no answer", res.StatusCode)
	}
}

// A client must not be able to distinguish a reset from a server that never saw the
// request, so the request is read first.
func TestRequestIsReadBeforeReset(t *testing.T) {
	b := newBench(t)
	b.inject(wechattest.Fault{Kind: wechattest.Close})
	conn, err := net.Dial("tcp", b.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "POST /cgi-bin/stable_token HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{")
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := bufio.NewReader(conn).ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("closed before the body was complete: %v", err)
	}
	io.WriteString(conn, "}")
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the whole request: %v, want EOF", err)
	}
}

// A fault with a misspelled call or kind would never strike, so it is refused.
func TestFaultsThatDoNotExistAreRefused(t *testing.T) {
	b := newBench(t)
	for _, f := range []wechattest.Fault{
		{Call: "jscode2sesion", Kind: wechattest.Reset}, {Kind: "resett"}, {},
		{Kind: wechattest.Status, Status: 99}, {Kind: wechattest.Delay, Delay: -1}, {Kind: wechattest.Reset, Skip: -1},
	} {
		if b.Inject(f) == nil {
			t.Errorf("accepted %+v", f)
		}
	}
}

// until waits until another goroutine has done something.
func until(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within ten seconds")
		}
		time.Sleep(time.Millisecond)
	}
}
