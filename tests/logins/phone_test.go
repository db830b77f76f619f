package logins

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// Alice has a new SIM card. She keeps her account and her session, and everything that is
// shown about her has the new number. The old number belongs to nobody.
func TestUserChangesTheNumber(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, withKey, "require /pay/* phone_within 15m")
	codes := g.WeChat.TapAs(t, rig.AppID, "alice", wechattest.Phone{Number: someNumber})
	alice := g.Login(codes.Code, codes.PhoneCode).Pair(t)
	tablet := g.Silent(g.WeChat.OpenAs(t, rig.AppID, "alice").Code).Pair(t)
	tap := g.WeChat.NewNumber(t, rig.AppID, "alice", anotherOne)
	a := g.ChangePhone(alice.Token, tap)
	c := a.Changed(t)
	rig.WantMembers(t, a.Body, "token", "expiresIn", "userInfo")
	if a.Header.Get("Cache-Control") != "no-store" || !about(c.ExpiresIn, 3600) {
		t.Errorf("%v %s", a.Header, a.Body)
	}
	if u := c.UserInfo; u.ID != alice.UserInfo.ID || u.PhoneNumber != "+86"+anotherOne || u.PurePhoneNumber != anotherOne || u.CountryCode != "86" || u.IsNew {
		t.Errorf("%+v", u)
	}
	if rig.SessionOf(t, c.Token) != rig.SessionOf(t, alice.Token) {
		t.Error("the session is another one")
	}
	before, _ := rig.JWTPart(t, alice.Token, 1)["auth_time"].(float64)
	after, _ := rig.JWTPart(t, c.Token, 1)["auth_time"].(float64)
	if after < before || after == 0 {
		t.Errorf("auth_time %v, then %v", before, after)
	}
	seen := g.Get("/pay/order", c.Token).Seen(t)
	seen.WantHeader(t, "X-WX-USER-ID", alice.UserInfo.ID)
	seen.WantHeader(t, "X-WX-PHONE", "+86"+anotherOne)
	if me := g.Me(tablet.Token).UserInfo(t); me.PhoneNumber != "+86"+anotherOne {
		t.Errorf("me: %+v", me)
	}
	g.WantAlive(t, alice) // her sessions go on
	for _, p := range []rig.Pair{alice, tablet} {
		g.Get("/", g.Refresh(p.RefreshToken).Pair(t).Token).Seen(t).WantHeader(t, "X-WX-PHONE", "+86"+anotherOne)
	}
	if silent := g.Silent(g.WeChat.OpenAs(t, rig.AppID, "alice").Code).Pair(t); silent.UserInfo.PhoneNumber != "+86"+anotherOne || silent.UserInfo.ID != alice.UserInfo.ID {
		t.Errorf("silently: %+v", silent.UserInfo)
	}
	codes = g.WeChat.TapAs(t, rig.AppID, "bob", wechattest.Phone{Number: someNumber})
	if bob := g.Login(codes.Code, codes.PhoneCode).Pair(t); !bob.UserInfo.IsNew || bob.UserInfo.ID == alice.UserInfo.ID {
		t.Errorf("with the old number: %+v", bob.UserInfo)
	}

	line := g.Caddy.Log.Wait(t, 20*time.Second, `"msg":"change of number"`, rig.SessionOf(t, c.Token))
	for _, want := range []string{`"phone":"+86139****9000"`, `"user":"` + alice.UserInfo.ID + `"`, `"getuserphonenumber":`} {
		if !strings.Contains(line, want) {
			t.Errorf("%s is missing in %s", want, line)
		}
	}
	g.Caddy.Log.Wait(t, 20*time.Second, `"name":"wx_auth_phone_changed"`, `+86139****9000`, rig.SessionOf(t, c.Token))
	for _, line := range append(g.Caddy.Log.Lines(`"logger":"http.handlers.wx_auth"`), g.Caddy.Log.Lines(`"logger":"events"`)...) {
		if strings.Contains(line, someNumber) || strings.Contains(line, anotherOne) || strings.Contains(line, tap) {
			t.Errorf("a number or a code is in the log: %s", line)
		}
	}
}

