package caddymodule

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// A directive before ours may have set the placeholders, as basic_auth does.
func TestPlaceholdersAreOfTheCallerIfThereIsOne(t *testing.T) {
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

// A directive behind us reads what the directory said of the caller, in the form of an
// identity header. Without a caller, or without the claim, it reads nothing.
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
