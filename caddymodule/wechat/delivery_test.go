package wechat

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// tokenOr answers token requests, and passes the others, counted from 1, to do.
func tokenOr(do func(n int, r *http.Request) (string, bool)) func(int, *http.Request) (string, bool) {
	var n atomic.Int64
	return func(_ int, r *http.Request) (string, bool) {
		if r.URL.Path == stablePath {
			return http200(`{"access_token":"TOKEN-1","expires_in":7200}`), true
		}
		return do(int(n.Add(1)), r)
	}
}

// okBody is a successful answer to a call that carries a code.
func okBody(call Call) string {
	if call == CallSession {
		return sessionOK
	}
	return phoneOK("86")
}

func usedCode(call Call) int {
	if call == CallSession {
		return 40163
	}
	return 40029
}

func codeOf(call Call) Renew {
	if call == CallSession {
		return RenewCode
	}
	return RenewPhoneCode
}

var codedCalls = []Call{CallSession, CallPhone}

// TestUnansweredCodeIsSentExactlyTwice has a server that reads the request and closes
// the connection. The code is sent once more by this package, and not by net/http,
// which would repeat a GET by itself on a connection that was used before.
func TestUnansweredCodeIsSentExactlyTwice(t *testing.T) {
	for _, call := range codedCalls {
		for _, reused := range []bool{false, true} {
			t.Run(string(call)+map[bool]string{true: " on a kept connection"}[reused], func(t *testing.T) {
				var sent atomic.Int64
				warm := 0
				if reused {
					warm = 1
				}
				s := newRawServer(t, tokenOr(func(n int, r *http.Request) (string, bool) {
					if n <= warm {
						return http200(okBody(call)), true
					}
					sent.Add(1)
					return "", false
				}))
				c := newClient(t, newClock(), s.url)
				if reused {
					if err := ask(c, call); err != nil {
						t.Fatal(err)
					}
				} else if call == CallPhone {
					// The token is fetched first, and its connection closed, so that
					// the phone call opens a new one.
					if err := ask(c, CallToken); err != nil {
						t.Fatal(err)
					}
					c.Transport.Close()
				}
				e := failed(t, ask(c, call))
				if n := sent.Load(); n != 2 {
					t.Errorf("the code was sent %d times", n)
				}
				if e.Kind != KindUnreachable || !e.Unanswered || !renewIs(e) || e.Code != 0 {
					t.Errorf("got %#v, renew %v", e, e.Renew)
				}
			})
		}
	}
}

// TestLostThenAnsweredSucceeds loses the first answer: the second attempt saves the
// login.
func TestLostThenAnsweredSucceeds(t *testing.T) {
	for _, call := range codedCalls {
		s := newRawServer(t, tokenOr(func(n int, r *http.Request) (string, bool) {
			if n == 1 {
				return "", false
			}
			return http200(okBody(call)), true
		}))
		c := newClient(t, newClock(), s.url)
		if err := ask(c, call); err != nil {
			t.Errorf("%s: %v", call, err)
		}
	}
}

// TestLostThenUsedEndsAsTheFirstTryDid loses the first answer, and WeChat calls the
// code used at the second attempt. The call then ends with the first failure.
func TestLostThenUsedEndsAsTheFirstTryDid(t *testing.T) {
	tests := []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request)
		kind   Kind
		status int
	}{
		{"closed", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, KindUnreachable, 0},
		{"silent", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, KindTimeout, 0},
		{"502", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(502); io.WriteString(w, sessionOK) }, KindBadAnswer, 502},
		{"504", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(504) }, KindBadAnswer, 504},
		{"html", says("<html>login to the hotel's network</html>"), KindBadAnswer, 0},
		{"truncated JSON", says(`{"openid":"o--s`), KindBadAnswer, 0},
		{"empty", says(""), KindBadAnswer, 0},
		{"not an object", says(`["x"]`), KindBadAnswer, 0},
		{"null", says(`null`), KindBadAnswer, 0},
		{"more after it", says(sessionOK + "}"), KindBadAnswer, 0},
		{"errcode that is no number", says(`{"errcode":"` + loginCode + `"}`), KindBadAnswer, 0},
		{"cut off", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "500")
			io.WriteString(w, `{"openid":`)
		}, KindBadAnswer, 0},
		{"redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, KindBadAnswer, http.StatusFound},
		{"204", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) }, KindBadAnswer, 204},
	}
	a := newAPI(t)
	for _, call := range codedCalls {
		for _, tt := range tests {
			t.Run(string(call)+" "+tt.name, func(t *testing.T) {
				c := newClient(t, newClock(), a.URL)
				if tt.name == "silent" {
					c.Timeout = 80 * time.Millisecond
				}
				if err := ask(c, CallToken); err != nil {
					t.Fatal(err)
				}
				var n atomic.Int64
				a.on(pathOf(call), func(w http.ResponseWriter, r *http.Request) {
					if n.Add(1) == 1 {
						tt.answer(w, r)
						return
					}
					says(fails(usedCode(call)))(w, r)
				})
				e := failed(t, ask(c, call))
				if e.Kind != tt.kind || e.Status != tt.status || !e.Unanswered || e.Code != usedCode(call) || e.RID == "" {
					t.Errorf("got %#v", e)
				}
				if !renewIs(e, codeOf(call)) {
					t.Errorf("renew %v", e.Renew)
				}
				if n.Load() != 2 || a.count("/elsewhere") != 0 {
					t.Errorf("%d requests, %d redirected", n.Load(), a.count("/elsewhere"))
				}

				// Every attempt fails: the code may still be valid.
				n.Store(0)
				a.on(pathOf(call), func(w http.ResponseWriter, r *http.Request) { n.Add(1); tt.answer(w, r) })
				e = failed(t, ask(c, call))
				if e.Kind != tt.kind || e.Status != tt.status || !e.Unanswered || e.Code != 0 || !renewIs(e) || n.Load() != 2 {
					t.Errorf("twice: got %#v, renew %v, %d requests", e, e.Renew, n.Load())
				}
			})
		}
	}
}

