package wechattest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

const (
	appID  = "wx1111111111111111"
	secret = "0123456789abcdef0123456789abcdef"
)

var mobile = wechattest.Phone{Country: "86", Number: "13800138000"}

// bench is a simulator with one app, behind a real server, and a clock that stands
// still.
type bench struct {
	*wechattest.Simulator
	t      *testing.T
	server *httptest.Server
	client *http.Client
}

func newBench(t *testing.T, edits ...func(*wechattest.App)) *bench {
	t.Helper()
	app := wechattest.App{ID: appID, Secret: secret}
	for _, edit := range edits {
		edit(&app)
	}
	start := time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)
	sim := wechattest.New(wechattest.Options{Now: func() time.Time { return start }, Apps: []wechattest.App{app}})
	server := httptest.NewServer(sim)
	client := server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.Cleanup(server.Close)
	return &bench{sim, t, server, client}
}

// answer is any of WeChat's answers. Errcode is the raw value, or "0" if there is none.
type answer struct {
	Status      int    `json:"-"`
	ContentType string `json:"-"`
	Raw         string `json:"-"`

	Errcode     json.RawMessage `json:"errcode"`
	Errmsg      string          `json:"errmsg"`
	OpenID      string          `json:"openid"`
	UnionID     *string         `json:"unionid"`
	SessionKey  string          `json:"session_key"`
	AccessToken string          `json:"access_token"`
	ExpiresIn   int             `json:"expires_in"`
	PhoneInfo   struct {
		PhoneNumber     string          `json:"phoneNumber"`
		PurePhoneNumber string          `json:"purePhoneNumber"`
		CountryCode     json.RawMessage `json:"countryCode"`
		Watermark       struct {
			Timestamp int64  `json:"timestamp"`
			AppID     string `json:"appid"`
		} `json:"watermark"`
	} `json:"phone_info"`
}

func (a answer) code() string {
	if a.Errcode == nil {
		return "0"
	}
	return string(a.Errcode)
}

func (b *bench) do(method, path, body string) (answer, error) {
	req, err := http.NewRequest(method, b.server.URL+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	res, err := b.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	a := answer{Status: res.StatusCode, ContentType: res.Header.Get("Content-Type"), Raw: string(raw)}
	json.Unmarshal(raw, &a) // anything but JSON stays in Raw
	return a, err
}

func (b *bench) must(method, path, body string) answer {
	b.t.Helper()
	a, err := b.do(method, path, body)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

func sessionPath(app, secret, code string) string {
	return "/sns/jscode2session?" + url.Values{
		"appid": {app}, "secret": {secret}, "js_code": {code}, "grant_type": {"authorization_code"},
	}.Encode()
}

func (b *bench) session(code string) answer {
	b.t.Helper()
	return b.must("GET", sessionPath(appID, secret, code), "")
}

func stableBody(app, secret string, force bool) string {
	raw, _ := json.Marshal(map[string]any{
		"grant_type": "client_credential", "appid": app, "secret": secret, "force_refresh": force,
	})
	return string(raw)
}

func (b *bench) stable(force bool) answer {
	b.t.Helper()
	return b.must("POST", "/cgi-bin/stable_token", stableBody(appID, secret, force))
}

func classicPath(app, secret string) string {
	return "/cgi-bin/token?" + url.Values{"grant_type": {"client_credential"}, "appid": {app}, "secret": {secret}}.Encode()
}

func (b *bench) classic() answer {
	b.t.Helper()
	return b.must("GET", classicPath(appID, secret), "")
}

func phonePath(token string) string {
	return "/wxa/business/getuserphonenumber?access_token=" + url.QueryEscape(token)
}

func phoneBody(code, openid string) string {
	m := map[string]string{"code": code}
	if openid != "" {
		m["openid"] = openid
	}
	raw, _ := json.Marshal(m)
	return string(raw)
}

func (b *bench) phone(token, code, openid string) answer {
	b.t.Helper()
	return b.must("POST", phonePath(token), phoneBody(code, openid))
}

// works returns "0" if the token works, or the errcode.
func (b *bench) works(token string) string {
	b.t.Helper()
	code, err := b.MintPhone(appID, "somebody", mobile)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.phone(token, code, "").code()
}

func (b *bench) mint(user string) wechattest.Codes {
	b.t.Helper()
	c, err := b.Mint(appID, user, mobile)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *bench) inject(f wechattest.Fault) {
	b.t.Helper()
	if err := b.Inject(f); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) want(what string, a answer, code string) {
	b.t.Helper()
	if a.Status != 200 || a.code() != code {
		b.t.Errorf("%s: status %d, errcode %s (%s), want 200 and %s", what, a.Status, a.code(), a.Errmsg, code)
	}
}

// together runs f n times at once.
func together(n int, f func()) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(f)
	}
	wg.Wait()
}
