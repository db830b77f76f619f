package wechattest_test

import (
	"encoding/base64"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

const otherApp = "wx2222222222222222"

// The three calls of a phone login, as a mini program's server makes them.
func TestPhoneLoginGoesThrough(t *testing.T) {
	b := newBench(t)
	codes := b.mint("")
	s := b.session(codes.Code)
	b.want("jscode2session", s, "0")
	if s.OpenID != codes.OpenID || len(s.OpenID) != 28 {
		t.Errorf("openid %q, want %q, 28 characters", s.OpenID, codes.OpenID)
	}
	if key, err := base64.StdEncoding.DecodeString(s.SessionKey); err != nil || len(key) != 16 {
		t.Errorf("session_key %q is not 16 bytes in base64", s.SessionKey)
	}
	if s.Errcode != nil {
		t.Errorf("production sends no errcode with a session, got %s", s.Errcode)
	}
	if s.ContentType != "text/plain" {
		t.Errorf("content type %q, want text/plain", s.ContentType)
	}
	p := b.phone(b.stable(false).AccessToken, codes.PhoneCode, s.OpenID)
	b.want("getuserphonenumber", p, "0")
	if p.PhoneInfo.PurePhoneNumber != "13800138000" || string(p.PhoneInfo.CountryCode) != `"86"` {
		t.Errorf("phone_info %+v", p.PhoneInfo)
	}
	if w := p.PhoneInfo.Watermark; w.AppID != appID || w.Timestamp != b.Now().Unix() {
		t.Errorf("watermark %+v", w)
	}
}

// WeChat returns a unionid only for apps that are bound to an Open Platform account.
func TestUnionIDOnlyWithOpenPlatform(t *testing.T) {
	b := newBench(t)
	c, _ := b.MintLogin(appID, "ann")
	if s := b.session(c.Code); s.UnionID != nil || strings.Contains(s.Raw, "unionid") {
		t.Errorf("an app without Open Platform account got a unionid: %s", s.Raw)
	}
	b.AlterApp(appID, func(a *wechattest.App) { a.OpenPlatform = "company" })
	b.AddApp(wechattest.App{ID: otherApp, Secret: secret, OpenPlatform: "company"})
	one, _ := b.MintLogin(appID, "ann")
	two, _ := b.MintLogin(otherApp, "ann")
	if one.UnionID == "" || one.UnionID != two.UnionID {
		t.Errorf("unionids %q and %q, want the same one", one.UnionID, two.UnionID)
	}
	if one.OpenID == two.OpenID {
		t.Error("two apps have the same openid for a user")
	}
	s := b.session(one.Code)
	if s.UnionID == nil || *s.UnionID != one.UnionID {
		t.Errorf("answer %s, want unionid %s", s.Raw, one.UnionID)
	}
}

// WeChat's rules for login codes: once, within five minutes, for one app.
func TestLoginCodeRules(t *testing.T) {
	tests := []struct {
		name string
		play func(*bench) answer
		want string
	}{
		{"used twice", func(b *bench) answer {
			c := b.mint("ann").Code
			b.session(c)
			return b.session(c)
		}, "40163"},
		{"unknown", func(b *bench) answer { return b.session("0abc") }, "40029"},
		{"a phone code is none", func(b *bench) answer { return b.session(b.mint("ann").PhoneCode) }, "40029"},
		{"just in time", func(b *bench) answer {
			c := b.mint("ann").Code
			b.Advance(5*time.Minute - time.Second)
			return b.session(c)
		}, "0"},
		{"too late", func(b *bench) answer {
			c := b.mint("ann").Code
			b.Advance(5 * time.Minute)
			return b.session(c)
		}, "40029"},
		{"another app's", func(b *bench) answer {
			b.AddApp(wechattest.App{ID: otherApp, Secret: secret})
			c, _ := b.MintLogin(otherApp, "ann")
			return b.session(c.Code)
		}, "40013"},
		{"a refused app does not consume it", func(b *bench) answer {
			c := b.mint("ann").Code
			b.AddApp(wechattest.App{ID: otherApp, Secret: secret})
			b.must("GET", sessionPath(otherApp, secret, c), "")
			return b.session(c)
		}, "0"},
		{"a wrong secret does not consume it", func(b *bench) answer {
			c := b.mint("ann").Code
			b.must("GET", sessionPath(appID, "wrong", c), "")
			return b.session(c)
		}, "0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.want(tt.name, tt.play(b), tt.want)
		})
	}
}

// WeChat's rules for phone codes: once, within five minutes, for one app and one user.
func TestPhoneCodeRules(t *testing.T) {
	tests := []struct {
		name string
		play func(b *bench, token string) answer
		want string
	}{
		{"used twice", func(b *bench, token string) answer {
			c := b.mint("ann").PhoneCode
			b.phone(token, c, "")
			return b.phone(token, c, "")
		}, "40029"},
		{"unknown", func(b *bench, token string) answer { return b.phone(token, "feed", "") }, "40029"},
		{"a login code is none", func(b *bench, token string) answer { return b.phone(token, b.mint("ann").Code, "") }, "40029"},
		{"just in time", func(b *bench, token string) answer {
			c := b.mint("ann").PhoneCode
			b.Advance(5*time.Minute - time.Second)
			return b.phone(token, c, "")
		}, "0"},
		{"too late", func(b *bench, token string) answer {
			c := b.mint("ann").PhoneCode
			b.Advance(5 * time.Minute)
			return b.phone(token, c, "")
		}, "40029"},
		{"another app's", func(b *bench, token string) answer {
			b.AddApp(wechattest.App{ID: otherApp, Secret: secret})
			c, _ := b.MintPhone(otherApp, "ann", mobile)
			return b.phone(token, c, "")
		}, "40029"},
		{"another user's openid", func(b *bench, token string) answer {
			return b.phone(token, b.mint("ann").PhoneCode, b.mint("bob").OpenID)
		}, "40003"},
		{"a refused openid does not consume it", func(b *bench, token string) answer {
			c := b.mint("ann")
			b.phone(token, c.PhoneCode, "onobody")
			return b.phone(token, c.PhoneCode, c.OpenID)
		}, "0"},
		{"an empty openid", func(b *bench, token string) answer {
			return b.must("POST", phonePath(token), `{"code":"`+b.mint("ann").PhoneCode+`","openid":""}`)
		}, "40003"},
		{"no openid", func(b *bench, token string) answer { return b.phone(token, b.mint("ann").PhoneCode, "") }, "0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.want(tt.name, tt.play(b, b.stable(false).AccessToken), tt.want)
		})
	}
}

