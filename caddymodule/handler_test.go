package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/metrics"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// A directive before ours may have set the placeholders, as basic_auth does.
func TestPlaceholdersOfEarlierDirectives(t *testing.T) {
	s := serve(t, "optional /open")
	p := s.login()
	for _, c := range []struct {
		name, authorization string
		id, unionid         any
	}{
		{"a token", "Bearer " + p.Token, p.UserInfo["id"], ""},
		{"none", "", "before", ""},
		{"one of others", "Basic eDp5", "before", ""},
	} {
		r := httptest.NewRequest("GET", "/open", nil)
		if c.authorization != "" {
			r.Header.Set("Authorization", c.authorization)
		}
		repl, w := caddy.NewReplacer(), httptest.NewRecorder()
		repl.Set("http.auth.user.id", "before")
		r = caddyhttp.PrepareRequest(r, repl, w, s.server)
		if err := s.h.ServeHTTP(w, r, upstream); err != nil || w.Body.String() != "upstream" {
			t.Fatalf("%s: %d %s, %v", c.name, w.Code, w.Body, err)
		}
		id, _ := repl.Get("http.auth.user.id")
		unionid, known := repl.Get("http.auth.user.unionid")
		if id != c.id || unionid != c.unionid || !known {
			t.Errorf("%s: id %v, want %v; unionid %v, %v", c.name, id, c.id, unionid, known)
		}
		if _, known := repl.Get("http.auth.user.other"); known {
			t.Errorf("%s: a placeholder that is none of ours", c.name)
		}
	}
}

// A directive behind us reads the claims that the directory sent about the caller, in the form
// of an identity header. Without a caller, or without the claim, it reads an empty text.
func TestPlaceholdersHaveTheClaims(t *testing.T) {
	c := token.Claims{Subject: "u1", Extra: map[string]any{"roles": []any{"admin", "a,b"}, "name": "王"}}
	known := c.Identity()
	for _, tc := range []struct {
		caller *token.Identity
		want   string
	}{
		{&known, "u1|admin,a%2Cb|%E7%8E%8B||"},
		{nil, "||||"},
	} {
		repl := caddy.NewReplacer()
		setPlaceholders(new(http.Request).WithContext(context.WithValue(t.Context(), caddy.ReplacerCtxKey, repl)), tc.caller)
		const text = "{http.auth.user.id}|{http.auth.user.claims.roles}|{http.auth.user.claims.name}|{http.auth.user.claims.none}|"
		if got := repl.ReplaceKnown(text, ""); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}

// failing is a body that ends with an error.
type failing struct{ err error }

func (f failing) Read(p []byte) (int, error) { return copy(p, "a"), f.err }
func (failing) Close() error                 { return nil }

// A client breaks its upload off, or is too slow. It gets 400 or 408, because a 502 would
// blame the upstream.
func TestBrokenBodyIsTheClientsFault(t *testing.T) {
	broken, slow := errors.New("malformed chunked encoding"), fmt.Errorf("read: %w", os.ErrDeadlineExceeded)
	tooLarge := caddyhttp.Error(http.StatusRequestEntityTooLarge, broken)
	for _, c := range []struct {
		name   string
		body   error
		next   error // the proxy's error
		status int   // status of the error that comes back; 0: none
	}{
		{"broken", broken, caddyhttp.Error(502, broken), 400},
		{"slow", slow, caddyhttp.Error(504, slow), 408},
		{"its proxy's own error", broken, errors.New("x"), 0},
		{"an error of the client's already", broken, tooLarge, 413},
		{"too large", tooLarge, tooLarge, 413},
		{"whole, and the upstream is away", io.EOF, caddyhttp.Error(502, errors.New("refused")), 502},
		{"broken behind the answer", broken, nil, 0},
		{"read after it was closed", http.ErrBodyReadAfterClose, caddyhttp.Error(502, errors.New("refused")), 502},
	} {
		t.Run(c.name, func(t *testing.T) {
			given := httptest.NewRequest("POST", "/", failing{c.body})
			given.Header.Set("Content-Length", "1")
			given.ContentLength = 1
			r := given.WithContext(t.Context())
			w := httptest.NewRecorder()
			err := forward(w, given, r, caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
				_, _ = io.ReadAll(r.Body)
				return c.next
			}))
			he, _ := errors.AsType[caddyhttp.HandlerError](err)
			if he.StatusCode != c.status || (err == nil) != (c.next == nil) {
				t.Errorf("%v (%d), want %d", err, he.StatusCode, c.status)
			}
			blamed := c.status == 400 || c.status == 408
			if closes := w.Header().Get("Connection") == "close"; closes != blamed {
				t.Errorf("the connection closes: %v", closes)
			}
			// An error route continues with this request.
			emptied := given.Body == http.NoBody && given.ContentLength == 0 && given.Header["Content-Length"] == nil
			if failed := c.body != io.EOF && c.body != http.ErrBodyReadAfterClose; emptied != failed || !failed && given.Body != r.Body {
				t.Errorf("emptied: %v", emptied)
			}
		})
	}
}

