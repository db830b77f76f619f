package wechattest_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// control calls the control API and decodes the answer.
func (b *bench) control(method, path, body string, into any) int {
	b.t.Helper()
	a := b.must(method, "/_control/"+path, body)
	if into != nil {
		if err := json.Unmarshal([]byte(a.Raw), into); err != nil {
			b.t.Fatalf("%s: %v in %q", path, err, a.Raw)
		}
	}
	return a.Status
}

// A test in another language drives the simulator: it adds an app, mints codes, injects
// a fault and reads the counters.
func TestControlAPIPlaysAWholeTest(t *testing.T) {
	b := newBench(t)
	if got := b.control("POST", "apps", `{"appid":"wx3333333333333333","secret":"s3cret","open_platform":"company","daily_quota":{"token":0}}`, nil); got != 204 {
		t.Fatalf("new app: status %d", got)
	}
	b.want("its quota", b.must("GET", classicPath("wx3333333333333333", "s3cret"), ""), "45009")

	var codes wechattest.Codes
	b.control("POST", "codes", `{"appid":"`+appID+`","phone":"61234567","country":"852","user":"ann"}`, &codes)
	if s := b.session(codes.Code); s.OpenID != codes.OpenID || s.OpenID == "" {
		t.Errorf("session %s for %+v", s.Raw, codes)
	}
	token := b.stable(false).AccessToken
	if got := b.control("POST", "token", `{"appid":"`+appID+`","do":"revoke"}`, nil); got != 204 {
		t.Errorf("revoke: status %d", got)
	}
	b.want("revoked", b.phone(token, codes.PhoneCode, codes.OpenID), "40001")
	token = b.stable(false).AccessToken
	b.control("POST", "token", `{"appid":"`+appID+`","do":"rotate"}`, nil)
	b.want("rotated", b.phone(token, codes.PhoneCode, codes.OpenID), "40001")
	token = b.stable(false).AccessToken

	if got := b.control("POST", "faults", `{"call":"getuserphonenumber","kind":"errcode","errcode":45011,"count":2,"delay":"1ms"}`, nil); got != 204 {
		t.Errorf("fault: status %d", got)
	}
	b.want("fault", b.phone(token, codes.PhoneCode, codes.OpenID), "45011")
	if got := b.control("DELETE", "faults", "", nil); got != 204 {
		t.Errorf("faults deleted: status %d", got)
	}
	if p := b.phone(token, codes.PhoneCode, codes.OpenID); p.PhoneInfo.PhoneNumber != "+85261234567" {
		t.Errorf("phone %s", p.Raw)
	}
	var paid []wechattest.PhoneCode
	b.control("GET", "phonecodes", "", &paid)
	if len(paid) != 1 || paid[0].Exchanged.IsZero() || paid[0].Shown != 1 || paid[0].Phone.Country != "852" {
		t.Errorf("phone codes %+v", paid)
	}

	var counts map[wechattest.Call]wechattest.Count
	b.control("GET", "counts", "", &counts)
	if n := counts[wechattest.PhoneNumber]; n.Total != 4 || n.Outcomes["40001"] != 2 || n.Outcomes["ok"] != 1 || n.Outcomes["errcode"] != 1 {
		t.Errorf("counts %+v", counts)
	}
	b.control("DELETE", "counts", "", nil)
	clear(counts)
	b.control("GET", "counts", "", &counts)
	if len(counts) != 0 {
		t.Errorf("counts after reset %+v", counts)
	}

	var clock struct{ Now time.Time }
	before := b.Now()
	b.control("POST", "clock", `{"advance":"5m"}`, &clock)
	if got := clock.Now.Sub(before); got != 5*time.Minute {
		t.Errorf("the clock moved by %v", got)
	}
	b.control("GET", "clock", "", &clock)
	if !clock.Now.Equal(b.Now()) {
		t.Errorf("the clock says %v", clock.Now)
	}

	b.control("POST", "apps", `{"appid":"`+appID+`","frozen":true}`, nil)
	b.want("an altered app keeps its secret", b.stable(false), "40243")

	var secrets []string
	b.control("GET", "secrets", "", &secrets)
	for _, s := range []string{secret, "s3cret", codes.Code, codes.PhoneCode, token, "61234567"} {
		if !slices.Contains(secrets, s) {
			t.Errorf("%q is not among the secrets", s)
		}
	}
}

// A mini program without the phone button needs a login code only.
func TestControlMintsLoginCodeAlone(t *testing.T) {
	b := newBench(t)
	var codes wechattest.Codes
	b.control("POST", "codes", `{"appid":"`+appID+`","user":"ann"}`, &codes)
	if codes.Code == "" || codes.PhoneCode != "" || len(b.PhoneCodes()) != 0 {
		t.Errorf("codes %+v", codes)
	}
}

// A typing mistake in a test must be an error, not a fault that never happens.
func TestControlRefusesMistakes(t *testing.T) {
	b := newBench(t)
	tests := []struct {
		method, path, body string
		want               int
	}{
		{"POST", "codes", `{"appid":"wx9","phone":"13800138000"}`, 400},
		{"POST", "codes", `{"appid":"` + appID + `"}`, 400},
		{"POST", "codes", `{"appid":"` + appID + `","phone":"+8613800138000"}`, 400},
		{"POST", "codes", `{"appid":"` + appID + `","fone":"13800138000"}`, 400},
		{"POST", "codes", `{} {}`, 400},
		{"POST", "faults", `{"kind":"resett"}`, 400},
		{"POST", "faults", `{"kind":"reset","after":true}`, 400},
		{"POST", "faults", `{"kind":"delay","delay":"soon"}`, 400},
		{"POST", "apps", `{"appid":"wx9"}`, 400},
		{"POST", "apps", `{"appid":"` + appID + `","frozn":true}`, 400},
		{"POST", "token", `{"appid":"` + appID + `","do":"eat"}`, 400},
		{"POST", "clock", `{"advance":"a while"}`, 400},
		{"GET", "codes", ``, 405},
		{"GET", "nothing", ``, 404},
	}
	for _, tt := range tests {
		if got := b.control(tt.method, tt.path, tt.body, nil); got != tt.want {
			t.Errorf("%s %s %s: status %d, want %d", tt.method, tt.path, tt.body, got, tt.want)
		}
	}
	b.want("nothing was injected or altered", b.stable(false), "0")
}

// A fault sent to the control API must arrive as it was written.
func TestFaultSurvivesJSON(t *testing.T) {
	want := wechattest.Fault{Call: wechattest.StableToken, Kind: wechattest.Delay, Count: 3, Late: true, Delay: 1500 * time.Millisecond}
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got wechattest.Fault
	if err := json.Unmarshal(raw, &got); err != nil || got != want {
		t.Errorf("%s became %+v (%v)", raw, got, err)
	}
}

// Two simulators run in one process. Their codes and tokens are separate, but a user
// has the same openid in both, as after a restart.
func TestSimulatorsShareNothing(t *testing.T) {
	one, two := newBench(t), newBench(t)
	c := one.mint("ann")
	two.want("a code of another simulator", two.session(c.Code), "40029")
	if two.mint("ann").OpenID != c.OpenID {
		t.Error("a user's openid differs between simulators, so a restart would forget the users")
	}
}

// A test that forgets an app's secret should fail at its start.
func TestNewPanicsOnAWrongApp(t *testing.T) {
	defer func() {
		if got := fmt.Sprint(recover()); got != "wechattest: an app needs an id and a secret" {
			t.Errorf("panic %q", got)
		}
	}()
	wechattest.New(wechattest.Options{Apps: []wechattest.App{{ID: "wx9"}}})
}
