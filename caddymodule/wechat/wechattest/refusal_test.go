package wechattest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// secretCalls are the calls that carry the app's secret.
func secretCalls(app, secret string) map[wechattest.Call][3]string {
	return map[wechattest.Call][3]string{
		wechattest.Code2Session: {"GET", sessionPath(app, secret, "x"), ""},
		wechattest.StableToken:  {"POST", "/cgi-bin/stable_token", stableBody(app, secret, false)},
		wechattest.ClassicToken: {"GET", classicPath(app, secret), ""},
	}
}

// Each call that carries the secret is refused for a wrong appid, secret, frozen app or
// address, with WeChat's errcode.
func TestEveryCallWithTheSecretIsChecked(t *testing.T) {
	tests := []struct {
		name   string
		edit   func(*wechattest.App)
		app    string
		secret string
		want   string
		atTok  string // at the token calls, if different
	}{
		{"unknown appid", nil, "wx9", secret, "40013", ""},
		{"no appid", nil, "", secret, "41002", ""},
		{"no secret", nil, appID, "", "41004", ""},
		{"wrong secret", nil, appID, "wrong", "40125", ""},
		{"wrong secret, the other answer", func(a *wechattest.App) { a.TokenSecretErrcode = 40001 }, appID, "wrong", "40125", "40001"},
		{"frozen secret", func(a *wechattest.App) { a.Frozen = true }, appID, secret, "40243", ""},
		{"not in the whitelist", func(a *wechattest.App) { a.Whitelist = []string{"192.0.2.7", "198.51.100.0/24"} }, appID, secret, "40164", ""},
	}
	for _, tt := range tests {
		b := newBench(t)
		if tt.edit != nil {
			b.AlterApp(appID, tt.edit)
		}
		for call, c := range secretCalls(tt.app, tt.secret) {
			want := tt.want
			if tt.atTok != "" && call != wechattest.Code2Session {
				want = tt.atTok
			}
			a := b.must(c[0], c[1], c[2])
			b.want(tt.name+" at "+string(call), a, want)
			if got := b.Count(call); got.Total != 1 || got.Outcomes[want] != 1 {
				t.Errorf("%s at %s: counted %+v", tt.name, call, got)
			}
		}
	}
}

// The error for an address that is not whitelisted contains that address.
func TestWhitelistNamesTheCaller(t *testing.T) {
	b := newBench(t, func(a *wechattest.App) { a.Whitelist, a.CallerIP = []string{"192.0.2.0/24"}, "14.22.81.196" })
	if msg := b.stable(false).Errmsg; !strings.HasPrefix(msg, "invalid ip 14.22.81.196 ipv6 ::ffff:14.22.81.196, not in whitelist, rid: ") {
		t.Errorf("errmsg %q", msg)
	}
	b.AlterApp(appID, func(a *wechattest.App) { a.CallerIP = "192.0.2.200" })
	b.want("in the whitelist", b.stable(false), "0")
	b.AlterApp(appID, func(a *wechattest.App) { a.Whitelist, a.CallerIP = []string{"127.0.0.1"}, "" })
	b.want("the connection's own address", b.stable(false), "0")
}

// A used-up quota has WeChat's errcodes, and is filled up after a minute or at midnight
// in China.
func TestQuotas(t *testing.T) {
	b := newBench(t, func(a *wechattest.App) {
		a.MinuteQuota = map[wechattest.Call]int{wechattest.StableToken: 2}
		a.DailyQuota = map[wechattest.Call]int{wechattest.StableToken: 3, wechattest.PhoneNumber: 1, wechattest.Code2Session: 0}
	})
	b.want("first", b.stable(false), "0")
	token := b.stable(false).AccessToken
	b.want("third in a minute", b.stable(false), "45011")
	b.Advance(time.Minute)
	b.want("third of the day", b.stable(false), "0")
	b.want("fourth of the day", b.stable(false), "45009")

	codes := b.mint("ann")
	b.want("phone", b.phone(token, b.mint("bob").PhoneCode, ""), "0")
	b.want("phone again", b.phone(token, codes.PhoneCode, ""), "45009")
	b.want("session", b.session(codes.Code), "45009")
	b.want("classic, not limited here", b.classic(), "0")

	// A day ends at midnight in China, which is 16:00 UTC.
	b.Advance(b.Now().Truncate(24 * time.Hour).Add(16 * time.Hour).Sub(b.Now()))
	b.want("the next day", b.stable(false), "0")
	b.AlterApp(appID, func(a *wechattest.App) { a.DailyQuota = nil })
	b.want("a call refused for the quota consumes no code", b.phone(b.classic().AccessToken, b.mint("cid").PhoneCode, ""), "0")
}

// WeChat allows 2,000 classic tokens a day.
func TestPublishedQuotaOfClassicTokens(t *testing.T) {
	b := newBench(t)
	for i := range 2000 {
		if a := b.classic(); a.code() != "0" {
			t.Fatalf("call %d: %s", i+1, a.Raw)
		}
	}
	b.want("2001st of a day", b.classic(), "45009")
}

