package tests

import (
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
	return &WeChat{Simulator: sim, URL: "http://" + serve(t, sim)}
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
