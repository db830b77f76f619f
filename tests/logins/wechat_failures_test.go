package logins

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// mini is one of many mini programs behind one gateway. WeChat's errors pause the calls
// of one app, so each case of a table has an app of its own.
type mini struct {
	w      *rig.WeChat
	c      *rig.Caddy
	client *rig.Client
	appid  string
}

const miniSecret = "00000000000000000000000000c0ffee"

// miniApps starts a gateway that serves n mini programs.
func miniApps(t testing.TB, n int) []mini {
	t.Helper()
	w := rig.NewWeChat(t)
	var lines []string
	for i := range n {
		appid := fmt.Sprintf("wx%016x", i)
		lines = append(lines, "app "+appid+" {env.MINI_SECRET}")
		if err := w.AddApp(wechattest.App{ID: appid, Secret: miniSecret}); err != nil {
			t.Fatal(err)
		}
	}
	// On a busy machine one second is not enough to read an answer that is much too
	// long.
	c := rig.StartCaddy(t, rig.WaitingSite("1500ms", lines...), append(w.Environ("127.0.0.1:1"), "MINI_SECRET="+miniSecret)...)
	client := c.Client()
	all := make([]mini, n)
	for i := range all {
		all[i] = mini{w, c, client, fmt.Sprintf("wx%016x", i)}
	}
	return all
}

// tap returns both codes of a tap on the phone button in this mini program.
func (m mini) tap(t testing.TB) wechattest.Codes {
	t.Helper()
	codes, err := m.w.Mint(m.appid, "", wechattest.Phone{Number: "13800138000"})
	if err != nil {
		t.Fatal(err)
	}
	return codes
}

func (m mini) login(codes wechattest.Codes) rig.Answer {
	return m.client.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": m.appid})
}

// renewed returns the codes of the next attempt, where those in renew are fetched
// again.
func (m mini) renewed(t testing.TB, codes wechattest.Codes, renew []string) wechattest.Codes {
	t.Helper()
	for _, name := range renew {
		fresh := m.tap(t)
		switch name {
		case "code":
			codes.Code = fresh.Code
		case "phoneCode":
			codes.PhoneCode = fresh.PhoneCode
		default:
			t.Fatalf("renew names %q", name)
		}
	}
	return codes
}

func (m mini) inject(t testing.TB, f wechattest.Fault) {
	t.Helper()
	if err := m.w.Inject(f); err != nil {
		t.Fatal(err)
	}
}

// WeChat answers "busy" once, twice, or three times. The gateway asks again twice, and
// no code is spent.
func TestBusyWeChatIsAskedAgainTwice(t *testing.T) {
	t.Parallel()
	apps := miniApps(t, 9)
	for i, call := range []wechattest.Call{wechattest.Code2Session, wechattest.StableToken, wechattest.PhoneNumber} {
		for n := range 3 {
			m := apps[3*i+n]
			t.Run(fmt.Sprintf("%s %d", call, n+1), func(t *testing.T) {
				m.w.ResetCounts()
				codes := m.tap(t)
				m.inject(t, wechattest.Fault{Call: call, Kind: wechattest.Errcode, Errcode: -1, Count: n + 1})
				a := m.login(codes)
				if n < 2 || call == wechattest.StableToken { // the login requests the token once more when it needs it
					a.Pair(t)
				} else {
					wantRefusal(t, a, 503, "wechat_unavailable", nothing)
					m.login(codes).Pair(t)
				}
				count := m.w.Count(call)
				if count.Outcomes["errcode"] != n+1 || count.Outcomes["ok"] != 1 || count.Total != n+2 {
					t.Errorf("%s: %+v", call, count)
				}
			})
		}
	}
}

// transportCase is a way in which WeChat's answer is missing or broken.
type transportCase struct {
	kind   wechattest.Kind
	status int
	code   string
}

var transportCases = []transportCase{
	{wechattest.Delay, 504, "wechat_timeout"},
	{wechattest.Reset, 503, "wechat_unavailable"},
	{wechattest.Close, 503, "wechat_unavailable"},
	{wechattest.Status, 502, "wechat_error"},
	{wechattest.HTML, 502, "wechat_error"},
	{wechattest.Empty, 502, "wechat_error"},
	{wechattest.Truncated, 502, "wechat_error"},
	{wechattest.Cut, 502, "wechat_error"},
	{wechattest.Oversized, 502, "wechat_error"},
	{wechattest.Endless, 502, "wechat_error"},
	{wechattest.Redirect, 502, "wechat_error"},
}