// The answer was lost, or the client did not wait for it. The same request sent again gets the
// same answer, and the paid code is exchanged only once.
func TestChangeThatIsSentAgain(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t)
	codes := g.WeChat.TapAs(t, rig.AppID, "alice", wechattest.Phone{Number: someNumber})
	alice := g.Login(codes.Code, codes.PhoneCode).Pair(t)
	tap := g.WeChat.NewNumber(t, rig.AppID, "alice", anotherOne)
	release := g.WeChat.Hold(t, wechattest.PhoneNumber)
	first := rig.InBackground(func() rig.Answer { return g.ChangePhone(alice.Token, tap) })
	rig.Await(t, 20*time.Second, "WeChat is asked", func() bool { return g.WeChat.Count(wechattest.PhoneNumber).Total == 2 })
	second := rig.InBackground(func() rig.Answer { return g.ChangePhone(alice.Token, tap) })
	release()
	a, b := (<-first).Changed(t), (<-second).Changed(t)
	late := g.ChangePhone(g.Refresh(alice.RefreshToken).Pair(t).Token, tap).Changed(t)
	for _, c := range []rig.Changed{b, late} {
		if c.UserInfo != a.UserInfo || rig.JWTPart(t, c.Token, 1)["auth_time"] != rig.JWTPart(t, a.Token, 1)["auth_time"] || rig.SessionOf(t, c.Token) != rig.SessionOf(t, a.Token) {
			t.Errorf("%+v, then %+v", a.UserInfo, c.UserInfo)
		}
	}
	if n := g.WeChat.Count(wechattest.PhoneNumber).Total; n != 2 {
		t.Errorf("getuserphonenumber was called %d times", n)
	}
	if n := len(g.Caddy.Log.Lines(`"name":"wx_auth_phone_changed"`)); n != 1 {
		t.Errorf("%d events", n)
	}
	// A request that arrives very late must not undo the next change.
	g.ChangePhone(alice.Token, g.WeChat.NewNumber(t, rig.AppID, "alice", "13700137000")).Changed(t)
	wantRefusal(t, g.ChangePhone(alice.Token, tap), http.StatusBadRequest, "phone_code_invalid", []string{"phoneCode"})
	if me := g.Me(alice.Token).UserInfo(t); me.PhoneNumber != "+8613700137000" {
		t.Errorf("%+v", me)
	}
}

// Every refusal leaves the number as it is, and says whether the code must be renewed.
func TestChangeThatIsRefused(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, withKey)
	login := func(who, number string) rig.Pair {
		t.Helper()
		codes := g.WeChat.TapAs(t, rig.AppID, who, wechattest.Phone{Number: number})
		return g.Login(codes.Code, codes.PhoneCode).Pair(t)
	}
	alice, bob := login("alice", someNumber), login("bob", anotherOne)
	tap := func(who, number string) string { return g.WeChat.NewNumber(t, rig.AppID, who, number) }
	phone := func(body any, headers ...string) rig.Answer {
		return g.Do(http.MethodPost, "/auth/wx/phone", body, append(rig.Bearer(alice.Token), headers...)...)
	}
	const next = "13700137000"
	good := tap("alice", next)
	wantRefusal(t, g.ChangePhone("", good), http.StatusUnauthorized, "token_missing", nil)
	wantRefusal(t, g.ChangePhone(alice.Token+"x", good), http.StatusUnauthorized, "token_invalid", nil)
	wantRefusal(t, phone(map[string]string{"phoneCode": good}, "Early-Data: 1"), http.StatusTooEarly, "too_early", nil)
	wantRefusal(t, phone(`{}`), http.StatusBadRequest, "invalid_request", []string{})
	wantRefusal(t, phone(`{"phoneCode":"a b"}`), http.StatusBadRequest, "invalid_request", []string{})
	wantRefusal(t, phone(`phoneCode=x`, "Content-Type: application/x-www-form-urlencoded"), http.StatusUnsupportedMediaType, "unsupported_media_type", nil)
	wantRefusal(t, g.Get("/auth/wx/phone", alice.Token), http.StatusMethodNotAllowed, "method_not_allowed", nil)
	wantRefusal(t, g.ChangePhone(alice.Token, "made up"[:4]), http.StatusBadRequest, "phone_code_invalid", []string{"phoneCode"})
	// A thief has a token, but not her phone.
	wantRefusal(t, g.ChangePhone(alice.Token, tap("bob", next)), http.StatusBadRequest, "phone_code_invalid", []string{"phoneCode"})
	taken := tap("alice", anotherOne)
	for range 2 {
		wantRefusal(t, g.ChangePhone(alice.Token, taken), http.StatusConflict, "phone_taken", nil)
	}
	if me := g.Me(alice.Token).UserInfo(t); me.PhoneNumber != "+86"+someNumber {
		t.Errorf("%+v", me)
	}
	g.ChangePhone(alice.Token, good).Changed(t)
	g.ChangePhone(bob.Token, tap("bob", someNumber)).Changed(t) // her former number
	g.ChangePhone(alice.Token, taken).Changed(t)                // which is free now

	serve(g, http.MethodPatch, userPath+bob.UserInfo.ID, map[string]bool{"disabled": true}).Want(t, http.StatusNoContent)
	wantRefusal(t, g.ChangePhone(bob.Token, tap("bob", next)), http.StatusUnauthorized, "token_revoked", nil)
	g.Logout(alice.Token, "", false).Want(t, http.StatusNoContent)
	wantRefusal(t, g.ChangePhone(alice.Token, tap("alice", next)), http.StatusUnauthorized, "token_revoked", nil)
}

