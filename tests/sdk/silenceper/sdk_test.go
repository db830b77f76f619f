// Package silenceper logs in at cmd/wx-sim with a WeChat SDK from another team. It is a
// separate module, so that no build of the gateway has that SDK.
package silenceper

import (
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/silenceper/wechat/v2/cache"
	"github.com/silenceper/wechat/v2/miniprogram"
	"github.com/silenceper/wechat/v2/miniprogram/config"
	"github.com/silenceper/wechat/v2/util"
)

// toSimulator sends requests for WeChat to the simulator.
type toSimulator struct{ host string }

func (s toSimulator) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", s.host
	return http.DefaultTransport.RoundTrip(r)
}

// A backend in Go works without the gateway: it sends the login code and the phone code, and
// each code twice. The environment names the simulator and the codes of a person's phone.
func TestSDKLogsInAtTheSimulator(t *testing.T) {
	base, err := url.Parse(os.Getenv("WX_API"))
	if err != nil || base.Host == "" {
		t.Skip("LEFT OUT: WX_API names no simulator; TestSimulatorServesOtherSDKs in tests/ does")
	}
	util.DefaultHTTPClient = &http.Client{Transport: toSimulator{base.Host}}
	http.DefaultClient = util.DefaultHTTPClient
	auth := miniprogram.NewMiniProgram(&config.Config{
		AppID: os.Getenv("WX_APPID"), AppSecret: os.Getenv("WX_SECRET"), Cache: cache.NewMemory(),
	}).GetAuth()
	session, err := auth.Code2Session(os.Getenv("CODE"))
	if err != nil {
		t.Fatal(err)
	}
	if session.OpenID != os.Getenv("OPENID") || session.SessionKey == "" {
		t.Errorf("the session is %+v", session)
	}
	phone, err := auth.GetPhoneNumber(os.Getenv("PHONE_CODE"))
	if err != nil {
		t.Fatal(err)
	}
	if phone.PhoneInfo.PurePhoneNumber != "13800138000" {
		t.Errorf("the phone is %+v", phone.PhoneInfo)
	}
	if _, err := auth.Code2Session(os.Getenv("CODE")); err == nil || !strings.Contains(err.Error(), "40163") {
		t.Errorf("a used login code: %v", err)
	}
	if _, err := auth.GetPhoneNumber(os.Getenv("PHONE_CODE")); err == nil || !strings.Contains(err.Error(), "40029") {
		t.Errorf("a used phone code: %v", err)
	}
}