// tryTransport logs in under a fault and checks what must hold in every case.
func tryTransport(t *testing.T, m mini, f wechattest.Fault) (wechattest.Codes, rig.Answer) {
	t.Helper()
	m.w.ClearFaults()
	m.w.ResetCounts()
	codes := m.tap(t)
	if f.Kind == wechattest.Delay {
		f.Delay = 8 * time.Second // the gateway waits for 1.5 s
	}
	m.inject(t, f)
	start := time.Now()
	a := m.login(codes)
	if took := time.Since(start); took > 7*time.Second {
		t.Errorf("the answer took %s", took)
	}
	m.w.ClearFaults()
	if n := m.w.Count(f.Call).Total; f.Call != wechattest.StableToken && n > 2 {
		t.Errorf("a code was sent %d times", n)
	}
	if n := m.w.Count(wechattest.Redirected).Total; n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
	return codes, a
}

// calm ends all faults with a successful login. After ten failures in a row the circuit breaker
// would open, and here the tests cause the failures. The login is another user's. With one number,
// each login would replace the accounts in the other mini programs, and would be refused as
// overtaken if it began in the same millisecond.
func calm(t *testing.T, m mini) {
	t.Helper()
	m.w.ClearFaults()
	codes, err := m.w.Mint(m.appid, "", wechattest.Phone{Number: "13900139000"})
	if err != nil {
		t.Fatal(err)
	}
	m.login(codes).Pair(t)
}

// WeChat's answer to each call is missing, broken or late. The login fails in bounded
// time, and neither code is lost unless WeChat has used it up.
func TestUnansweredWeChatWastesNoCode(t *testing.T) {
	for _, call := range []wechattest.Call{wechattest.Code2Session, wechattest.StableToken, wechattest.PhoneNumber} {
		t.Run(string(call), func(t *testing.T) {
			t.Parallel()
			apps := miniApps(t, 3*len(transportCases)+1)
			for i, bad := range transportCases {
				m := apps[3*i:]
				last := apps[len(apps)-1]
				t.Run(string(bad.kind)+" always", func(t *testing.T) {
					codes, a := tryTransport(t, m[0], wechattest.Fault{Call: call, Kind: bad.kind, Count: -1})
					p := wantRefusal(t, a, bad.status, bad.code, nothing)
					if line := m[0].c.Line(t, p.RequestID); line["level"] != "warn" || line["cause"] == nil {
						t.Errorf("the log's line: %v", line)
					}
					// No code was used up, and none must be renewed.
					m[0].login(codes).Pair(t)
					if n := m[0].w.Count(wechattest.PhoneNumber).Outcomes["ok"]; n != 1 {
						t.Errorf("%d phone exchanges", n)
					}
					calm(t, last)
				})
				t.Run(string(bad.kind)+" once", func(t *testing.T) {
					_, a := tryTransport(t, m[1], wechattest.Fault{Call: call, Kind: bad.kind})
					a.Pair(t)
					if n := m[1].w.Count(call).Total; n != 2 {
						t.Errorf("%s was asked %d times, want 2", call, n)
					}
				})
				t.Run(string(bad.kind)+" once, after WeChat did it", func(t *testing.T) {
					codes, a := tryTransport(t, m[2], wechattest.Fault{Call: call, Kind: bad.kind, Late: true})
					if call == wechattest.StableToken {
						a.Pair(t)
						return
					}
					renew := map[wechattest.Call][]string{wechattest.Code2Session: loginCode, wechattest.PhoneNumber: phoneCode}[call]
					wantRefusal(t, a, bad.status, bad.code, renew)
					if n := m[2].w.Count(call).Total; n != 2 {
						t.Errorf("%s was asked %d times, want 2", call, n)
					}
					m[2].login(m[2].renewed(t, codes, renew)).Pair(t)
					calm(t, last)
				})
			}
		})
	}
}

// held makes calls wait until release is called, at the latest at the end of the test.
func held(t testing.TB, w *rig.WeChat, f wechattest.Fault) (release func()) {
	t.Helper()
	hold := make(chan struct{})
	f.Hold = hold
	if f.Kind == "" {
		f.Kind = wechattest.Delay
	}
	if err := w.Inject(f); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	return release
}

// waitUntil waits until ok returns true.
func waitUntil(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !waitFor(ok) {
		t.Fatalf("waited in vain until %s", what)
	}
}

