package logins

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// about reports whether a number of seconds is close to the expected one.
func about(got, want int) bool { return got >= want-3 && got <= want+3 }

// A user of a mini program taps the phone button, and the API behind the gateway learns
// who calls.
func TestPhoneLoginFromTheCodesToTheUpstream(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	const number = "13800138000"

	codes := r.WeChat.Tap(t, number)
	start := time.Now()
	a := r.Login(codes.Code, codes.PhoneCode)
	pair := a.Pair(t)
	rig.WantMembers(t, a.Body, "token", "tokenType", "expiresIn", "refreshToken", "refreshExpiresIn", "userInfo")
	var parts struct{ UserInfo json.RawMessage }
	if err := json.Unmarshal([]byte(a.Body), &parts); err != nil {
		t.Fatal(err)
	}
	rig.WantMembers(t, string(parts.UserInfo), "id", "phoneNumber", "purePhoneNumber", "countryCode", "isNew")
	if pair.TokenType != "Bearer" || !about(pair.ExpiresIn, 3600) || !about(pair.RefreshExpiresIn, 30*24*3600) {
		t.Errorf("token type or times: %s", a.Body)
	}
	id := pair.UserInfo.ID
	if want := (rig.UserInfo{ID: id, PhoneNumber: "+86" + number, PurePhoneNumber: number, CountryCode: "86", IsNew: true}); *pair.UserInfo != want || id == "" {
		t.Errorf("user %+v, want %+v", *pair.UserInfo, want)
	}
	if got := a.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("cache-control %q", got)
	}
	for _, call := range []wechattest.Call{wechattest.Code2Session, wechattest.StableToken, wechattest.PhoneNumber} {
		if n := r.WeChat.Count(call).Total; n != 1 {
			t.Errorf("%s was called %d times", call, n)
		}
	}
	if r.Upstream.Hits() != 0 {
		t.Error("the login reached the upstream")
	}

	header := rig.JWTPart(t, pair.Token, 0)
	if len(header) != 3 || header["alg"] != "ES256" || header["typ"] != "at+jwt" || header["kid"] == "" {
		t.Errorf("token header %v", header)
	}
	claims := rig.JWTPart(t, pair.Token, 1)
	names := []string{"iss", "sub", "aud", "exp", "iat", "jti", "client_id", "sid", "openid", "wx", "auth_time"}
	slices.Sort(names)
	if got := slices.Sorted(maps.Keys(claims)); !slices.Equal(got, names) {
		t.Errorf("claims %q, want %q", got, names)
	}
	for name, want := range map[string]any{"iss": "wx-auth", "sub": id, "client_id": rig.AppID, "openid": codes.OpenID} {
		if claims[name] != want {
			t.Errorf("claim %s: %v, want %v", name, claims[name], want)
		}
	}
	exp, _ := claims["exp"].(float64)
	if !about(int(exp)-int(start.Unix()), 3600) {
		t.Errorf("the token expires at %v", claims["exp"])
	}
	for _, part := range strings.Split(pair.Token, ".")[:2] {
		raw, _ := base64.RawURLEncoding.DecodeString(part)
		if strings.Contains(string(raw), number) {
			t.Error("the phone number is in the token in plain")
		}
	}

	seen := r.Get("/orders?page=2", pair.Token, "X-WX-PHONE: +8613900139000", "X-WX-UNIONID: forged", "x_wx_user_id: forged", "X-Kept: yes").Seen(t)
	if seen.URI != "/orders?page=2" {
		t.Errorf("the upstream got %s", seen.URI)
	}
	seen.WantHeader(t, "X-WX-USER-ID", id)
	seen.WantHeader(t, "X-WX-PHONE", "+86"+number)
	seen.WantHeader(t, "X-WX-OPENID", codes.OpenID)
	seen.WantHeader(t, "X-WX-APPID", rig.AppID)
	seen.WantHeader(t, "X-WX-UNIONID", "")
	seen.WantHeader(t, "X_wx_user_id", "")
	seen.WantHeader(t, "Authorization", "")
	seen.WantHeader(t, "X-Kept", "yes")

	again := r.MustLogin(t, number)
	if again.UserInfo.ID != id || again.UserInfo.IsNew || rig.SessionOf(t, again.Token) == rig.SessionOf(t, pair.Token) {
		t.Errorf("a second login is %+v", *again.UserInfo)
	}

	abroad := r.WeChat.TapAs(t, rig.AppID, "", wechattest.Phone{Country: "852", Number: "51234567"})
	other := r.Login(abroad.Code, abroad.PhoneCode).Pair(t)
	if want := (rig.UserInfo{ID: other.UserInfo.ID, PhoneNumber: "+85251234567", PurePhoneNumber: "51234567", CountryCode: "852", IsNew: true}); *other.UserInfo != want || want.ID == id {
		t.Errorf("user %+v, want %+v", *other.UserInfo, want)
	}
	r.Get("/", other.Token).Seen(t).WantHeader(t, "X-WX-PHONE", "+85251234567")
}