// Somebody tries phone codes with a token. Each code that WeChat refuses counts. Good codes,
// and codes in other sessions, do not count.
func TestChangesBeyondTheRate(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, "login_rate 2/h")
	codes := g.WeChat.TapAs(t, rig.AppID, "alice", wechattest.Phone{Number: someNumber})
	alice, bob := g.Login(codes.Code, codes.PhoneCode).Pair(t), g.MustLogin(t, anotherOne)
	for i := range 4 {
		g.ChangePhone(alice.Token, g.WeChat.NewNumber(t, rig.AppID, "alice", fmt.Sprint(13700137000+i))).Changed(t)
	}
	for i := range 2 {
		g.ChangePhone(alice.Token, fmt.Sprint("bad", i)).WantProblem(t, http.StatusBadRequest, "phone_code_invalid", nil)
	}
	good := g.WeChat.NewNumber(t, rig.AppID, "alice", someNumber)
	a := g.ChangePhone(alice.Token, good)
	wantRefusal(t, a, http.StatusTooManyRequests, "rate_limited", nil)
	if a.Header.Get("Retry-After") == "" || !strings.HasPrefix(a.Header.Get("RateLimit-Policy"), `"login"`) {
		t.Errorf("%v", a.Header)
	}
	g.ChangePhone(bob.Token, "bad").WantProblem(t, http.StatusBadRequest, "phone_code_invalid", nil)
	if n := g.WeChat.Count(wechattest.PhoneNumber).Total; n != 9 {
		t.Errorf("getuserphonenumber was called %d times", n)
	}
}

// If the token is in a cookie, the new token replaces it. A page of another site cannot change
// the number.
func TestChangeBehindACookie(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, "credential cookie")
	codes := g.WeChat.TapAs(t, rig.AppID, "alice", wechattest.Phone{Number: someNumber})
	alice := g.Login(codes.Code, codes.PhoneCode).Pair(t)
	change := func(site string) rig.Answer {
		return g.Do(http.MethodPost, "/auth/wx/phone", map[string]string{"phoneCode": g.WeChat.NewNumber(t, rig.AppID, "alice", anotherOne)},
			"Cookie: __Host-wx-auth="+alice.Token, "Sec-Fetch-Site: "+site)
	}
	wantRefusal(t, change("cross-site"), http.StatusForbidden, "cookie_cross_site", nil)
	a := change("same-origin")
	if c := a.Changed(t); !strings.Contains(a.Header.Get("Set-Cookie"), "__Host-wx-auth="+c.Token+";") {
		t.Errorf("%v", a.Header)
	}
}

// Without the openid, WeChat does not compare the code with the caller: anybody who stole a
// token could give the account their own number.
func TestChangeNeedsTheOpenID(t *testing.T) {
	t.Parallel()
	g := rig.NewGatewayWith(t, rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\nsend_openid off\n}\n}\nreverse_proxy {$UPSTREAM}"))
	p := g.MustLogin(t, someNumber)
	wantRefusal(t, g.ChangePhone(p.Token, g.WeChat.NewNumber(t, rig.AppID, "", anotherOne)), http.StatusForbidden, "phone_change_closed", nil)
	rig.WantCalls(t, g.WeChat, 1, 1)
}

// WeChat fails before or after it has accepted the code. The answer must say whether the same
// code is still good.
func TestChangeWhileWeChatFails(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t)
	codes := g.WeChat.TapAs(t, rig.AppID, "alice", wechattest.Phone{Number: someNumber})
	alice := g.Login(codes.Code, codes.PhoneCode).Pair(t)
	tap := g.WeChat.NewNumber(t, rig.AppID, "alice", anotherOne)
	if err := g.WeChat.Inject(wechattest.Fault{Call: wechattest.PhoneNumber, Kind: wechattest.Reset, Count: 2}); err != nil {
		t.Fatal(err)
	}
	if a := g.ChangePhone(alice.Token, tap); a.Status < 500 || a.Problem(t).Renew == nil {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	g.WeChat.ClearFaults()
	g.ChangePhone(alice.Token, g.WeChat.NewNumber(t, rig.AppID, "alice", anotherOne)).Changed(t)
	if err := g.WeChat.Inject(wechattest.Fault{Call: wechattest.PhoneNumber, Kind: wechattest.Reset, Late: true, Count: 1}); err != nil {
		t.Fatal(err)
	}
	lost := g.WeChat.NewNumber(t, rig.AppID, "alice", "13700137000")
	a := g.ChangePhone(alice.Token, lost)
	if renew := a.Problem(t).Renew; a.Status < 500 || len(renew) != 1 || renew[0] != "phoneCode" {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if me := g.Me(alice.Token).UserInfo(t); me.PhoneNumber != "+86"+anotherOne {
		t.Errorf("%+v", me)
	}
}