// TestLostThenRefusedOtherwiseIsTheRefusal loses the first answer, and WeChat refuses
// the second attempt for another reason, which is the error then.
func TestLostThenRefusedOtherwiseIsTheRefusal(t *testing.T) {
	a := newAPI(t)
	for code, kind := range map[int]Kind{40029: KindLoginCode, 40226: KindBlocked, 40125: KindOperator, -1: KindBusy} {
		c := newClient(t, newClock(), a.URL)
		a.on(sessionPath, inTurn("<html>", fails(code)))
		if e := failed(t, ask(c, CallSession)); e.Kind != kind || e.Unanswered {
			t.Errorf("%d: %#v", code, e)
		}
	}
}

// TestBusyIsAskedThreeTimes answers "busy" twice: the third attempt succeeds, and the
// delays are random, so that logins do not return all at once.
func TestBusyIsAskedThreeTimes(t *testing.T) {
	a := newAPI(t)
	ok := map[Call]string{CallSession: sessionOK, CallToken: `{"access_token":"TOKEN-x","expires_in":7200}`, CallPhone: phoneOK("86")}
	for call, body := range ok {
		c := newClient(t, newClock(), a.URL)
		a.on(stablePath, a.nextToken)
		a.on(pathOf(call), inTurn(fails(-1), fails(-1), body))
		if err := ask(c, call); err != nil {
			t.Errorf("%s: %v", call, err)
		}
	}
	for range 1000 {
		if d := busyJitter(); d < 50*time.Millisecond || d > 300*time.Millisecond {
			t.Fatalf("waits %v", d)
		}
	}
}