// A client that lost the answer sends the same codes again and gets the same session.
func TestSameCodesAreTheSameSession(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	codes := r.WeChat.Tap(t, "13800138000")
	first := r.Login(codes.Code, codes.PhoneCode).Pair(t)
	again := r.Login(codes.Code, codes.PhoneCode).Pair(t)
	if rig.SessionOf(t, first.Token) != rig.SessionOf(t, again.Token) || first.RefreshToken != again.RefreshToken {
		t.Error("the same codes opened another session")
	}
	if first.Token == again.Token {
		t.Error("the token was not minted anew")
	}
	if n := r.WeChat.Count(wechattest.Code2Session).Total; n != 1 {
		t.Errorf("jscode2session was called %d times", n)
	}
	if shown := r.WeChat.PhoneCodes()[0].Shown; shown != 1 {
		t.Errorf("the phone code was shown %d times", shown)
	}
	r.Logout(first.Token, "", false).Want(t, http.StatusNoContent)
	r.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusBadRequest, "login_code_invalid", []string{"code"})
}

// A known user opens the mini program again and is logged in without the phone button.
func TestSilentLogin(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	const number = "13800138000"
	r.Silent(r.WeChat.Open(t, number).Code).WantProblem(t, http.StatusForbidden, "phone_required", nil)

	user := *r.MustLogin(t, number).UserInfo
	user.IsNew = false
	a := r.Silent(r.WeChat.Open(t, number).Code)
	pair := a.Pair(t)
	rig.WantMembers(t, a.Body, "token", "tokenType", "expiresIn", "refreshToken", "refreshExpiresIn", "userInfo")
	if *pair.UserInfo != user {
		t.Errorf("user %+v, want %+v", *pair.UserInfo, user)
	}
	if n := r.WeChat.Count(wechattest.PhoneNumber).Total; n != 1 {
		t.Errorf("getuserphonenumber was called %d times", n)
	}
	r.Get("/", pair.Token).Seen(t).WantHeader(t, "X-WX-PHONE", "+86"+number)
	r.Silent(r.WeChat.Open(t, "13900139000").Code).WantProblem(t, http.StatusForbidden, "phone_required", nil)

	r.MustReload(t, rig.GatewaySite("silent_login off"))
	before := r.WeChat.Asked()
	r.Silent(r.WeChat.Open(t, number).Code).WantProblem(t, http.StatusForbidden, "phone_required", nil)
	if n := r.WeChat.Asked() - before; n != 0 {
		t.Errorf("WeChat was asked %d times for what is off", n)
	}

	// The age counts from the last phone login; a silent login does not renew it.
	r.MustReload(t, rig.GatewaySite("silent_login 3s"))
	start := time.Now()
	r.MustLogin(t, number)
	r.Silent(r.WeChat.Open(t, number).Code).Pair(t)
	var last rig.Answer
	rig.Await(t, 10*time.Second, "silent logins end", func() bool {
		last = r.Silent(r.WeChat.Open(t, number).Code)
		return last.Status != http.StatusOK
	})
	last.WantProblem(t, http.StatusForbidden, "phone_required", nil)
	if took := time.Since(start); took < 3*time.Second {
		t.Errorf("refused after %s", took)
	}
	if again := r.MustLogin(t, number); again.UserInfo.ID != user.ID {
		t.Errorf("user %s, want %s", again.UserInfo.ID, user.ID)
	}
	r.Silent(r.WeChat.Open(t, number).Code).Pair(t)
}

