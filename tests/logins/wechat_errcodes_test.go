package logins

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// errcodeCase is a row of WeChat's error table for one call.
type errcodeCase struct {
	errcode int
	status  int
	code    string
	renew   []string // nil: the member must be absent
	retry   int      // Retry-After in seconds; 0: any value if the status requires one
	remedy  string   // part of the log's remedy; "": the client's fault, so the line has none
	// pauses means that WeChat is not asked again for a while, because asking would
	// change nothing or make it worse.
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

// commonRows returns the rows that mean the same for every call. credentials says
// whether the call carries the secret.
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
			{errcode: -1, status: 503, code: "wechat_unavailable", renew: nothing, remedy: "by themselves"},
			{errcode: 45009, status: 503, code: "wechat_unavailable", renew: nothing, retry: 600, remedy: "quota", pauses: true},
			{errcode: 45011, status: 503, code: "wechat_unavailable", renew: nothing, retry: 60, remedy: "by themselves", pauses: operator},
			{errcode: 99999, status: 502, code: "wechat_error", renew: nothing, remedy: "by themselves"},
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
		errcodeCase{errcode: 40226, status: 403, code: "user_blocked", remedy: "risk control"},
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
		errcodeCase{errcode: 40226, status: 403, code: "user_blocked", remedy: "risk control"},
	),
}

// For every documented errcode: the client gets the right code and knows what to renew,
// and the operator gets a log line with the remedy.
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
	advice := row.remedy
	if call == wechattest.StableToken && row.pauses && row.errcode == 45011 {
		advice = "" // WeChat's own fault is in the line of the fetch only
	}
	if remedy, _ := line["remedy"].(string); !strings.Contains(remedy, advice) || (remedy == "") != (advice == "") {
		t.Errorf("remedy %q, want %q in it", remedy, advice)
	}
	about := row.errcode == 40164 || row.errcode == 61004 || row.errcode/100 == 895
	if (line["ip"] == ip) != about {
		t.Errorf("ip in the log: %v", line["ip"])
	}
	want := severityOf(row.code)
	if call == wechattest.StableToken && row.pauses {
		// The token is fetched beside step 1, and the login then finds the call paused,
		// so the fetch has a log line of its own.
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
		// During the pause WeChat is not called, no code is spent, and the log does not
		// repeat the error.
		second := wantRefusal(t, m.login(codes), 503, row.code, nothing)
		if n := m.w.Count(call).Total; n != asked {
			t.Errorf("asked %d times during the pause", n-asked)
		}
		if again := m.c.Line(t, second.RequestID); again["level"] == "error" {
			t.Errorf("a second error of one mistake: %v", again)
		}
		return
	}
	// The answer's `renew` is right: with exactly those codes renewed, the login
	// succeeds, so the other code was still good.
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