// waitFor is waitUntil for goroutines other than the test's own. It gives up after a
// while.
func waitFor(ok func() bool) bool {
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// Somebody else fetches the app's token, so ours stops working during 200 logins. One
// further fetch must be enough for all.
func TestRevokedAccessTokenCostsOneFetch(t *testing.T) {
	t.Parallel()
	const logins, under = 200, 120 // "under" of them wait at WeChat, which gets at most 128 calls at once
	w := rig.NewWeChat(t)
	c := startPatient(t, w)
	client := c.Client()
	first := w.Tap(t, "13800138000")
	client.Login(first.Code, first.PhoneCode).Pair(t)

	release := held(t, w, wechattest.Fault{Call: wechattest.Code2Session, Count: under})
	go func() {
		// All of these hold the token that is about to be revoked.
		waitFor(func() bool { return w.Count(wechattest.Code2Session).Total > under })
		if err := w.RevokeTokens(rig.AppID); err != nil {
			t.Error(err)
		}
		release()
	}()
	answers := make([]rig.Answer, logins)
	rig.AtOnce(logins, func(i int) {
		codes, err := w.Mint(rig.AppID, "", wechattest.Phone{Number: fmt.Sprintf("139%08d", i)})
		if err == nil {
			answers[i] = client.Login(codes.Code, codes.PhoneCode)
		}
	})
	for _, a := range answers {
		a.Pair(t)
	}
	if n := w.Count(wechattest.StableToken).Total; n != 2 {
		t.Errorf("%d token fetches, want one before and one after", n)
	}
	phones := w.Count(wechattest.PhoneNumber)
	if phones.Outcomes["ok"] != logins+1 || phones.Outcomes["40001"] == 0 {
		t.Errorf("getuserphonenumber: %+v", phones)
	}
	for _, p := range w.PhoneCodes() {
		if p.Exchanged.IsZero() || p.Lost || p.Shown > 2 {
			t.Errorf("phone code %+v", p)
		}
	}
}

// After a start, many logins need an access token at once. One fetch must serve them
// all, since the daily quota is small.
func TestThousandLoginsFetchOneToken(t *testing.T) {
	t.Parallel()
	logins := 1000
	if rig.RaceDetector {
		logins = 300 // the race detector makes it ten times as slow
	}
	w := rig.NewWeChat(t)
	c := startPatient(t, w)
	client := c.Client()
	codes := make([]wechattest.Codes, logins)
	for i := range codes {
		var err error
		if codes[i], err = w.Mint(rig.AppID, "", wechattest.Phone{Number: fmt.Sprintf("137%08d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	answers := make([]rig.Answer, logins)
	rig.AtOnce(logins, func(i int) { answers[i] = client.Login(codes[i].Code, codes[i].PhoneCode) })
	users := make(map[string]bool)
	for i, a := range answers {
		u := a.Pair(t).UserInfo
		if u == nil || u.PurePhoneNumber != fmt.Sprintf("137%08d", i) || !u.IsNew || users[u.ID] {
			t.Fatalf("login %d: %+v", i, u)
		}
		users[u.ID] = true
	}
	if n := w.Count(wechattest.StableToken).Total; n != 1 {
		t.Errorf("%d token fetches", n)
	}
	if s, p := w.Count(wechattest.Code2Session).Total, w.Count(wechattest.PhoneNumber).Total; s != logins || p != logins {
		t.Errorf("%d and %d calls for %d logins", s, p, logins)
	}
}

// A client above its rate learns when to come back, and other clients are not affected.
func TestRateLimitSaysHowLongToWait(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	proxies := "servers {\ntrusted_proxies static 127.0.0.1/32\ntrusted_proxies_strict\n}"
	c := rig.StartCaddy(t, rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nlogin_rate 3/m\nwechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}", proxies),
		w.Environ("127.0.0.1:1")...)
	client := c.Client()
	from := func(address, code string) rig.Answer {
		return client.Do(http.MethodPost, "/auth/wx", map[string]string{"code": code}, "X-Forwarded-For: "+address)
	}
	for range 3 {
		wantRefusal(t, from("198.51.100.7", "0nonsense"), 400, "login_code_invalid", loginCode)
	}
	asked := w.Asked()
	a := from("198.51.100.7", "0nonsense")
	wantRefusal(t, a, 429, "rate_limited", nil)
	if wait, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || wait < 1 || wait > 60 {
		t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
	}
	if a.Header.Get("RateLimit") == "" || a.Header.Get("RateLimit-Policy") == "" {
		t.Errorf("no RateLimit header fields: %v", a.Header)
	}
	if w.Asked() != asked {
		t.Error("WeChat was asked beyond the rate")
	}
	wantRefusal(t, from("198.51.100.8", "0nonsense"), 400, "login_code_invalid", loginCode) // another client
}