// With `register off` a number that the directory does not know is refused.
func TestRegisterOffTakesKnownNumbersOnly(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	known := r.MustLogin(t, "13800138000")
	r.MustReload(t, rig.GatewaySite("register off"))

	codes := r.WeChat.Tap(t, "13900139000")
	r.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusForbidden, "registration_closed", nil)
	r.Silent(r.WeChat.Open(t, "13900139000").Code).WantProblem(t, http.StatusForbidden, "phone_required", nil)
	if again := r.MustLogin(t, "13800138000"); again.UserInfo.ID != known.UserInfo.ID || again.UserInfo.IsNew {
		t.Errorf("the known user is %+v", *again.UserInfo)
	}

	r.MustReload(t, rig.GatewaySite())
	// The earlier codes are not lost: WeChat's answers were kept.
	late := r.Login(codes.Code, codes.PhoneCode).Pair(t)
	if !late.UserInfo.IsNew || late.UserInfo.PhoneNumber != "+8613900139000" {
		t.Errorf("user %+v", *late.UserInfo)
	}
	for _, code := range r.WeChat.PhoneCodes() {
		if code.Shown != 1 {
			t.Errorf("a phone code was shown %d times", code.Shown)
		}
	}
}

// With `countries` a number of another country is refused.
func TestCountriesLimitWhoMayRegister(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	w := r.WeChat
	login := func(person, country, number string) rig.Answer {
		codes := w.TapAs(t, rig.AppID, person, wechattest.Phone{Country: country, Number: number})
		return r.Login(codes.Code, codes.PhoneCode)
	}
	known := login("ann", "81", "9012345678").Pair(t)
	r.MustReload(t, rig.GatewaySite("countries 86 852"))
	wantRefusal(t, login("bob", "81", "9012345679"), 403, "registration_closed", nil)
	wantRefusal(t, login("bob", "1", "2025550123"), 403, "registration_closed", nil)
	if again := login("ann", "81", "9012345678").Pair(t); again.UserInfo.ID != known.UserInfo.ID {
		t.Error("a known user is another one")
	}
	if hk := login("bob", "852", "91234567").Pair(t); !hk.UserInfo.IsNew || hk.UserInfo.PhoneNumber != "+85291234567" {
		t.Errorf("user %+v", hk.UserInfo)
	}
	login("cid", "86", "13800138000").Pair(t)
	r.Silent(w.OpenAs(t, rig.AppID, "ann").Code).Pair(t)
}

// A recycled phone number: the new owner logs in with it from another WeChat account.
// What happens to the former owner's account depends on on_new_openid.
func TestOnNewOpenID(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	// Ann and Bob have the number, one after the other.
	logins := func(number string) (ann, bob rig.Answer) {
		phone := wechattest.Phone{Number: number}
		a := r.WeChat.TapAs(t, rig.AppID, "ann"+number, phone)
		ann = r.Login(a.Code, a.PhoneCode)
		b := r.WeChat.TapAs(t, rig.AppID, "bob"+number, phone)
		if a.OpenID == b.OpenID {
			t.Fatal("two persons with one openid")
		}
		return ann, r.Login(b.Code, b.PhoneCode)
	}
	silent := func(person string) rig.Answer { return r.Silent(r.WeChat.OpenAs(t, rig.AppID, person).Code) }

	t.Run("replace", func(t *testing.T) { // this is the default
		answer1, answer2 := logins("13800138001")
		ann, bob := answer1.Pair(t), answer2.Pair(t)
		if bob.UserInfo.ID != ann.UserInfo.ID || bob.UserInfo.IsNew {
			t.Errorf("the number's user %s became %+v", ann.UserInfo.ID, *bob.UserInfo)
		}
		wantRefusal(t, r.Get("/", ann.Token), http.StatusUnauthorized, "token_revoked", nil)
		wantRefusal(t, r.Refresh(ann.RefreshToken), http.StatusUnauthorized, "session_ended", nil)
		wantRefusal(t, silent("ann13800138001"), http.StatusForbidden, "phone_required", nil)
		r.Get("/", bob.Token).Want(t, http.StatusOK)
		if s := silent("bob13800138001").Pair(t); s.UserInfo.ID != ann.UserInfo.ID {
			t.Errorf("silently it is user %s", s.UserInfo.ID)
		}
	})
	t.Run("keep", func(t *testing.T) {
		r.MustReload(t, rig.GatewaySite("on_new_openid keep"))
		answer1, answer2 := logins("13800138002")
		ann, bob := answer1.Pair(t), answer2.Pair(t)
		if bob.UserInfo.ID != ann.UserInfo.ID {
			t.Errorf("the number's user %s became %s", ann.UserInfo.ID, bob.UserInfo.ID)
		}
		for _, token := range []string{ann.Token, bob.Token} {
			r.Get("/", token).Want(t, http.StatusOK)
		}
		for _, person := range []string{"ann13800138002", "bob13800138002"} {
			if s := silent(person).Pair(t); s.UserInfo.ID != ann.UserInfo.ID {
				t.Errorf("%s is user %s silently", person, s.UserInfo.ID)
			}
		}
	})
	t.Run("deny", func(t *testing.T) {
		r.MustReload(t, rig.GatewaySite("on_new_openid deny"))
		answer1, answer2 := logins("13800138003")
		ann := answer1.Pair(t)
		wantRefusal(t, answer2, http.StatusForbidden, "new_openid_denied", nil)
		r.Get("/", ann.Token).Want(t, http.StatusOK)
		wantRefusal(t, silent("bob13800138003"), http.StatusForbidden, "phone_required", nil)
		if s := silent("ann13800138003").Pair(t); s.UserInfo.ID != ann.UserInfo.ID {
			t.Errorf("silently it is user %s", s.UserInfo.ID)
		}
	})
	t.Run("known openid with an unknown number", func(t *testing.T) {
		before := r.WeChat.TapAs(t, rig.AppID, "carol", wechattest.Phone{Number: "13800138004"})
		first := r.Login(before.Code, before.PhoneCode).Pair(t)
		after := r.WeChat.TapAs(t, rig.AppID, "carol", wechattest.Phone{Number: "13800138005"})
		second := r.Login(after.Code, after.PhoneCode).Pair(t)
		if second.UserInfo.ID == first.UserInfo.ID || !second.UserInfo.IsNew {
			t.Errorf("the new number went to the old user: %+v", *second.UserInfo)
		}
		if s := silent("carol").Pair(t); s.UserInfo.ID != second.UserInfo.ID {
			t.Errorf("silently it is user %s, want %s", s.UserInfo.ID, second.UserInfo.ID)
		}
	})
}

