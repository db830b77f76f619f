package tests

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// mini is one of many mini programs behind one gateway. WeChat's errors pause calls
// app by app, so that each case of a table has an app of its own and starts afresh.
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
	c := rig.StartCaddy(t, rig.HastySite(lines...), append(w.Environ("127.0.0.1:1"), "MINI_SECRET="+miniSecret)...)
	client := c.Client()
	all := make([]mini, n)
	for i := range all {
		all[i] = mini{w, c, client, fmt.Sprintf("wx%016x", i)}
	}
	return all
}

// tap is both codes of a tap on the phone button in this mini program.
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

// renewed are the codes of the next try, with what renew names fetched anew.
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

// errcodeCase is a row of WeChat's error table at one call.
type errcodeCase struct {
	errcode int
	status  int
	code    string
	renew   []string // nil: no such member
	retry   int      // Retry-After in seconds; 0: any, if there must be one
	remedy  string   // in the log's remedy; "": there is nothing the operator can do
	// pauses: WeChat is not asked again for that while, as to ask would change
	// nothing or make it worse.
	pauses bool
}

var (
	nothing   = []string{}
	loginCode = []string{"code"}
	phoneCode = []string{"phoneCode"}
	bothCodes = []string{"code", "phoneCode"}
)

func misconfigured(remedy string, pauses bool, errcodes ...int) []errcodeCase {
	var cases []errcodeCase
	for _, code := range errcodes {
		cases = append(cases, errcodeCase{errcode: code, status: 503, code: "misconfigured", renew: nothing, remedy: remedy, pauses: pauses})
	}
	return cases
}

// The rows that mean the same wherever they come. credentials: whether the call
// carries the secret.
func commonRows(credentials bool, operator bool) []errcodeCase {
	rows := slices.Concat(
		misconfigured("report", false, 40097, 41001, 41002, 41004, 41008, 43002, 44002, 47001),
		misconfigured("AppSecret", credentials, 40125, 40243),
		misconfigured("IP whitelist", credentials, 40164, 61004),
		misconfigured("admin", credentials, 89501, 89502, 89503, 89504, 89505, 89506, 89507),
		misconfigured("signature", operator, 40230, 40231, 40232, 40233, 40234, 40235, 40236, 40237, 40238, 40239),
		misconfigured("clock", operator, 40240),
		misconfigured("console", operator, 48001, 48004, 50002, 50004, 50007),
		misconfigured("own appid", operator, 61024),
		[]errcodeCase{
			{errcode: -1, status: 503, code: "wechat_unavailable", renew: nothing},
			{errcode: 45009, status: 503, code: "wechat_unavailable", renew: nothing, retry: 600, remedy: "quota", pauses: true},
			{errcode: 45011, status: 503, code: "wechat_unavailable", renew: nothing, retry: 60, pauses: operator},
			{errcode: 99999, status: 502, code: "wechat_error", renew: nothing},
		})
	for i := range rows {
		switch rows[i].errcode {
		case 89506:
			rows[i].retry = 24 * 3600
		case 89507:
			rows[i].retry = 3600
		}
	}
	return rows
}

var errcodeTables = map[wechattest.Call][]errcodeCase{
	wechattest.Code2Session: append(commonRows(true, false),
		errcodeCase{errcode: 40001, status: 503, code: "misconfigured", renew: nothing, remedy: "AppSecret", pauses: true},
		errcodeCase{errcode: 40013, status: 503, code: "misconfigured", renew: loginCode, remedy: "appid"},
		errcodeCase{errcode: 40029, status: 400, code: "login_code_invalid", renew: loginCode},
		errcodeCase{errcode: 40163, status: 400, code: "login_code_invalid", renew: loginCode},
		errcodeCase{errcode: 40226, status: 403, code: "user_blocked"},
		errcodeCase{errcode: 87007, status: 400, code: "login_code_invalid", renew: loginCode},
		errcodeCase{errcode: 87008, status: 400, code: "login_code_invalid", renew: loginCode},
		errcodeCase{errcode: 87009, status: 400, code: "login_code_invalid", renew: loginCode},
	),
	wechattest.StableToken: append(commonRows(true, true),
		errcodeCase{errcode: 40001, status: 503, code: "misconfigured", renew: nothing, remedy: "AppSecret", pauses: true},
		errcodeCase{errcode: 40013, status: 503, code: "misconfigured", renew: nothing, remedy: "appid", pauses: true},
	),
	wechattest.PhoneNumber: append(commonRows(false, false),
		errcodeCase{errcode: 40001, status: 503, code: "misconfigured", renew: nothing, remedy: "access token"},
		errcodeCase{errcode: 40014, status: 503, code: "misconfigured", renew: nothing, remedy: "access token"},
		errcodeCase{errcode: 42001, status: 503, code: "misconfigured", renew: nothing, remedy: "access token"},
		errcodeCase{errcode: 40003, status: 400, code: "phone_code_invalid", renew: bothCodes},
		errcodeCase{errcode: 40013, status: 503, code: "misconfigured", renew: phoneCode, remedy: "appid"},
		errcodeCase{errcode: 40029, status: 400, code: "phone_code_invalid", renew: phoneCode},
		errcodeCase{errcode: 40163, status: 400, code: "phone_code_invalid", renew: phoneCode},
		errcodeCase{errcode: 40226, status: 403, code: "user_blocked"},
	),
}