// WeChat refuses chunked bodies with 412, which Go's client sends when it does not know
// the length.
func TestChunkedBodyIsRefusedWith412(t *testing.T) {
	b := newBench(t)
	codes, token := b.mint("ann"), b.stable(false).AccessToken
	bodies := map[string]string{
		phonePath(token):         phoneBody(codes.PhoneCode, ""),
		"/cgi-bin/stable_token?": stableBody(appID, secret, false),
	}
	for path, body := range bodies {
		// A reader of unknown length makes Go's client send chunks.
		res, err := b.client.Post(b.server.URL+path, "application/json", io.MultiReader(strings.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusPreconditionFailed || len(raw) != 0 {
			t.Errorf("%s: status %d, body %q, want an empty 412", path, res.StatusCode, raw)
		}
	}
	if n := b.Count(wechattest.PhoneNumber); n.Total != 1 || n.Outcomes["412"] != 1 {
		t.Errorf("counted %+v", n)
	}
	b.want("the code is not consumed", b.phone(token, codes.PhoneCode, ""), "0")
}

// Malformed requests get WeChat's errcodes for them.
func TestMalformedRequests(t *testing.T) {
	b := newBench(t)
	token := b.stable(false).AccessToken
	session := sessionPath(appID, secret, "x")
	tests := []struct{ name, method, path, body, want string }{
		{"session by POST", "POST", session, "", "43002"},
		{"stable token by GET", "GET", "/cgi-bin/stable_token", "", "43002"},
		{"classic token by POST", "POST", classicPath(appID, secret), "", "43002"},
		{"phone by GET", "GET", phonePath(token), "", "43002"},
		{"phone by PUT", "PUT", phonePath(token), "{}", "43002"},
		{"session without code", "GET", sessionPath(appID, secret, ""), "", "41008"},
		{"session, wrong grant", "GET", strings.Replace(session, "authorization_code", "client_credential", 1), "", "40002"},
		{"classic, wrong grant", "GET", strings.Replace(classicPath(appID, secret), "client_credential", "x", 1), "", "40002"},
		{"stable, wrong grant", "POST", "/cgi-bin/stable_token", strings.Replace(stableBody(appID, secret, false), "client_credential", "x", 1), "40002"},
		{"a code that brought a parameter", "GET", session + "&appid=wx9", "", "40097"},
		{"a parameter nobody knows", "GET", session + "&openid=o", "", "40097"},
		{"a semicolon in the query", "GET", session + ";a=b", "", "40097"},
		{"a broken escape", "GET", session + "%zz", "", "40097"},
		{"stable token with a query", "POST", "/cgi-bin/stable_token?appid=" + appID, stableBody(appID, secret, false), "40097"},
		{"stable, empty body", "POST", "/cgi-bin/stable_token", "", "44002"},
		{"stable, form body", "POST", "/cgi-bin/stable_token", "grant_type=client_credential", "47001"},
		{"stable, force_refresh as text", "POST", "/cgi-bin/stable_token", strings.Replace(stableBody(appID, secret, false), "false", `"false"`, 1), "47001"},
		{"stable, force_refresh null", "POST", "/cgi-bin/stable_token", strings.Replace(stableBody(appID, secret, false), "false", `null`, 1), "47001"},
		{"stable, unknown member", "POST", "/cgi-bin/stable_token", `{"AppID":"x"}`, "40097"},
		{"phone, empty body", "POST", phonePath(token), "", "44002"},
		{"phone, broken JSON", "POST", phonePath(token), `{"code":"x"`, "47001"},
		{"phone, two values", "POST", phonePath(token), `{"code":"x"}{}`, "47001"},
		{"phone, an array", "POST", phonePath(token), `[]`, "47001"},
		{"phone, null", "POST", phonePath(token), `null`, "47001"},
		{"phone, code a number", "POST", phonePath(token), `{"code":7}`, "47001"},
		{"phone, no code", "POST", phonePath(token), `{}`, "41008"},
		{"phone, unknown member", "POST", phonePath(token), `{"code":"x","appid":"y"}`, "40097"},
		{"no such call", "GET", "/sns/jscode2session/", "", "40066"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := b.must(tt.method, tt.path, tt.body)
			if a.Status != 200 || a.code() != tt.want {
				t.Errorf("status %d, %s, want errcode %s", a.Status, a.Raw, tt.want)
			}
		})
	}
}

// The simulator must not read a huge request into memory.
func TestHugeRequestIsNotRead(t *testing.T) {
	b := newBench(t)
	a, err := b.do("POST", "/cgi-bin/stable_token", strings.Repeat(" ", 1<<20))
	if err == nil && a.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d", a.Status)
	}
}

