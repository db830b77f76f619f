package caddymodule

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/gate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

func oneApp() []App { return []App{{ID: "wx0123456789abcdef", Secret: "s3cret"}} }

// A configuration with only an app is complete.
func TestSettingsDefaults(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/data")
	got, err := (&Handler{Apps: oneApp()}).settings()
	if err != nil {
		t.Fatal(err)
	}
	want := settings{
		Apps:      []wechat.App{{ID: "wx0123456789abcdef", Secret: "s3cret"}},
		Endpoints: "/auth/wx",
		Store:     storeSettings{URL: "sqlite:/data/caddy/wx_auth/wx_auth.db", TablePrefix: "wx_auth_", Migrate: true},
		Register:  true, Login: login.Settings{Silent: 90 * day, NewOpenID: user.Replace},
		Token: tokenSettings{
			Policy: token.Policy{
				Issuer: "wx-auth", Audience: []string{"wx-auth"}, Apps: []string{"wx0123456789abcdef"},
				Leeway: 10 * time.Second, Type: "at+jwt",
			},
			Algorithm: token.ES256, Rotate: 90 * day, Lifetime: time.Hour,
		},
		Session:   session.Settings{Idle: 30 * day, Lifetime: 180 * day, Grace: time.Minute, TokenLife: time.Hour + 10*time.Second, Max: 20},
		Gate:      gate.Settings{Headers: gate.DefaultHeaders()},
		LoginRate: ratelimit.Rate{Count: 30, Per: time.Minute},
		WeChat: wechatSettings{
			APIs: []string{"https://api.weixin.qq.com"}, AccessToken: "stable", SendOpenID: true, Timeout: 5 * time.Second,
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Each line of a Caddyfile arrives in the settings, with its placeholders replaced.
func TestSettingsFromWholeDirective(t *testing.T) {
	key := base64.StdEncoding.EncodeToString([]byte("0123456789abcdefghijklmnopqrstuv"))
	for name, value := range map[string]string{
		"A": "wx0123456789abcdef", "S": "s3cret", "A2": "wx1123456789abcdef", "KEY": key, "ISSUER": "https://api.example.com", "TOKENS": "k3y",
	} {
		t.Setenv("WXT_"+name, value)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := mustParse(t, `wx_auth {env.WXT_A} {env.WXT_S} {
		app {env.WXT_A2} {file.`+secret+`}
		endpoints /login
		public POST /hooks/*
		optional /a /b/*
		store sqlite:/srv/../srv/x.db {
			migrate off
		}
		encryption_key {env.WXT_KEY}
		countries 86 852
		silent_login off
		on_new_openid deny
		token {
			issuer {env.WXT_ISSUER}
			audience {env.WXT_ISSUER}/v2 other
			algorithm EdDSA
			lifetime 30m
		}
		session {
			idle 7d
		}
		identity X-User-ID id
		forward_token
		login_rate 5/h
		wechat {
			api http://localhost:9000/ https://api.weixin.qq.com
			access_token external http://tokens:8080/{appid}?key={env.WXT_TOKENS}
			send_openid off
			timeout 2s
		}
	}`)
	set, err := got.settings()
	if err != nil {
		t.Fatal(err)
	}
	if set.EncryptionKeys == nil {
		t.Error("no encryption keys")
	}
	set.EncryptionKeys = nil
	want := settings{
		Apps:      []wechat.App{{ID: "wx0123456789abcdef", Secret: "s3cret"}, {ID: "wx1123456789abcdef", Secret: "s3cret2"}},
		Endpoints: "/login",
		Gate: gate.Settings{
			Headers: []gate.Header{{Name: "X-User-ID", Field: "id"}},
			Public:  []gate.Rule{{Methods: []string{"POST"}, Path: "/hooks/*"}}, Optional: []gate.Rule{{Path: "/a"}, {Path: "/b/*"}},
			ForwardToken: true,
		},
		Store:    storeSettings{URL: "sqlite:/srv/x.db", TablePrefix: "wx_auth_"},
		Register: true, Countries: []string{"86", "852"},
		Login: login.Settings{NewOpenID: user.Deny},
		Token: tokenSettings{
			Policy: token.Policy{
				Issuer: "https://api.example.com", Audience: []string{"https://api.example.com/v2", "other"},
				Apps:   []string{"wx0123456789abcdef", "wx1123456789abcdef"},
				Leeway: 10 * time.Second, Type: "at+jwt",
			},
			Algorithm: token.EdDSA, Rotate: 90 * day, Lifetime: 30 * time.Minute,
		},
		Session:   session.Settings{Idle: 7 * day, Lifetime: 180 * day, Grace: time.Minute, TokenLife: 30*time.Minute + 10*time.Second, Max: 20},
		LoginRate: ratelimit.Rate{Count: 5, Per: time.Hour},
		WeChat: wechatSettings{
			APIs:        []string{"http://localhost:9000", "https://api.weixin.qq.com"},
			AccessToken: "external", External: "http://tokens:8080/{appid}?key=k3y", Timeout: 2 * time.Second,
		},
	}
	if !reflect.DeepEqual(set, want) {
		t.Errorf("got  %+v\nwant %+v", set, want)
	}
}

// A short lifetime is set alone. The defaults of the other times shrink to fit it, so that a
// user need not set them all.
func TestSettingsDefaultsFitTheTimesGiven(t *testing.T) {
	set, err := (&Handler{
		Apps:    oneApp(),
		Token:   &Token{Lifetime: caddy.Duration(2 * time.Second)},
		Session: &Session{Lifetime: caddy.Duration(20 * time.Second)},
	}).settings()
	if err != nil {
		t.Fatal(err)
	}
	if set.Token.Leeway != 2*time.Second || set.Session.Idle != 20*time.Second || set.Session.Grace != 20*time.Second {
		t.Errorf("got %+v %+v", set.Token, set.Session)
	}
}

// Package token decides whether a key is usable. The settings must ask it, with the material
// as it is written.
func TestTokenKeys(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0") // to make a key that is too weak
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return "{file." + path + "}"
	}
	t.Setenv("WXT_JWK", `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}`)
	for name, c := range map[string]struct {
		set  Token
		want string // a part of the error; empty: none
	}{
		"PEM in a file":           {Token{Key: file("ec.pem", ec)}, ""},
		"weak RSA":                {Token{Algorithm: "RS256", Key: file("rsa.pem", weak)}, "2048"},
		"JWK":                     {Token{Algorithm: "EdDSA", Key: "{env.WXT_JWK}"}, ""},
		"another algorithm's":     {Token{Algorithm: "RS256", Key: "{env.WXT_JWK}"}, "token key: "},
		"secret with braces":      {Token{Algorithm: "HS256", Key: `a {b} \{c} {} of thirty-two bytes and more`}, ""},
		"secret in a placeholder": {Token{Algorithm: "HS256", Key: "{vault.key-of-thirty-two-bytes-and-more}"}, "cannot be used here"},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := (&Handler{Apps: oneApp(), Token: &c.set}).settings()
			switch {
			case c.want == "" && (err != nil || set.Token.Static == nil):
				t.Errorf("got %v, keys %v", err, set.Token.Static)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// A value that contains braces is not expanded a second time: a secret may contain them.
func TestPlaceholdersKeepEveryOtherByte(t *testing.T) {
	t.Setenv("WXT_V", "{env.WXT_OTHER}")
	for raw, want := range map[string]string{
		`a\{env.WXT_V}b`:      `a\{env.WXT_OTHER}b`,
		`{env.WXT_V}{`:        `{env.WXT_OTHER}{`,
		`{"k":"{env.WXT_V}"}`: `{"k":"{env.WXT_OTHER}"}`,
		`plain`:               `plain`,
	} {
		got, known, err := atProvision(raw, syntax{lax: true})
		if err != nil || !known || got != want {
			t.Errorf("%s: got %s, %v, %v", raw, got, known, err)
		}
	}
}

// The operator of a proxy changes WeChat's host, adds a second one for disaster recovery, or
// changes the order. It is still the same WeChat. A simulator on another port is another
// WeChat.
func TestNameOfAWeChat(t *testing.T) {
	for _, c := range []struct {
		directives, want string
	}{
		{"", "weixin.qq.com"},
		{"wechat {\napi https://api.weixin.qq.com\n}", "weixin.qq.com"},
		{"wechat {\napi https://api2.weixin.qq.com https://api.weixin.qq.com\n}", "weixin.qq.com"},
		{"wechat {\napi https://SZ.api.Weixin.QQ.com:443/\nrealm other\n}", "weixin.qq.com"},
		{"wechat {\napi https://weixin.qq.com.example.com\n}", "weixin.qq.com.example.com:443"},
		{"wechat {\napi https://notweixin.qq.com\n}", "notweixin.qq.com:443"},
		{"wechat {\napi https://api.weixin.qq.com https://proxy.example.com\n}", "api.weixin.qq.com:443"},
		{"wechat {\napi https://Proxy.Example.com/wx https://api.weixin.qq.com\n}", "proxy.example.com:443"},
		{"wechat {\napi https://proxy.example.com\nrealm weixin.qq.com\n}", "weixin.qq.com"},
		{"wechat {\napi http://127.0.0.1:9000\n}", "127.0.0.1:9000"},
		{"wechat {\napi http://[::1]\n}", "[::1]:80"},
		{"wechat {\napi http://127.0.0.1:9000\nrealm {env.WXT_REALM}\n}", "staging"},
	} {
		t.Setenv("WXT_REALM", "staging")
		set, err := mustParse(t, "wx_auth wx0123456789abcdef s3cret {\n"+c.directives+"\n}").settings()
		if err != nil {
			t.Errorf("%s: %v", c.directives, err)
		} else if got := set.WeChat.nameOf("wx0123456789abcdef"); got != c.want {
			t.Errorf("%s: %q, want %q", c.directives, got, c.want)
		}
	}
	set, err := mustParse(t, "wx_auth {\napp wx0123456789abcdef s3cret\napp wx1123456789abcdef s3cret {\napi http://127.0.0.1:9000\n}\n}").settings()
	if err != nil {
		t.Fatal(err)
	}
	if a, b := set.WeChat.nameOf("wx0123456789abcdef"), set.WeChat.nameOf("wx1123456789abcdef"); a != "weixin.qq.com" || b != "127.0.0.1:9000" {
		t.Errorf("%q and %q", a, b)
	}
}

func mustParse(t *testing.T, directive string) *Handler {
	t.Helper()
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(directive)); err != nil {
		t.Fatal(err)
	}
	return h
}

// Rules for endpoints only, a claim where no user has claims, and a name for WeChat's own hosts
// change nothing. The configuration loads, and each load logs them.
func TestUselessSettingsAreNoted(t *testing.T) {
	h := Handler{
		Apps:     oneApp(),
		Public:   []Rule{{Methods: []string{"POST"}, Paths: []string{"/auth/wx/refresh", "/docs"}}, {Paths: []string{"/auth/*"}}},
		Optional: []string{"/auth/wx/me"},
		Require: []Requirement{
			{Paths: []string{"/x", "/AUTH/wx/service/*"}, Field: "phone_within", Values: []string{"5m"}},
			{Paths: []string{"/admin/*"}, Field: "claims.role", Values: []string{"admin"}},
			{Paths: []string{"/auth/wx-admin"}, Field: "phone_within", Values: []string{"5m"}},
		},
		WeChat: &WeChat{Realm: "staging"},
	}
	set, err := h.settings()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"public /auth/wx/refresh is for endpoints only", "optional /auth/wx/me is for endpoints only",
		"require /AUTH/wx/service/* is for endpoints only", "require /admin/* claims.role lets nobody pass", "wechat realm: ",
	}
	for i, u := range set.Useless {
		if i >= len(want) || !strings.HasPrefix(u.what, want[i]) || u.remedy == "" {
			t.Errorf("%+v", u)
		}
	}
	if len(set.Useless) != len(want) {
		t.Errorf("%d of them, want %d", len(set.Useless), len(want))
	}
}