// Eight requests present the same codes at once. Exactly one of each kind may succeed.
func TestCodesWorkOnceUnderConcurrency(t *testing.T) {
	b := newBench(t)
	codes, token := b.mint("ann"), b.stable(false).AccessToken
	var mu sync.Mutex
	got := map[string]int{}
	together(8, func() {
		s, err1 := b.do("GET", sessionPath(appID, secret, codes.Code), "")
		p, err2 := b.do("POST", phonePath(token), phoneBody(codes.PhoneCode, codes.OpenID))
		mu.Lock()
		defer mu.Unlock()
		if err1 != nil || err2 != nil {
			t.Error(err1, err2)
		}
		got["session "+s.code()]++
		got["phone "+p.code()]++
	})
	if got["session 0"] != 1 || got["session 40163"] != 7 || got["phone 0"] != 1 || got["phone 40029"] != 7 {
		t.Errorf("answers %v, want one success of each", got)
	}
}

// The number of a user outside the mainland has WeChat's documented form.
func TestForeignNumbers(t *testing.T) {
	tests := []struct {
		phone  wechattest.Phone
		number bool
		full   string
		code   string
	}{
		{wechattest.Phone{Number: "13800138000"}, false, "13800138000", `"86"`},
		{wechattest.Phone{Country: "86", Number: "13800138000"}, true, "13800138000", `86`},
		{wechattest.Phone{Country: "852", Number: "61234567"}, false, "+85261234567", `"852"`},
		{wechattest.Phone{Country: "81", Number: "9012345678"}, true, "+819012345678", `81`},
	}
	for _, tt := range tests {
		b := newBench(t, func(a *wechattest.App) { a.NumberCountryCode = tt.number })
		c, err := b.Mint(appID, "ann", tt.phone)
		if err != nil {
			t.Fatal(err)
		}
		info := b.phone(b.stable(false).AccessToken, c.PhoneCode, c.OpenID).PhoneInfo
		if info.PhoneNumber != tt.full || info.PurePhoneNumber != tt.phone.Number || string(info.CountryCode) != tt.code {
			t.Errorf("%+v: %+v", tt.phone, info)
		}
	}
}

// A phone number may be stamped with another app, or with a time in the past, so that a
// client can be tested for checking both.
func TestWatermarkOfAnotherAppOrTime(t *testing.T) {
	b := newBench(t, func(a *wechattest.App) { a.WatermarkAppID, a.WatermarkShift = otherApp, -3600 })
	w := b.phone(b.stable(false).AccessToken, b.mint("ann").PhoneCode, "").PhoneInfo.Watermark
	if w.AppID != otherApp || w.Timestamp != b.Now().Add(-time.Hour).Unix() {
		t.Errorf("watermark %+v", w)
	}
}

// A phone code costs money, so a test can ask for each one whether it was exchanged,
// presented again, or lost.
func TestPaidPhoneCodesAreAccountedFor(t *testing.T) {
	b := newBench(t)
	token := b.stable(false).AccessToken
	kept, used, lost := b.mint("ann"), b.mint("bob"), b.mint("cid")
	b.phone(token, used.PhoneCode, used.OpenID)
	b.phone(token, used.PhoneCode, used.OpenID)
	b.inject(wechattest.Fault{Call: wechattest.PhoneNumber, Kind: wechattest.Status, Late: true})
	b.phone(token, lost.PhoneCode, lost.OpenID)
	tests := []struct {
		code      string
		exchanged bool
		shown     int
		lost      bool
	}{{kept.PhoneCode, false, 0, false}, {used.PhoneCode, true, 2, false}, {lost.PhoneCode, true, 1, true}}
	account := b.PhoneCodes()
	if len(account) != len(tests) {
		t.Fatalf("%d phone codes, want %d", len(account), len(tests))
	}
	for i, tt := range tests {
		p := account[i]
		if p.Code != tt.code || p.Exchanged.IsZero() == tt.exchanged || p.Shown != tt.shown || p.Lost != tt.lost || p.Phone != mobile {
			t.Errorf("phone code %d: %+v, want %+v", i, p, tt)
		}
	}
}

// A test must not mint codes that no phone could send.
func TestMintRefusesWhatNoPhoneCouldSend(t *testing.T) {
	b := newBench(t)
	if _, err := b.Mint("wx9", "ann", mobile); err == nil {
		t.Error("a code for an unknown app")
	}
	if _, err := b.MintLogin(appID, ""); err == nil {
		t.Error("a login code for nobody")
	}
	for _, p := range []wechattest.Phone{{}, {Number: "+8613800138000"}, {Country: "+86", Number: "138"}} {
		if _, err := b.Mint(appID, "ann", p); err == nil {
			t.Errorf("a code for the number %+v", p)
		}
	}
}