// When a client has gone, the proxy answers 499 to nobody and reports no error.
func TestAnswerToNobodyIsHeldBack(t *testing.T) {
	for _, c := range []struct {
		name   string
		body   error
		status int // status of the error that comes back; 0: none
	}{
		{"broken", errors.New("malformed chunked encoding"), 400},
		{"slow", fmt.Errorf("read: %w", os.ErrDeadlineExceeded), 408},
		{"too large", caddyhttp.Error(http.StatusRequestEntityTooLarge, errors.New("too large")), 413},
		{"whole", io.EOF, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest("POST", "/", failing{c.body})
			w := httptest.NewRecorder()
			err := forward(w, r, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				if _, err := io.ReadAll(r.Body); errors.Is(err, context.Canceled) != (c.body != io.EOF) {
					t.Errorf("the proxy sees %v", err)
				}
				w.WriteHeader(499)
				_, _ = io.WriteString(w, "written")
				_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader(", copied"))
				return nil
			}))
			he, _ := errors.AsType[caddyhttp.HandlerError](err)
			if he.StatusCode != c.status {
				t.Errorf("%v, want %d", err, c.status)
			}
			if got, want := w.Body.String(), map[bool]string{true: "written, copied"}[c.status == 0]; got != want || (w.Code == 499) != (want != "") {
				t.Errorf("answered %d %q, want %q", w.Code, got, want)
			}
		})
	}
}

// A body that ends early must not reach the upstream as a complete one.
func TestShortBodyIsNoWholeOne(t *testing.T) {
	for length, want := range map[int64]error{4: io.ErrUnexpectedEOF, 3: nil, -1: nil} {
		r := httptest.NewRequest("POST", "/", io.NopCloser(strings.NewReader("abc")))
		r.ContentLength = length
		_ = forward(httptest.NewRecorder(), r, r, caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
			if body, err := io.ReadAll(r.Body); string(body) != "abc" || !errors.Is(err, want) {
				t.Errorf("length %d: %q, %v", length, body, err)
			}
			return nil
		}))
	}
}

// A panic in somebody else's matcher must not open the gate.
func TestPanicAtTheGateIsA500(t *testing.T) {
	s := serve(t, "public /open")
	s.h.matcher = caddyhttp.MatcherSet{panicking{}}
	reg := prometheus.NewRegistry()
	s.h.site.api.Metrics = metrics.New()
	if err := s.h.site.api.Metrics.Register(reg); err != nil {
		t.Fatal(err)
	}
	w := s.do(httptest.NewRequest("GET", "/x", nil))
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), string(problem.InternalError)) || strings.Contains(w.Body.String(), "a secret") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	logged := s.logs.FilterMessage("panic at the gate").All()
	if len(logged) != 1 || strings.Contains(fmt.Sprint(logged[0].ContextMap()["kind"]), "a secret") {
		t.Errorf("log: %+v", s.logs.All())
	}
	counted, err := reg.Gather()
	for _, m := range counted {
		if m.GetName() == "caddy_wx_auth_panics_total" && m.GetMetric()[0].GetCounter().GetValue() != 1 {
			t.Errorf("counted %v", m)
		}
	}
	if err != nil {
		t.Error(err)
	}
	if w := s.do(httptest.NewRequest("GET", "/open", nil)); w.Body.String() != "upstream" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

type panicking struct{}

func (panicking) Match(*http.Request) bool { panic("a secret") }

// newBenchHandler provisions a directive with its own store.
func newBenchHandler(b *testing.B, set Token) *Handler {
	b.Helper()
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Admin: &caddy.AdminConfig{Disabled: true},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{
			"default": {BaseLog: caddy.BaseLog{Level: "ERROR"}},
		}},
	})
	if err != nil {
		b.Fatal(err)
	}
	h := &Handler{
		Apps:  []App{{ID: "wx0123456789abcdef", Secret: "0123456789abcdef0123456789abcdef"}},
		Store: &Store{URL: "sqlite:" + filepath.Join(b.TempDir(), "wx.db")},
		Token: &set, Public: []Rule{{Paths: []string{"/public/*"}}},
	}
	if err := h.Provision(ctx); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = h.Cleanup() })
	if err := h.site.Open(context.Background(), openTimeout); err != nil {
		b.Fatal(err)
	}
	return h
}

// benchRequest returns a request as Caddy's server passes it to a handler.
func benchRequest(path, token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("User-Agent", "MicroMessenger")
	r.Header.Set("Accept", "*/*")
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	ctx := context.WithValue(r.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, make(map[string]any, 8))
	return r.WithContext(ctx)
}

// BenchmarkHandler measures what the directive adds to a request, in a chain without other
// handlers: the difference between "with" and "without". "without" only makes the request and
// passes it on.
func BenchmarkHandler(b *testing.B) {
	h := newBenchHandler(b, Token{})
	now := time.Now()
	s := session.New(session.Session{
		UserID: "01a20a19-23a0-7d1c-8098-d0fef8aaf38c", Issuer: "wx-auth",
		AppID: "wx0123456789abcdef", OpenID: "oqHOgluj9YXITLmLGU_H5AssfVxu",
	}, h.site.set.Session, now)
	token, err := h.site.Opened().Minter.Mint(s, user.User{
		ID: s.UserID, Phone: user.Phone{Country: "86", National: "13800138000"},
	}, now)
	if err != nil {
		b.Fatal(err)
	}
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	for _, c := range []struct{ name, path, token string }{
		{"token", "/orders/7", token},
		{"public", "/public/logo.png", ""},
		{"refused", "/orders/7", ""},
	} {
		for _, with := range []caddyhttp.MiddlewareHandler{nil, h} {
			name := c.name + "/without"
			if with != nil {
				name = c.name + "/with"
			}
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					w, r := httptest.NewRecorder(), benchRequest(c.path, c.token)
					if with == nil {
						err = next.ServeHTTP(w, r)
					} else {
						err = with.ServeHTTP(w, r, next)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
