package caddymodule

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

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

// benchRequest makes what Caddy's server hands to a handler.
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

// BenchmarkHandler measures what the directive adds to a request in a chain
// where nothing else happens: the difference between "with" and "without", which
// makes the request and passes it on.
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
