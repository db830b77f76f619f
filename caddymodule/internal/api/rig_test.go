package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/gate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/metrics"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

const (
	servedApp  = "wx0123456789abcdef"
	pushedApp  = "wx1111111111111111"
	pushToken  = "tokenTOKEN0123456789"
	pushKey    = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
	serviceKey = "5f2b8c0d9e1a4f7c6b3d2e8f0a1c9b7d"
	number     = "13800138000"
)

// served is a server over an SQLite store and a simulated WeChat. There are two mini programs,
// of which one receives pushes. All clients have one public address.
type served struct {
	*Server
	t      *testing.T
	store  *store.Store
	wechat *wechattest.Simulator
	logs   *observer.ObservedLogs
	opened *Opened
}

// Ready implements [Opening] for a store that is open.
func (s *served) Ready(context.Context) *Opened { return s.opened }
func (s *served) IsOpen() bool                  { return s.opened != nil }
func (s *served) Recorded() bool                { return s.opened != nil }
func (s *served) Misconfigured() bool           { return false }
func (s *served) Hold() func()                  { return func() {} }

// serve starts a server. configure may change its settings. external is an external
// directory, or nil.
func serve(t *testing.T, external user.Directory, configure ...func(*Settings)) *served {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s := &served{t: t, wechat: wechattest.New(wechattest.Options{Apps: []wechattest.App{
		{ID: servedApp, Secret: "5ec2e7"}, {ID: pushedApp, Secret: "s3cret", PushToken: pushToken, PushKey: pushKey},
	}})}
	web := httptest.NewServer(s.wechat)
	t.Cleanup(web.Close)
	db, err := store.New("sqlite:"+filepath.Join(t.TempDir(), "wx.db"), store.Options{})
	must(err)
	t.Cleanup(func() { _ = db.Close() })
	s.store = db.With(nil)
	must(s.store.Reopen(t.Context()))
	keys, err := s.store.Secrets(t.Context())
	must(err)
	refreshKeys, err := session.NewKeys(keys.RefreshMAC()...)
	must(err)
	seal, err := token.NewSeal(keys.ClaimSeal()...)
	must(err)
	push, err := wechat.NewPushReceiver(pushedApp, pushToken, pushKey)
	must(err)
	ring := token.NewRing()
	must(ring.Load(t.Context(), s.store, token.RingSettings{Algorithm: token.ES256, Lifetime: time.Hour}, time.Now()))

	const issuer = "wx-auth"
	audience, apps := []string{issuer}, []string{servedApp, pushedApp}
	revoked := session.NewRevoked()
	verifier := token.NewVerifier(token.Policy{Issuer: issuer, Audience: audience, Apps: apps}, seal, token.NewCache(64))
	tokens := &token.Tokens{
		Ring: ring, Verifier: func() (*token.Verifier, error) { return verifier, nil }, Ended: revoked.Contains, ReloadRing: func() {},
	}
	g, err := gate.New(gate.Settings{}, tokens)
	must(err)
	count := metrics.New()
	for _, app := range apps {
		count.Serves(app, "")
	}
	times := session.Settings{Idle: 24 * time.Hour, Lifetime: 48 * time.Hour, Grace: time.Minute, TokenLife: time.Hour, Max: 20}
	directory := account.Directory(s.store.Users(true, times))
	if external != nil {
		directory = s.store.ExternalUsers(user.Checked(external), times)
	}
	core, logs := observer.New(zapcore.DebugLevel)
	s.logs = logs
	s.Server = &Server{
		Settings: Settings{
			Prefix: "/auth/wx",
			Apps: map[string]App{
				servedApp: {App: wechat.App{ID: servedApp, Secret: "5ec2e7"}},
				pushedApp: {App: wechat.App{ID: pushedApp, Secret: "s3cret"}, Push: push},
			},
			ServiceKey: func(shown string) bool { return shown == serviceKey },
			LoginRate:  ratelimit.Rate{Count: 30, Per: time.Minute}, External: external != nil,
		},
		Host: Host{
			ClientIP:     func(*http.Request) string { return "203.0.113.7" },
			TrustedProxy: func(*http.Request) bool { return false },
			RequestID:    func(*http.Request) string { return "the request's id" },
			Exiting:      func() bool { return false },
		},
		Opening: s, State: new(State), Gate: g, Keys: tokens.Keys, Store: s.store, Directory: directory,
		Log: zap.New(core), Metrics: count, Emit: func(...event.Event) {},
	}
	for _, c := range configure {
		c(&s.Settings)
	}
	o := &Opened{
		Verifier: verifier,
		Minter:   login.Minter{Keys: tokens.Keys, Seal: seal, Issuer: issuer, Audience: audience, Lifetime: time.Hour, Check: g.CheckValues},
		Sessions: session.Sessions{
			Store: s.store, Keys: refreshKeys, Issuer: issuer, Audience: audience, Apps: apps, Revoked: revoked,
			Allow: s.AllowRefresh, Advanced: s.CountRefresh, Settings: times,
		},
	}
	if test := s.TestLogin; test != nil {
		o.Sessions.Test = session.TestLogin{Marks: refreshKeys.Marks([]byte("reviewers")), Until: test.Until}
	}
	o.Accounts = account.Accounts{Directory: directory, Store: s.store, Sessions: o.Sessions, Mint: o.Minter.Mint, Emit: s.Emit}
	o.Chain = login.Chain{
		WeChat:    &wechat.Client{APIs: []string{web.URL}, Timeout: 5 * time.Second, Tokens: wechat.NewStableToken(), Log: s.LogWeChat, Now: time.Now},
		Directory: directory, Store: s.store, Sessions: o.Sessions, State: new(login.State),
		Settings: login.Settings{Silent: 24 * time.Hour, NewOpenID: user.Replace, External: external != nil},
		Mint:     o.Minter.Mint, Hold: s.Hold, Observe: ObserveStep, OnDone: s.OnDone, OnPhoneChange: s.OnPhoneChange, OnRevoked: s.OnRevoked,
	}
	s.opened = o
	return s
}