// Some of WeChat's services send errcode as a string, also on success.
func TestStringErrcode(t *testing.T) {
	b := newBench(t, func(a *wechattest.App) { a.StringErrcode, a.ErrcodeOnSuccess = true, true })
	codes := b.mint("ann")
	b.want("good session", b.session(codes.Code), `"0"`)
	b.want("used code", b.session(codes.Code), `"40163"`)
	b.want("good phone", b.phone(b.stable(false).AccessToken, codes.PhoneCode, ""), `"0"`)
	b.want("wrong secret", b.must("GET", classicPath(appID, "wrong"), ""), `"40125"`)
}

// The simulator's answers are compared with bodies that WeChat sent or published. The
// members, the JSON types and the texts must be equal, except for what differs from
// call to call.
func TestAnswersLookLikeWeChats(t *testing.T) {
	raw, err := os.ReadFile("testdata/responses.json")
	if err != nil {
		t.Fatal(err)
	}
	var samples map[string]map[string]any
	if err := json.Unmarshal(raw, &samples); err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	documented := newBench(t, func(a *wechattest.App) {
		a.OpenPlatform, a.ErrcodeOnSuccess, a.NumberCountryCode = "company", true, true
	})
	token := b.stable(false).AccessToken
	b.session(b.mint("ann").Code)
	used := b.mint("bob").Code
	b.session(used)
	b.inject(wechattest.Fault{Call: wechattest.ClassicToken, Kind: wechattest.Errcode, Errcode: 45009})
	daily := b.classic()
	b.inject(wechattest.Fault{Call: wechattest.ClassicToken, Kind: wechattest.Errcode, Errcode: 61024})
	component := b.classic()
	tests := map[string]answer{
		"jscode2session_ok_observed":           b.session(b.mint("cid").Code),
		"jscode2session_ok_doc":                documented.session(documented.mint("cid").Code),
		"token_ok":                             b.classic(),
		"stable_token_ok_remaining":            b.stable(false),
		"token_err":                            b.must("GET", classicPath("wx9", secret), ""),
		"phone_ok_observed_countryCode_string": b.phone(token, b.mint("dan").PhoneCode, ""),
		"phone_ok_doc_countryCode_number":      documented.phone(documented.stable(false).AccessToken, documented.mint("dan").PhoneCode, ""),
		"err_40001_observed":                   b.phone(token[:510]+"--", "x", ""),
		"err_40013_observed":                   b.must("GET", classicPath("wx9", secret), ""),
		"err_40029_sns_observed":               b.session("x"),
		"err_40029_phone_observed":             b.phone(token, "x", ""),
		"err_40163_observed":                   b.session(used),
		"err_41001_observed":                   b.phone("", "x", ""),
		"err_41002_observed":                   b.must("GET", classicPath("", secret), ""),
		"err_45009_observed":                   daily,
		"err_47001_observed":                   b.must("POST", phonePath(token), "x"),
		"err_61024_observed":                   component,
	}
	for name, a := range tests {
		t.Run(name, func(t *testing.T) {
			var got map[string]any
			if err := json.Unmarshal([]byte(a.Raw), &got); err != nil {
				t.Fatal(err)
			}
			sameShape(t, "", samples[name], got)
			text, _ := samples[name]["errmsg"].(string)
			if strings.Contains(text, "rid: ") && plainText(text) != plainText(a.Errmsg) {
				t.Errorf("errmsg %q, want one like %q", a.Errmsg, text)
			}
			if a.code() != "0" && !regexp.MustCompile(` rid: [0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}$`).MatchString(a.Errmsg) {
				t.Errorf("errmsg %q has no rid at its end", a.Errmsg)
			}
		})
	}
}

var varying = regexp.MustCompile(`\[[^]]*\]|rid: \S+`)

func plainText(errmsg string) string { return varying.ReplaceAllString(errmsg, "~") }

func sameShape(t *testing.T, path string, want, got map[string]any) {
	t.Helper()
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("member %s%s is not in the sample", path, name)
		}
	}
	for name, w := range want {
		g, ok := got[name]
		if !ok {
			t.Errorf("member %s%s is missing", path, name)
			continue
		}
		switch w := w.(type) {
		case map[string]any:
			inner, _ := g.(map[string]any)
			sameShape(t, path+name+".", w, inner)
		case string:
			if _, ok := g.(string); !ok {
				t.Errorf("%s%s is %v, want a string", path, name, g)
			}
		case float64:
			if n, ok := g.(float64); !ok || name == "errcode" && n != w {
				t.Errorf("%s%s is %v, want a number such as %v", path, name, g, w)
			}
		}
	}
}

// Settings that no real app can have are refused.
func TestWrongAppSettingsAreRefused(t *testing.T) {
	b := newBench(t)
	for _, a := range []wechattest.App{
		{}, {ID: "wx9"}, {ID: "wx9", Secret: "s", Whitelist: []string{"everywhere"}},
		{ID: "wx9", Secret: "s", TokenSecretErrcode: 40013}, {ID: "wx9", Secret: "s", TokenSeconds: -1},
	} {
		if b.AddApp(a) == nil {
			t.Errorf("accepted %+v", a)
		}
	}
	if b.AlterApp("wx9", func(*wechattest.App) {}) == nil {
		t.Error("altered an app that does not exist")
	}
}
