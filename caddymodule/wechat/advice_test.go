package wechat

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// WeChat cannot be reached, each time for another reason. The error names the reason and what
// the operator can do about it.
func TestUnreachableHostsHaveAdvice(t *testing.T) {
	untrusted := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(untrusted.Close)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	t.Cleanup(page.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	t.Cleanup(proxy.Close)
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for _, c := range []struct {
		api, proxy, reason, advice string
	}{
		{"https://wechat.invalid", "", "cannot be found", "DNS"},
		{untrusted.URL, "", "certificate is not trusted", "ca-certificates"},
		{closed.URL, "", "connection refused", "curl"},
		{page.URL, "", "not WeChat's JSON", "no proxy answers"},
		{"https://wechat.invalid", proxy.URL, "refuses to connect", "HTTPS_PROXY"},
		{"https://wechat.invalid", closed.URL, "proxy set in the environment cannot be reached", "HTTPS_PROXY"},
	} {
		client := &Client{APIs: []string{c.api}, Transport: NewTransport()}
		client.Transport.http.Proxy = func(*http.Request) (*url.URL, error) {
			if c.proxy == "" {
				return nil, nil
			}
			return url.Parse(c.proxy)
		}
		if dial := client.Transport.http.DialContext; c.reason == "cannot be found" {
			client.Transport.http.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if strings.HasPrefix(addr, "wechat.invalid:") { // a resolver may take its time
					return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "wechat.invalid", IsNotFound: true}}
				}
				return dial(ctx, network, addr)
			}
		}
		_, err := client.Code2Session(t.Context(), App{ID: "wx1", Secret: "s"}, "code")
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Error(), c.reason) || !strings.Contains(e.Advice, c.advice) {
			t.Errorf("%s: %v; advice %q", c.reason, err, e.Advice)
		}
	}
}

// seen is an Observer.
type seen struct {
	mu     sync.Mutex
	events []string
}

func (s *seen) add(what string, err *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		what += " " + err.Kind.String()
	}
	s.events = append(s.events, what)
}

func (s *seen) Called(appid string, call Call, err *Error, took time.Duration) {
	if took <= 0 || appid != "wx1" {
		err = &Error{Kind: KindBug}
	}
	s.add(string(call), err)
}

func (s *seen) Fetched(_ string, err *Error) { s.add("fetched", err) }

// Every request that WeChat receives is reported once, even if it is tried again.
func TestObserverSeesEachRequest(t *testing.T) {
	answers := []string{`{"errcode":-1}`, `{"openid":"o"}`, `{"errcode":40029}`, `{"openid":""}`}
	asked := 0
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cgi-bin/stable_token" {
			_, _ = w.Write([]byte(`{"access_token":"t","expires_in":7200}`))
			return
		}
		_, _ = w.Write([]byte(answers[asked]))
		asked++
	}))
	t.Cleanup(web.Close)
	s := new(seen)
	client := &Client{APIs: []string{web.URL}, Observer: s}
	app := App{ID: "wx1", Secret: "s"}
	for range 3 {
		_, _ = client.Code2Session(context.Background(), app, "code")
	}
	if err := client.WarmToken(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	want := "jscode2session busy, jscode2session, jscode2session login code, jscode2session bad answer, access_token, fetched"
	if got := strings.Join(s.events, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	client.Tokens.(*StableToken).EachFetched(func(appid string, fetched time.Time) {
		if appid != "wx1" || time.Since(fetched) > time.Minute {
			t.Errorf("the token of %s was fetched at %v", appid, fetched)
		}
	})
}
