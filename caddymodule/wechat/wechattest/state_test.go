package wechattest_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// A developer restarts the simulator in the middle of a login. The codes on the phone
// and the token in the server's cache must still work, and used codes must stay used.
func TestStateOutlivesARestart(t *testing.T) {
	first := newBench(t, func(a *wechattest.App) { a.DailyQuota = map[wechattest.Call]int{wechattest.Code2Session: 2} })
	first.Advance(time.Hour)
	used, open := first.mint(""), first.mint("")
	first.want("jscode2session", first.session(used.Code), "0")
	token := first.stable(false).AccessToken
	var kept bytes.Buffer
	if err := first.Save(&kept); err != nil {
		t.Fatal(err)
	}

	next := newBench(t)
	if err := next.Load(&kept); err != nil {
		t.Fatal(err)
	}
	if !next.Now().Equal(first.Now()) {
		t.Errorf("the clock is at %v, want %v", next.Now(), first.Now())
	}
	next.want("a used code", next.session(used.Code), "40163")
	if got := next.stable(false).AccessToken; got != token {
		t.Error("the stable token is another one")
	}
	next.want("a phone code from before", next.phone(token, open.PhoneCode, open.OpenID), "0")
	next.AlterApp(appID, func(a *wechattest.App) { a.DailyQuota = map[wechattest.Call]int{wechattest.Code2Session: 2} })
	next.want("the third of two calls", next.session(open.Code), "45009")
	if err := next.Load(strings.NewReader("[]")); err == nil {
		t.Error("an array was taken for a state")
	}
}

// In DevTools without an AppID, wx.login returns the same text to every developer.
// WeChat refuses it; a simulator may accept it as one person's code, any number of
// times.
func TestMockCodeIsOnePerson(t *testing.T) {
	b := newBench(t)
	b.want("the mock code at first", b.session(wechattest.MockCode), "40029")
	b.AcceptMockCode("devtools")
	codes, err := b.MintLogin(appID, "devtools")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if a := b.session(wechattest.MockCode); a.OpenID != codes.OpenID {
			t.Errorf("%s, want the openid %q", a.Raw, codes.OpenID)
		}
	}
}
