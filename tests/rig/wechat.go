package rig

import (
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// These are the id and the secret of the mini program that NewWeChat knows.
const (
	AppID  = "wx0123456789abcdef"
	Secret = "5ec2e70000000000000000000000beef"
)

// WeChat is the simulator on a port of 127.0.0.1.
type WeChat struct {
	*wechattest.Simulator
	URL string // for `wechat { api … }`

	server *http.Server
}

// NewWeChat starts the simulator, with one app, for the time of the test.
func NewWeChat(t testing.TB) *WeChat {
	t.Helper()
	sim := wechattest.New(wechattest.Options{Apps: []wechattest.App{{ID: AppID, Secret: Secret}}})
	addr, server := serve(t, sim)
	return &WeChat{Simulator: sim, URL: "http://" + addr, server: server}
}

// HangUp closes the connections that wait for a further request, as WeChat's servers do after
// a while. The gateway would keep them for longer than a test can wait.
func (w *WeChat) HangUp() {
	w.server.SetKeepAlivesEnabled(false)
	w.server.SetKeepAlivesEnabled(true)
}

// Tap simulates a tap on the phone button by the owner of that +86 number, which gives
// both codes of a phone login.
func (w *WeChat) Tap(t testing.TB, number string) wechattest.Codes {
	t.Helper()
	codes, err := w.Mint(AppID, "", wechattest.Phone{Number: number})
	if err != nil {
		t.Fatal(err)
	}
	return codes
}

// Open simulates wx.login on the same phone, which gives only a login code.
func (w *WeChat) Open(t testing.TB, number string) wechattest.Codes {
	t.Helper()
	codes, err := w.MintLogin(AppID, "+86"+number)
	if err != nil {
		t.Fatal(err)
	}
	return codes
}

// Environ returns the environment variables of HastySite.
func (w *WeChat) Environ(upstream string) []string {
	return []string{"WX_APPID=" + AppID, "WX_SECRET=" + Secret, "WX_API=" + w.URL, "UPSTREAM=" + upstream}
}

// Asked returns how many calls WeChat has received.
func (w *WeChat) Asked() int {
	n := 0
	for _, c := range w.Counts() {
		n += c.Total
	}
	return n
}

// TapAs simulates a tap on the phone button. The person's number may not be theirs any more,
// or may be from another country.
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

// NewNumber simulates a tap on the phone button by a person who has another number now.
// It returns only the phone code, as a change of number needs no other.
func (w *WeChat) NewNumber(t testing.TB, appid, person, number string) string {
	t.Helper()
	code, err := w.MintPhone(appid, person, wechattest.Phone{Number: number})
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// Hold makes the next such call wait until release is called, at the latest at the end
// of the test.
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

// Exchanged reports whether WeChat has accepted a phone code, even if its answer is
// held back.
func (w *WeChat) Exchanged() bool {
	return slices.ContainsFunc(w.PhoneCodes(), func(p wechattest.PhoneCode) bool { return !p.Exchanged.IsZero() })
}

// WantCalls checks how many login codes and phone codes WeChat has received.
func WantCalls(t *testing.T, w *WeChat, sessions, phones int) {
	t.Helper()
	if n := w.Count(wechattest.Code2Session).Total; n != sessions {
		t.Errorf("jscode2session was called %d times, want %d", n, sessions)
	}
	if n := w.Count(wechattest.PhoneNumber).Total; n != phones {
		t.Errorf("getuserphonenumber was called %d times, want %d", n, phones)
	}
}