// closedPort is an address at which no server listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// TestFallbackHostOnlyBeforeTheCodeLeft fails hosts before and after the code was sent.
// A code that was sent must not go to a second host, or its outcome would be unknown.
func TestFallbackHostOnlyBeforeTheCodeLeft(t *testing.T) {
	t.Run("no connection: next host", func(t *testing.T) {
		a := newAPI(t)
		for _, call := range []Call{CallSession, CallToken, CallPhone} {
			c := newClient(t, newClock(), closedPort(t), closedPort(t), a.URL)
			if err := ask(c, call); err != nil {
				t.Errorf("%s: %v", call, err)
			}
		}
	})
	t.Run("lost: the same host", func(t *testing.T) {
		a := newAPI(t)
		for _, call := range codedCalls {
			s := newRawServer(t, tokenOr(func(int, *http.Request) (string, bool) { return "", false }))
			c := newClient(t, newClock(), s.url, a.URL)
			if e := failed(t, ask(c, call)); !e.Unanswered {
				t.Errorf("got %#v", e)
			}
			if n := a.count(pathOf(call)); n != 0 {
				t.Errorf("%s went to the other host %d times", call, n)
			}
		}
	})
	t.Run("busy, then no connection: the same host", func(t *testing.T) {
		a := newAPI(t)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		first := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			l.Close()
			w.Header().Set("Connection", "close")
			io.WriteString(w, fails(-1))
		})}
		go first.Serve(l)
		defer first.Close()
		c := newClient(t, newClock(), "http://"+l.Addr().String(), a.URL)
		if e := failed(t, ask(c, CallSession)); e.Kind != KindUnreachable || e.Unanswered || !renewIs(e) {
			t.Errorf("got %#v", e)
		}
		if a.count(sessionPath) != 0 {
			t.Error("a code went to two hosts")
		}
	})
	t.Run("a token is no code", func(t *testing.T) {
		a := newAPI(t)
		s := newRawServer(t, func(int, *http.Request) (string, bool) { return "", false })
		c := newClient(t, newClock(), s.url, a.URL)
		if err := ask(c, CallToken); err != nil {
			t.Error(err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		for _, call := range []Call{CallSession, CallToken, CallPhone} {
			c := newClient(t, newClock(), closedPort(t), closedPort(t))
			e := failed(t, ask(c, call))
			if e.Kind != KindUnreachable || e.Unanswered || !renewIs(e) || !strings.Contains(e.Error(), "connection refused") {
				t.Errorf("got %#v", e)
			}
		}
	})
}

// TestAppWithItsOwnAPIIsAskedAboutThere configures other API hosts for one app: that app's
// calls go there, and those for other apps do not.
func TestAppWithItsOwnAPIIsAskedAboutThere(t *testing.T) {
	all, own := newAPI(t), newAPI(t)
	c := newClient(t, newClock(), all.URL)
	c.AppAPIs = map[string][]string{testApp.ID: {own.URL}}
	for _, app := range []App{testApp, {ID: "wxOther", Secret: "s"}} {
		if _, err := c.Code2Session(t.Context(), app, loginCode); err != nil {
			t.Error(err)
		}
		if err := c.WarmToken(t.Context(), app); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.PhoneNumber(t.Context(), testApp, phoneCode, testOpenID); err != nil {
		t.Error(err)
	}
	for path, want := range map[string][2]int{sessionPath: {1, 1}, stablePath: {1, 1}, phonePath: {0, 1}} {
		if got := [2]int{all.count(path), own.count(path)}; got != want {
			t.Errorf("%s: asked %v, want %v", path, got, want)
		}
	}
}

// TestUnreachableHostIsAskedLast makes a host unreachable: it is tried after the others
// for a while, so that not every login waits for it.
func TestUnreachableHostIsAskedLast(t *testing.T) {
	clock := newClock()
	tr := NewTransport()
	hosts := []string{"a", "b", "c"}
	tr.rest("a", clock.now())
	if got := strings.Join(tr.order(hosts, clock.now()), ""); got != "bca" {
		t.Errorf("order %s", got)
	}
	clock.add(hostRest)
	if got := strings.Join(tr.order(hosts, clock.now()), ""); got != "abc" {
		t.Errorf("order %s", got)
	}
}

// TestStaleConnectionIsNotALoss has the server close idle connections. No byte of the
// code was sent on them, so a new connection is tried.
func TestStaleConnectionIsNotALoss(t *testing.T) {
	s := newRawServer(t, tokenOr(func(n int, r *http.Request) (string, bool) { return http200(sessionOK), n > 1 }))
	c := newClient(t, newClock(), s.url)
	for range 3 {
		if err := ask(c, CallSession); err != nil {
			t.Fatal(err)
		}
	}
	if s.requests.Load() != 3 {
		t.Errorf("%d requests", s.requests.Load())
	}
}

// TestConnectionsAreKept makes eleven requests over one connection.
func TestConnectionsAreKept(t *testing.T) {
	s := newRawServer(t, tokenOr(func(n int, r *http.Request) (string, bool) {
		if r.URL.Path == sessionPath {
			return http200(sessionOK), true
		}
		return http200(phoneOK("86")), true
	}))
	c := newClient(t, newClock(), s.url)
	for range 5 {
		for _, call := range codedCalls {
			if err := ask(c, call); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections for 11 requests", n)
	}
}

// TestCallersContextEndsTheCall has a client hang up during a call and between two attempts. A
// code that was sent may be spent, and the error says so.
func TestCallersContextEndsTheCall(t *testing.T) {
	a := newAPI(t)
	for _, call := range codedCalls {
		c := newClient(t, newClock(), a.URL)
		if err := ask(c, CallToken); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var n atomic.Int64
		a.on(pathOf(call), func(w http.ResponseWriter, r *http.Request) {
			n.Add(1)
			cancel()
			<-r.Context().Done()
		})
		var err error
		if call == CallSession {
			_, err = c.Code2Session(ctx, testApp, loginCode)
		} else {
			_, err = c.PhoneNumber(ctx, testApp, phoneCode, testOpenID)
		}
		e := failed(t, err)
		if e.Kind != KindCanceled || !errors.Is(err, context.Canceled) || !e.Unanswered || !renewIs(e) || n.Load() != 1 {
			t.Errorf("%s: %#v after %d requests", call, e, n.Load())
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	a.on(sessionPath, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_, err := newClient(t, newClock(), a.URL).Code2Session(ctx, testApp, loginCode)
	if e := failed(t, err); e.Kind != KindTimeout || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %#v", e)
	}
	// The client hangs up between two attempts.
	ctx, cancel = context.WithCancel(context.Background())
	a.on(sessionPath, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, fails(-1)) })
	c := newClient(t, newClock(), a.URL)
	c.jitter = func() time.Duration { cancel(); return time.Hour }
	if _, err := c.Code2Session(ctx, testApp, loginCode); failed(t, err).Kind != KindCanceled {
		t.Errorf("got %v", err)
	}
}