// One user logs in to two mini programs, with one number or one unionid.
func TestTwoAppsShareOneUser(t *testing.T) {
	t.Parallel()
	const second, secondSecret = "wxfedcba9876543210", "5ec2e70000000000000000000000cafe"
	wx, up := rig.NewWeChat(t), rig.NewUpstream(t)
	for id, secret := range map[string]string{rig.AppID: rig.Secret, second: secondSecret} {
		if err := wx.AddApp(wechattest.App{ID: id, Secret: secret, OpenPlatform: "ours"}); err != nil {
			t.Fatal(err)
		}
	}
	c := rig.StartCaddy(t, rig.GatewaySite("app {env.WX_APPID_2} {env.WX_SECRET_2}"),
		append(wx.Environ(up.Addr), "WX_APPID_2="+second, "WX_SECRET_2="+secondSecret)...)
	client := c.Client()
	phone := wechattest.Phone{Number: "13800138000"}
	post := func(codes wechattest.Codes, appid string, headers ...string) rig.Answer {
		body := map[string]string{"code": codes.Code}
		if codes.PhoneCode != "" {
			body["phoneCode"] = codes.PhoneCode
		}
		if appid != "" {
			body["appid"] = appid
		}
		return client.Do(http.MethodPost, "/auth/wx", body, headers...)
	}
	seenAs := func(p rig.Pair, appid string, codes wechattest.Codes) {
		t.Helper()
		seen := client.Get("/", p.Token).Seen(t)
		seen.WantHeader(t, "X-WX-APPID", appid)
		seen.WantHeader(t, "X-WX-OPENID", codes.OpenID)
		seen.WantHeader(t, "X-WX-UNIONID", codes.UnionID)
		seen.WantHeader(t, "X-WX-PHONE", "+8613800138000")
		if got := rig.JWTPart(t, p.Token, 1)["client_id"]; got != appid {
			t.Errorf("client_id %v, want %s", got, appid)
		}
	}

	codes := wx.TapAs(t, rig.AppID, "", phone)
	wantRefusal(t, post(codes, ""), http.StatusBadRequest, "invalid_request", []string{})
	wantRefusal(t, post(codes, "wx00000000000000ff"), http.StatusBadRequest, "invalid_request", []string{})
	wantRefusal(t, post(codes, "", "Referer: https://example.com/"+rig.AppID+"/1/page.html"), http.StatusBadRequest, "invalid_request", []string{})
	if n := wx.Asked(); n != 0 {
		t.Fatalf("WeChat was asked %d times", n)
	}
	one := post(codes, rig.AppID).Pair(t)
	seenAs(one, rig.AppID, codes)

	// The unionid is known, so the other mini program does not need the phone button.
	codes = wx.OpenAs(t, second, "+8613800138000")
	two := post(codes, "", "Referer: https://servicewechat.com/"+second+"/devtools/page-frame.html").Pair(t)
	if two.UserInfo.ID != one.UserInfo.ID || two.UserInfo.IsNew {
		t.Errorf("user %+v, want %s", *two.UserInfo, one.UserInfo.ID)
	}
	seenAs(two, second, codes)

	// The appid in the body takes precedence over the Referer. The number also leads to the
	// same user.
	codes = wx.TapAs(t, second, "", phone)
	three := post(codes, second, "Referer: https://servicewechat.com/"+rig.AppID+"/1/page-frame.html").Pair(t)
	if three.UserInfo.ID != one.UserInfo.ID {
		t.Errorf("user %s, want %s", three.UserInfo.ID, one.UserInfo.ID)
	}
	seenAs(three, second, codes)
	client.Get("/", one.Token).Want(t, http.StatusOK)

	if err := wx.AddApp(wechattest.App{ID: second, Secret: secondSecret}); err != nil {
		t.Fatal(err)
	}
	// Without a common unionid, the number alone makes them one user.
	number := wechattest.Phone{Number: "13700137000"}
	codes = wx.TapAs(t, rig.AppID, "dave", number)
	here := post(codes, rig.AppID).Pair(t)
	codes = wx.TapAs(t, second, "dave", number)
	if there := post(codes, second).Pair(t); there.UserInfo.ID != here.UserInfo.ID || there.UserInfo.IsNew {
		t.Errorf("user %+v, want %s", *there.UserInfo, here.UserInfo.ID)
	}
	if codes.UnionID != "" {
		t.Error("the app still has unionids")
	}
}