func TestEveryErrcodeReachesClientAndOperator(t *testing.T) {
	for call, table := range errcodeTables {
		t.Run(string(call), func(t *testing.T) {
			t.Parallel()
			apps := miniApps(t, len(table))
			for i, row := range table {
				t.Run(strconv.Itoa(row.errcode), func(t *testing.T) { tryErrcode(t, apps[i], call, row) })
			}
		})
	}
}

func tryErrcode(t *testing.T, m mini, call wechattest.Call, row errcodeCase) {
	const ip, rid = "203.0.113.77", "65713974-7970e3f9-1a07ebbf"
	m.w.ResetCounts()
	codes := m.tap(t)
	m.inject(t, wechattest.Fault{Call: call, Kind: wechattest.Errcode, Errcode: row.errcode, Count: -1,
		Errmsg: "invalid ip " + ip + " ipv6 ::ffff:" + ip + ", not in whitelist rid: " + rid})
	a := m.login(codes)
	p := wantRefusal(t, a, row.status, row.code, row.renew)
	for _, secret := range []string{ip, rid, strconv.Itoa(row.errcode), codes.Code, codes.PhoneCode, miniSecret} {
		if len(secret) > 2 && strings.Contains(p.Detail+p.Title+p.Code, secret) {
			t.Errorf("the client is told %q: %s", secret, a.Body)
		}
	}
	if row.retry != 0 {
		if got, _ := strconv.Atoi(a.Header.Get("Retry-After")); got > row.retry || got < row.retry-5 {
			t.Errorf("Retry-After %d, want %d", got, row.retry)
		}
	}

	line := m.c.Line(t, p.RequestID)
	if line["errcode"] != float64(row.errcode) || line["rid"] != rid || line["code"] != row.code || line["appid"] != m.appid {
		t.Errorf("the log's line: %v", line)
	}
	if !slices.Equal(stringsOf(line["renew"]), row.renew) {
		t.Errorf("renew in the log: %v, want %v", line["renew"], row.renew)
	}
	remedy, _ := line["remedy"].(string)
	if !strings.Contains(remedy, row.remedy) || (remedy == "") != (row.remedy == "") {
		t.Errorf("remedy %q, want %q in it", remedy, row.remedy)
	}
	about := row.errcode == 40164 || row.errcode == 61004 || row.errcode/100 == 895
	if (line["ip"] == ip) != about {
		t.Errorf("ip in the log: %v", line["ip"])
	}
	want := severityOf(row.code)
	if call == wechattest.StableToken && row.pauses {
		// The token is fetched beside step 1, and the login then finds the call paused:
		// the fetch has a line of its own.
		loud := m.c.Log.Lines(`"level":"`+want+`"`, m.appid, `"errcode":`+strconv.Itoa(row.errcode), `"rid":"`+rid+`"`)
		if len(loud) != 1 || !strings.Contains(loud[0], row.remedy) || strings.Contains(loud[0], `"ip":"`+ip+`"`) != about {
			t.Errorf("%d lines at %s: %q", len(loud), want, loud)
		}
		want = "info"
	}
	if line["level"] != want {
		t.Errorf("level %v, want %s", line["level"], want)
	}

	asked := m.w.Count(call).Total
	switch {
	case row.errcode == -1 && call != wechattest.StableToken && asked != 3:
		t.Errorf("-1 was asked %d times, want 3", asked)
	case row.errcode == -1:
	case call == wechattest.StableToken && !row.pauses && asked > 2, (call != wechattest.StableToken || row.pauses) && asked != 1:
		t.Errorf("WeChat was asked %d times: %v", asked, m.w.Counts())
	}
	m.w.ClearFaults()
	if row.pauses {
		// As long as the pause lasts, WeChat is spared, no code is spent, and the log
		// does not cry wolf.
		second := wantRefusal(t, m.login(codes), 503, row.code, nothing)
		if n := m.w.Count(call).Total; n != asked {
			t.Errorf("asked %d times during the pause", n-asked)
		}
		if again := m.c.Line(t, second.RequestID); again["level"] == "error" {
			t.Errorf("a second error of one mistake: %v", again)
		}
		return
	}
	// What renew says is right: with just that renewed, the login succeeds, and what
	// was not to be renewed is still good.
	if row.status == 403 {
		return
	}
	m.login(m.renewed(t, codes, row.renew)).Pair(t)
	if call != wechattest.Code2Session && !slices.Contains(row.renew, "code") {
		if n := m.w.Count(wechattest.Code2Session).Total; n != 1 {
			t.Errorf("jscode2session %d times for one login code", n)
		}
	}
}