// do sends a request. A body is JSON unless the request says otherwise.
func (s *served) do(r *http.Request) *httptest.ResponseRecorder {
	s.t.Helper()
	w := httptest.NewRecorder()
	w.Header().Set("Cache-Control", "public, max-age=3600") // as a header directive sets it for the whole site
	if r.Header.Get("Content-Type") == "" && r.ContentLength > 0 {
		r.Header.Set("Content-Type", "application/json")
	}
	to, ours := s.Route(r)
	if !ours {
		s.t.Fatalf("%s is not under the prefix", r.URL)
	}
	if err := s.Serve(w, r, to); err != nil {
		s.t.Errorf("%s %s: %v", r.Method, r.URL, err)
	}
	return w
}

func (s *served) post(path, body string) *httptest.ResponseRecorder {
	s.t.Helper()
	return s.do(httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
}

// with adds a bearer token to a request.
func with(bearer string, r *http.Request) *http.Request {
	r.Header.Set("Authorization", "Bearer "+bearer)
	return r
}

// loginBody returns the body of a new phone login at an app, as a person.
func (s *served) loginBody(appid, person string) string {
	s.t.Helper()
	codes, err := s.wechat.Mint(appid, person, wechattest.Phone{Number: number})
	if err != nil {
		s.t.Fatal(err)
	}
	raw, _ := json.Marshal(map[string]string{"appid": appid, "code": codes.Code, "phoneCode": codes.PhoneCode})
	return string(raw)
}

// logIn logs a person in at an app.
func (s *served) logIn(appid, person string) (p pair) {
	s.t.Helper()
	w := s.post("/auth/wx", s.loginBody(appid, person))
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != http.StatusOK {
		s.t.Fatalf("login: %d %s", w.Code, w.Body)
	}
	return p
}

// alive reports whether a login's token is still good.
func (s *served) alive(p pair) bool {
	s.t.Helper()
	return s.do(with(p.Token, httptest.NewRequest(http.MethodGet, "/auth/wx/verify", nil))).Code == http.StatusNoContent
}

// eventually waits until another goroutine has done something after the answer.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within five seconds: " + what)
		}
	}
}