// A hundred first logins of the same number arrive at once. They must create one user.
func TestHundredLoginsOfOneNewNumber(t *testing.T) {
	t.Parallel()
	const logins = 100
	r := rig.NewGateway(t)
	all := func(codes []wechattest.Codes) []rig.Answer {
		answers := make([]rig.Answer, len(codes))
		var wg sync.WaitGroup
		for i, c := range codes {
			wg.Go(func() { answers[i] = r.Login(c.Code, c.PhoneCode) })
		}
		wg.Wait()
		return answers
	}
	count := func(values map[string]int) string { return fmt.Sprint(len(values), " of ", logins) }

	t.Run("the same codes", func(t *testing.T) {
		codes := slices.Repeat([]wechattest.Codes{r.WeChat.Tap(t, "13800138000")}, logins)
		users, sessions, refreshTokens := map[string]int{}, map[string]int{}, map[string]int{}
		for _, a := range all(codes) {
			p := a.Pair(t)
			users[p.UserInfo.ID]++
			sessions[rig.SessionOf(t, p.Token)]++
			refreshTokens[p.RefreshToken]++
		}
		if len(users) != 1 || len(sessions) != 1 || len(refreshTokens) != 1 {
			t.Errorf("users %s, sessions %s, refresh tokens %s", count(users), count(sessions), count(refreshTokens))
		}
		for _, call := range []wechattest.Call{wechattest.Code2Session, wechattest.PhoneNumber, wechattest.StableToken} {
			if n := r.WeChat.Count(call).Total; n != 1 {
				t.Errorf("%s was called %d times", call, n)
			}
		}
	})
	t.Run("codes of their own", func(t *testing.T) {
		r.WeChat.ResetCounts()
		codes := make([]wechattest.Codes, logins)
		for i := range codes {
			codes[i] = r.WeChat.Tap(t, "13900139000")
		}
		users, sessions, fresh := map[string]int{}, map[string]int{}, 0
		for _, a := range all(codes) {
			p := a.Pair(t)
			users[p.UserInfo.ID]++
			sessions[rig.SessionOf(t, p.Token)]++
			if p.UserInfo.IsNew {
				fresh++
			}
		}
		if len(users) != 1 || len(sessions) != logins || fresh != 1 {
			t.Errorf("users %s, sessions %s, new %d", count(users), count(sessions), fresh)
		}
		for _, call := range []wechattest.Call{wechattest.Code2Session, wechattest.PhoneNumber} {
			if n := r.WeChat.Count(call).Total; n != logins {
				t.Errorf("%s was called %d times", call, n)
			}
		}
		// Only the newest 20 of these sessions stay open: session { max }.
		const most = 20
		p := r.MustLogin(t, "13900139000")
		if got := len(r.Sessions(t, p.Token)); got != most {
			t.Errorf("the user has %d sessions, want %d", got, most)
		}
	})
}
