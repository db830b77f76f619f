package caddymodule

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// serving is a running configuration with one directive, without a listener.
type serving struct {
	t      *testing.T
	wechat *wechattest.Simulator
	server *caddyhttp.Server
	h      *Handler
	logs   *observer.ObservedLogs
}

const servedApp, servedSecret = "wx0123456789abcdef", "5ec2e7005ec2e7005ec2e7005ec2e700"

// provision loads the directive as Caddy does, but does not start it. more are further lines
// of the directive.
func provision(t *testing.T, more ...string) (*serving, caddy.Context) {
	t.Helper()
	sim := wechattest.New(wechattest.Options{Apps: []wechattest.App{{ID: servedApp, Secret: servedSecret}}})
	api := httptest.NewServer(sim)
	t.Cleanup(api.Close)
	directive := "wx_auth " + servedApp + " " + servedSecret + ` {
		store sqlite:` + filepath.Join(t.TempDir(), "wx.db") + `
		wechat {
			api ` + api.URL + `
		}
		` + strings.Join(more, "\n") + `
	}`
	raw, err := json.Marshal(mustParse(t, directive))
	if err != nil {
		t.Fatal(err)
	}
	route := `{"handler": "wx_auth", ` + string(raw[1:])
	var cfg caddy.Config
	if err := json.Unmarshal([]byte(`{"admin": {"disabled": true}, "apps": {"http": {"servers": {"one": {
		"listen": ["127.0.0.1:0"], "routes": [{"handle": [`+route+`]}]}}}}}`), &cfg); err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	app, err := ctx.App("http")
	if err != nil {
		t.Fatal(err)
	}
	s := &serving{t: t, wechat: sim, server: app.(*caddyhttp.App).Servers["one"]}
	s.h = s.server.Routes[0].Handlers[0].(*Handler)
	var core zapcore.Core
	core, s.logs = observer.New(zapcore.DebugLevel)
	s.h.site.log = zap.New(core)
	s.h.site.api.Log = s.h.site.log
	return s, ctx
}

// serve is provision with the store open.
func serve(t *testing.T, more ...string) *serving {
	t.Helper()
	s, _ := provision(t, more...)
	if err := s.h.site.Open(t.Context(), openTimeout); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.h.Cleanup() })
	return s
}

var upstream = caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
	_, err := io.WriteString(w, "upstream")
	return err
})

// do sends a request from a public address.
func (s *serving) do(r *http.Request) *httptest.ResponseRecorder {
	s.t.Helper()
	w := httptest.NewRecorder()
	w.Header().Set("Cache-Control", "public, max-age=3600") // as a header directive sets it for the whole site
	r.RemoteAddr = "203.0.113.7:1234"
	if r.Body != nil && r.Header.Get("Content-Type") == "" && r.ContentLength > 0 {
		r.Header.Set("Content-Type", "application/json")
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, s.server)
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "203.0.113.7")
	if err := s.h.ServeHTTP(w, r, upstream); err != nil {
		s.t.Errorf("%s %s: %v", r.Method, r.URL, err)
	}
	return w
}

func (s *serving) post(path, body string) *httptest.ResponseRecorder {
	s.t.Helper()
	return s.do(httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
}

func (s *serving) tap() wechattest.Codes {
	s.t.Helper()
	codes, err := s.wechat.Mint(servedApp, "", wechattest.Phone{Number: "13800138000"})
	if err != nil {
		s.t.Fatal(err)
	}
	return codes
}

func loginBody(c wechattest.Codes) string {
	raw, _ := json.Marshal(map[string]string{"code": c.Code, "phoneCode": c.PhoneCode})
	return string(raw)
}

// pair is the answer to a login.
type pair struct {
	Token        string         `json:"token"`
	RefreshToken string         `json:"refreshToken"`
	UserInfo     map[string]any `json:"userInfo"`
}

func (s *serving) login() (p pair) {
	s.t.Helper()
	w := s.post("/auth/wx", loginBody(s.tap()))
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != http.StatusOK {
		s.t.Fatalf("login: %d %s", w.Code, w.Body)
	}
	return p
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within five seconds: " + what)
		}
	}
}

