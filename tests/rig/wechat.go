package rig

import (
	"slices"
	"sync"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// The mini program that NewWeChat knows.
const (
	AppID  = "wx0123456789abcdef"
	Secret = "5ec2e70000000000000000000000beef"
)

// WeChat is the simulator on a port of 127.0.0.1.
type WeChat struct {
	*wechattest.Simulator
	URL string // for `wechat { api … }`
}

// NewWeChat starts the simulator, with one app, for the time of the test.
func NewWeChat(t testing.TB) *WeChat {
	t.Helper()
	sim := wechattest.New(wechattest.Options{Apps: []wechattest.App{{ID: AppID, Secret: Secret}}})
	return &WeChat{Simulator: sim, URL: "http://" + Serve(t, sim)}
}

// Tap plays a tap on the phone button by the owner of that +86 number: both codes
// of a phone login.
func (w *WeChat) Tap(t testing.TB, number string) wechattest.Codes {
	t.Helper()
	codes, err := w.Mint(AppID, "", wechattest.Phone{Number: number})
	if err != nil {
		t.Fatal(err)
	}
	return codes
}

// Open plays wx.login on the same phone: a login code alone.
func (w *WeChat) Open(t testing.TB, number string) wechattest.Codes {
	t.Helper()
	codes, err := w.MintLogin(AppID, "+86"+number)
	if err != nil {
		t.Fatal(err)
	}
	return codes
}

// Environ is the variables of HastySite.
func (w *WeChat) Environ(upstream string) []string {
	return []string{"WX_APPID=" + AppID, "WX_SECRET=" + Secret, "WX_API=" + w.URL, "UPSTREAM=" + upstream}
}

// Asked is how often WeChat was asked anything.
func (w *WeChat) Asked() int {
	n := 0
	for _, c := range w.Counts() {
		n += c.Total
	}
	return n
}

// TapAs plays a tap on the phone button by somebody whose number need not be their
// own any more, or not from China.
func (w *WeChat) TapAs(t testing.TB, appid, person string, phone wechattest.Phone) wechattest.Codes {
	t.Helper()
	codes, err := w.Mint(appid, person, phone)
	if err != nil {
		t.Fatal(err)
	}
	return codes
}

func (w *WeChat) OpenAs(t testing.TB, appid, person string) wechattest.Codes {
	t.Helper()
	codes, err := w.MintLogin(appid, person)
	if err != nil {
		t.Fatal(err)
	}
	return codes
}

// Hold makes the next such call wait until the returned function is called, which
// happens at the test's end at the latest.
func (w *WeChat) Hold(t testing.TB, call wechattest.Call) (release func()) {
	t.Helper()
	gate := make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	if err := w.Inject(wechattest.Fault{Call: call, Kind: wechattest.Delay, Hold: gate}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return release
}

func (w *WeChat) PhoneOK() int { return w.Count(wechattest.PhoneNumber).Outcomes["ok"] }

// Exchanged says that WeChat has taken a phone code; a held answer counts as late.
func (w *WeChat) Exchanged() bool {
	return slices.ContainsFunc(w.PhoneCodes(), func(p wechattest.PhoneCode) bool { return !p.Exchanged.IsZero() })
}

// WantCalls checks how often WeChat was asked for a login code and for a phone code.
func WantCalls(t *testing.T, w *WeChat, sessions, phones int) {
	t.Helper()
	if n := w.Count(wechattest.Code2Session).Total; n != sessions {
		t.Errorf("jscode2session was called %d times, want %d", n, sessions)
	}
	if n := w.Count(wechattest.PhoneNumber).Total; n != phones {
		t.Errorf("getuserphonenumber was called %d times, want %d", n, phones)
	}
}