func severityOf(code string) string {
	switch code {
	case "misconfigured":
		return "error"
	case "wechat_unavailable", "wechat_error", "wechat_timeout", "user_blocked":
		return "warn"
	}
	return "info"
}

func stringsOf(v any) []string {
	var out []string
	list, _ := v.([]any)
	for _, e := range list {
		out = append(out, fmt.Sprint(e))
	}
	return out
}

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
				if n < 2 || call == wechattest.StableToken { // the token is asked for once more when it is needed
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

// transportCase is a way in which WeChat's answer does not come, or is none.
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

// tryTransport does one login under a fault and checks what must always hold.
func tryTransport(t *testing.T, m mini, f wechattest.Fault) (wechattest.Codes, rig.Answer) {
	t.Helper()
	m.w.ClearFaults()
	m.w.ResetCounts()
	codes := m.tap(t)
	if f.Kind == wechattest.Delay {
		f.Delay = 8 * time.Second // wxSite waits for one
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

// After ten failures in a row nobody is asked for a while; here the failures are ours.
func calm(t *testing.T, m mini) {
	t.Helper()
	m.w.ClearFaults()
	m.login(m.tap(t)).Pair(t)
}

func TestWeChatThatDoesNotAnswerIsBoundedAndWastesNoCode(t *testing.T) {
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
					// No code was consumed, and no code is to be renewed.
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

// held makes calls wait until release is called; it is, at the end of the test, anyway.
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

// waitUntil waits until ok.
func waitUntil(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !waitFor(ok) {
		t.Fatalf("waited in vain until %s", what)
	}
}

// waitFor is waitUntil for a goroutine beside the test's own: it gives up after a
// while.
func waitFor(ok func() bool) bool {
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// atOnce does n things side by side.
func atOnce(n int, do func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { do(i) })
	}
	all.Wait()
}

func TestRevokedAccessTokenCostsOneFetch(t *testing.T) {
	t.Parallel()
	const logins, under = 200, 120 // of them are at WeChat, which is asked by 128 at most
	w := rig.NewWeChat(t)
	c := rig.StartCaddy(t, strings.ReplaceAll(rig.HastySite(), "timeout 1s", "timeout 20s"), w.Environ("127.0.0.1:1")...)
	client := c.Client()
	first := w.Tap(t, "13800138000")
	client.Login(first.Code, first.PhoneCode).Pair(t)

	release := held(t, w, wechattest.Fault{Call: wechattest.Code2Session, Count: under})
	go func() {
		// All of these have the token that is about to die.
		waitFor(func() bool { return w.Count(wechattest.Code2Session).Total > under })
		if err := w.RevokeTokens(rig.AppID); err != nil {
			t.Error(err)
		}
		release()
	}()
	answers := make([]rig.Answer, logins)
	atOnce(logins, func(i int) {
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

func TestAThousandLoginsAtStartCostOneTokenFetch(t *testing.T) {
	t.Parallel()
	logins := 1000
	if rig.RaceDetector {
		logins = 300 // ten times as slow
	}
	w := rig.NewWeChat(t)
	c := rig.StartCaddy(t, strings.ReplaceAll(rig.HastySite(), "timeout 1s", "timeout 20s"), w.Environ("127.0.0.1:1")...)
	client := c.Client()
	codes := make([]wechattest.Codes, logins)
	for i := range codes {
		var err error
		if codes[i], err = w.Mint(rig.AppID, "", wechattest.Phone{Number: fmt.Sprintf("137%08d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	answers := make([]rig.Answer, logins)
	atOnce(logins, func(i int) { answers[i] = client.Login(codes[i].Code, codes[i].PhoneCode) })
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

func TestRateLimitSaysHowLongToWait(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	proxies := "servers {\ntrusted_proxies static 127.0.0.1/32\n}"
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
	wantRefusal(t, from("198.51.100.8", "0nonsense"), 400, "login_code_invalid", loginCode) // somebody else
}