// A header directive may set Cache-Control for the whole site. Caches must not keep a refusal
// even then: they would give it to a user who has logged in meanwhile.
func TestRefusalIsNotKept(t *testing.T) {
	w := serve(t).do(httptest.NewRequest(http.MethodGet, "/api", nil))
	if got := w.Header()["Cache-Control"]; w.Code != http.StatusUnauthorized || len(got) != 1 || got[0] != "no-store" {
		t.Errorf("%d, Cache-Control %q", w.Code, got)
	}
}

// A reload cleans the former configuration up at once, while its requests may
// still be on their way through earlier handlers.
func TestRequestThatArrivesAfterTheCleanup(t *testing.T) {
	s, _ := provision(t, "public /open")
	if err := s.h.site.Open(t.Context(), openTimeout); err != nil {
		t.Fatal(err)
	}
	p := s.login()
	if err := s.h.Cleanup(); err != nil {
		t.Fatal(err)
	}
	let := func() bool { _, held := storePool.References(s.h.site.storeKey); return !held }
	eventually(t, "the login lets go of the store", let)
	if w := s.do(httptest.NewRequest(http.MethodGet, "/open", nil)); w.Code != http.StatusOK {
		t.Errorf("public: %d", w.Code)
	}
	r := httptest.NewRequest(http.MethodGet, "/api", nil)
	r.Header.Set("Authorization", "Bearer "+p.Token)
	if w := s.do(r); w.Code != http.StatusOK {
		t.Errorf("with a token: %d %s", w.Code, w.Body)
	}
	if w := s.post("/auth/wx/refresh", `{"refreshToken":"`+p.RefreshToken+`"}`); w.Code != http.StatusServiceUnavailable {
		t.Errorf("refresh without a store: %d %s", w.Code, w.Body)
	}
	if !let() {
		t.Error("a reference is left")
	}
}

// The store does not answer. Only one request waits for it, and a request to a public path
// never does.
func TestStoreThatIsAwayHoldsRequestsUpOnce(t *testing.T) {
	s, _ := provision(t, "public /open")
	t.Cleanup(func() { _ = s.h.Cleanup() })
	s.do(httptest.NewRequest(http.MethodGet, "/open", nil))
	start := time.Now()
	if w := s.do(httptest.NewRequest(http.MethodGet, "/open", nil)); w.Code != http.StatusOK {
		t.Errorf("public: %d", w.Code)
	}
	w := s.post("/auth/wx", `{"code":"c"}`)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), `"renew":[]`) {
		t.Errorf("login: %d %s", w.Code, w.Body)
	}
	// The token of another system is not ours, and is left alone even before our keys are
	// loaded.
	r := httptest.NewRequest(http.MethodGet, "/api", nil)
	r.Header.Set("Authorization", "Bearer another.systems.token")
	if w := s.do(r); w.Code != http.StatusUnauthorized {
		t.Errorf("another system's token: %d %s", w.Code, w.Body)
	}
	if took := time.Since(start); took > time.Second { // a request waits for two seconds
		t.Errorf("they waited for %s", took)
	}
	if err := s.h.site.Open(t.Context(), openTimeout); err != nil {
		t.Fatal(err)
	}
	s.login()
}

// Sites that share a key ring share its lifetimes. Sites that do not share keys do not share a
// cache either.
func TestSitesThatShareKeys(t *testing.T) {
	one, _ := provision(t, "token {\nlifetime 10m\nrotate 2h\n}")
	t.Cleanup(func() { _ = one.h.Cleanup() })
	a := new(Background)
	first := *one.h.site.ringSet
	a.add(one.h.site)
	other := &site{set: one.h.site.set, ring: one.h.site.ring, ringKey: one.h.site.ringKey}
	other.set.Token.Lifetime, other.set.Token.Rotate, other.set.Token.Leeway = 24*time.Hour, 90*day, time.Minute
	a.add(other)
	got := one.h.site.ringSet
	if got != other.ringSet || got.Lifetime != 24*time.Hour || got.Leeway != time.Minute || got.Rotate != first.Rotate {
		t.Errorf("settings %+v and %+v", got, other.ringSet)
	}
	names := make(map[string]bool)
	for _, keys := range []string{"ES256", "EdDSA", "0xc000"} {
		k, _ := acquireCache(one.h.site.set.Token.Policy, one.h.site.storeKey, keys, "")
		defer func() { _, _ = cachePool.Delete(k) }()
		names[k] = true
	}
	if len(names) != 3 {
		t.Errorf("%d caches for three sets of keys", len(names))
	}
}
