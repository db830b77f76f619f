package tests

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
)

// rig is a gateway between the simulator and an upstream, with a client of it.
type rig struct {
	*Client
	caddy *Caddy
	wx    *WeChat
	up    *Upstream
}

// rigSite is what a rig serves. It gives WeChat more time than wxSite does, for the
// logins that a test holds up.
func rigSite(options ...string) string { return rigSiteWith("", options...) }

// rigSiteWith has further directives beside wx_auth.
func rigSiteWith(directives string, options ...string) string {
	return site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\ntimeout 15s\n}\n" +
		strings.Join(options, "\n") + "\n}\n" + directives + "\nreverse_proxy {$UPSTREAM}")
}

func newRig(t testing.TB, options ...string) *rig {
	t.Helper()
	return newRigWith(t, rigSite(options...))
}

func newRigWith(t testing.TB, caddyfile string) *rig {
	t.Helper()
	r := &rig{wx: NewWeChat(t), up: NewUpstream(t)}
	r.caddy = StartCaddy(t, caddyfile, r.wx.env(r.up.Addr)...)
	r.Client = r.caddy.Client()
	return r
}

// login is a phone login that must succeed.
func (r *rig) login(t testing.TB, number string) Pair {
	t.Helper()
	codes := r.wx.Tap(t, number)
	return r.Login(codes.Code, codes.PhoneCode).Pair(t)
}

// reload must succeed.
func (r *rig) reload(t testing.TB, caddyfile string) {
	t.Helper()
	if err := r.caddy.Reload(caddyfile); err != nil {
		t.Fatal(err)
	}
}

// tapAs plays a tap on the phone button by somebody whose number need not be their
// own any more, or not from China.
func (w *WeChat) tapAs(t testing.TB, appid, person string, phone wechattest.Phone) wechattest.Codes {
	t.Helper()
	codes, err := w.Mint(appid, person, phone)
	if err != nil {
		t.Fatal(err)
	}
	return codes
}

func (w *WeChat) openAs(t testing.TB, appid, person string) wechattest.Codes {
	t.Helper()
	codes, err := w.MintLogin(appid, person)
	if err != nil {
		t.Fatal(err)
	}
	return codes
}

// hold makes the next such call wait until the returned function is called, which
// happens at the test's end at the latest.
func (w *WeChat) hold(t testing.TB, call wechattest.Call) (release func()) {
	t.Helper()
	gate := make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	if err := w.Inject(wechattest.Fault{Call: call, Kind: wechattest.Delay, Hold: gate}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return release
}

// await waits for a condition.
func await(t testing.TB, within time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not after %s: %s", within, what)
		}
	}
}

// jwtPart is the header (0) or the claims (1) of a token.
func jwtPart(t testing.TB, token string, part int) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts in a token", len(parts))
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[part])
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func sessionOf(t testing.TB, token string) string {
	t.Helper()
	sid, _ := jwtPart(t, token, 1)["sid"].(string)
	if sid == "" {
		t.Fatal("a token without sid")
	}
	return sid
}

// members are the names of a JSON object's members, sorted.
func members(t testing.TB, object string) []string {
	t.Helper()
	var v map[string]json.RawMessage
	if err := json.Unmarshal([]byte(object), &v); err != nil {
		t.Fatalf("%v in %s", err, object)
	}
	return slices.Sorted(maps.Keys(v))
}

func wantMembers(t testing.TB, object string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := members(t, object); !slices.Equal(got, want) {
		t.Errorf("members %q, want %q", got, want)
	}
}

// wantHeader fails the test if the upstream did not get the header just so; an empty
// value: not at all.
func (s Seen) wantHeader(t testing.TB, name, want string) {
	t.Helper()
	got := s.Header.Values(name)
	if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || got[0] != want) {
		t.Errorf("%s: %q, want %q", name, got, want)
	}
}

// about says that a number of seconds is near what it should be.
func about(got, want int) bool { return got >= want-3 && got <= want+3 }

func TestPhoneLoginFromTheCodesToTheUpstream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const number = "13800138000"

	codes := r.wx.Tap(t, number)
	start := time.Now()
	a := r.Login(codes.Code, codes.PhoneCode)
	pair := a.Pair(t)
	wantMembers(t, a.Body, "token", "tokenType", "expiresIn", "refreshToken", "refreshExpiresIn", "userInfo")
	var parts struct{ UserInfo json.RawMessage }
	if err := json.Unmarshal([]byte(a.Body), &parts); err != nil {
		t.Fatal(err)
	}
	wantMembers(t, string(parts.UserInfo), "id", "phoneNumber", "purePhoneNumber", "countryCode", "isNew")
	if pair.TokenType != "Bearer" || !about(pair.ExpiresIn, 3600) || !about(pair.RefreshExpiresIn, 30*24*3600) {
		t.Errorf("token type or times: %s", a.Body)
	}
	id := pair.UserInfo.ID
	if want := (UserInfo{id, "+86" + number, number, "86", true}); *pair.UserInfo != want || id == "" {
		t.Errorf("user %+v, want %+v", *pair.UserInfo, want)
	}
	if got := a.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("cache-control %q", got)
	}
	for _, call := range []wechattest.Call{wechattest.Code2Session, wechattest.StableToken, wechattest.PhoneNumber} {
		if n := r.wx.Count(call).Total; n != 1 {
			t.Errorf("%s was called %d times", call, n)
		}
	}
	if r.up.Hits() != 0 {
		t.Error("the login reached the upstream")
	}

	header := jwtPart(t, pair.Token, 0)
	if len(header) != 3 || header["alg"] != "ES256" || header["typ"] != "at+jwt" || header["kid"] == "" {
		t.Errorf("token header %v", header)
	}
	claims := jwtPart(t, pair.Token, 1)
	names := []string{"iss", "sub", "aud", "exp", "iat", "jti", "client_id", "sid", "openid", "wx"}
	slices.Sort(names)
	if got := slices.Sorted(maps.Keys(claims)); !slices.Equal(got, names) {
		t.Errorf("claims %q, want %q", got, names)
	}
	for name, want := range map[string]any{"iss": "wx-auth", "sub": id, "client_id": AppID, "openid": codes.OpenID} {
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
	seen.wantHeader(t, "X-WX-USER-ID", id)
	seen.wantHeader(t, "X-WX-PHONE", "+86"+number)
	seen.wantHeader(t, "X-WX-OPENID", codes.OpenID)
	seen.wantHeader(t, "X-WX-APPID", AppID)
	seen.wantHeader(t, "X-WX-UNIONID", "")
	seen.wantHeader(t, "X_wx_user_id", "")
	seen.wantHeader(t, "Authorization", "")
	seen.wantHeader(t, "X-Kept", "yes")

	again := r.login(t, number)
	if again.UserInfo.ID != id || again.UserInfo.IsNew || sessionOf(t, again.Token) == sessionOf(t, pair.Token) {
		t.Errorf("a second login is %+v", *again.UserInfo)
	}

	abroad := r.wx.tapAs(t, AppID, "", wechattest.Phone{Country: "852", Number: "51234567"})
	other := r.Login(abroad.Code, abroad.PhoneCode).Pair(t)
	if want := (UserInfo{other.UserInfo.ID, "+85251234567", "51234567", "852", true}); *other.UserInfo != want || want.ID == id {
		t.Errorf("user %+v, want %+v", *other.UserInfo, want)
	}
	r.Get("/", other.Token).Seen(t).wantHeader(t, "X-WX-PHONE", "+85251234567")
}

func TestSameCodesAreTheSameSession(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	codes := r.wx.Tap(t, "13800138000")
	first := r.Login(codes.Code, codes.PhoneCode).Pair(t)
	again := r.Login(codes.Code, codes.PhoneCode).Pair(t)
	if sessionOf(t, first.Token) != sessionOf(t, again.Token) || first.RefreshToken != again.RefreshToken {
		t.Error("the same codes opened another session")
	}
	if first.Token == again.Token {
		t.Error("the token was not minted anew")
	}
	if n := r.wx.Count(wechattest.Code2Session).Total; n != 1 {
		t.Errorf("jscode2session was called %d times", n)
	}
	if shown := r.wx.PhoneCodes()[0].Shown; shown != 1 {
		t.Errorf("the phone code was shown %d times", shown)
	}
	r.Logout(first.Token, "", false).Want(t, http.StatusNoContent)
	r.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusBadRequest, "login_code_invalid", []string{"code"})
}

func TestSilentLogin(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const number = "13800138000"
	r.Silent(r.wx.Open(t, number).Code).WantProblem(t, http.StatusForbidden, "phone_required", nil)

	user := *r.login(t, number).UserInfo
	user.IsNew = false
	a := r.Silent(r.wx.Open(t, number).Code)
	pair := a.Pair(t)
	wantMembers(t, a.Body, "token", "tokenType", "expiresIn", "refreshToken", "refreshExpiresIn", "userInfo")
	if *pair.UserInfo != user {
		t.Errorf("user %+v, want %+v", *pair.UserInfo, user)
	}
	if n := r.wx.Count(wechattest.PhoneNumber).Total; n != 1 {
		t.Errorf("getuserphonenumber was called %d times", n)
	}
	r.Get("/", pair.Token).Seen(t).wantHeader(t, "X-WX-PHONE", "+86"+number)
	r.Silent(r.wx.Open(t, "13900139000").Code).WantProblem(t, http.StatusForbidden, "phone_required", nil)

	r.reload(t, rigSite("silent_login off"))
	before := r.wx.asked()
	r.Silent(r.wx.Open(t, number).Code).WantProblem(t, http.StatusForbidden, "phone_required", nil)
	if n := r.wx.asked() - before; n != 0 {
		t.Errorf("WeChat was asked %d times for what is off", n)
	}

	// The age counts from the last phone login: a silent one does not renew it.
	r.reload(t, rigSite("silent_login 3s"))
	start := time.Now()
	r.login(t, number)
	r.Silent(r.wx.Open(t, number).Code).Pair(t)
	var last Answer
	await(t, 10*time.Second, "silent logins end", func() bool {
		last = r.Silent(r.wx.Open(t, number).Code)
		return last.Status != http.StatusOK
	})
	last.WantProblem(t, http.StatusForbidden, "phone_required", nil)
	if took := time.Since(start); took < 3*time.Second {
		t.Errorf("refused after %s", took)
	}
	if again := r.login(t, number); again.UserInfo.ID != user.ID {
		t.Errorf("user %s, want %s", again.UserInfo.ID, user.ID)
	}
	r.Silent(r.wx.Open(t, number).Code).Pair(t)
}

func TestRegisterOffTakesKnownNumbersOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	known := r.login(t, "13800138000")
	r.reload(t, rigSite("register off"))

	codes := r.wx.Tap(t, "13900139000")
	r.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusForbidden, "registration_closed", nil)
	r.Silent(r.wx.Open(t, "13900139000").Code).WantProblem(t, http.StatusForbidden, "phone_required", nil)
	if again := r.login(t, "13800138000"); again.UserInfo.ID != known.UserInfo.ID || again.UserInfo.IsNew {
		t.Errorf("the known user is %+v", *again.UserInfo)
	}

	r.reload(t, rigSite())
	// The codes of before were not lost: what WeChat answered is kept.
	late := r.Login(codes.Code, codes.PhoneCode).Pair(t)
	if !late.UserInfo.IsNew || late.UserInfo.PhoneNumber != "+8613900139000" {
		t.Errorf("user %+v", *late.UserInfo)
	}
	for _, code := range r.wx.PhoneCodes() {
		if code.Shown != 1 {
			t.Errorf("a phone code was shown %d times", code.Shown)
		}
	}
}

func TestOnNewOpenID(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	// Both have the number, one after the other.
	logins := func(number string) (ann, bob Answer) {
		phone := wechattest.Phone{Number: number}
		a := r.wx.tapAs(t, AppID, "ann"+number, phone)
		ann = r.Login(a.Code, a.PhoneCode)
		b := r.wx.tapAs(t, AppID, "bob"+number, phone)
		if a.OpenID == b.OpenID {
			t.Fatal("two persons with one openid")
		}
		return ann, r.Login(b.Code, b.PhoneCode)
	}
	silent := func(person string) Answer { return r.Silent(r.wx.openAs(t, AppID, person).Code) }

	t.Run("replace", func(t *testing.T) { // the default
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
		r.reload(t, rigSite("on_new_openid keep"))
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
		r.reload(t, rigSite("on_new_openid deny"))
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
		before := r.wx.tapAs(t, AppID, "carol", wechattest.Phone{Number: "13800138004"})
		first := r.Login(before.Code, before.PhoneCode).Pair(t)
		after := r.wx.tapAs(t, AppID, "carol", wechattest.Phone{Number: "13800138005"})
		second := r.Login(after.Code, after.PhoneCode).Pair(t)
		if second.UserInfo.ID == first.UserInfo.ID || !second.UserInfo.IsNew {
			t.Errorf("the new number went to the old user: %+v", *second.UserInfo)
		}
		if s := silent("carol").Pair(t); s.UserInfo.ID != second.UserInfo.ID {
			t.Errorf("silently it is user %s, want %s", s.UserInfo.ID, second.UserInfo.ID)
		}
	})
}

func TestUsersOfTwoAppsAreOne(t *testing.T) {
	t.Parallel()
	const second, secondSecret = "wxfedcba9876543210", "5ec2e70000000000000000000000cafe"
	wx, up := NewWeChat(t), NewUpstream(t)
	for id, secret := range map[string]string{AppID: Secret, second: secondSecret} {
		if err := wx.AddApp(wechattest.App{ID: id, Secret: secret, OpenPlatform: "ours"}); err != nil {
			t.Fatal(err)
		}
	}
	c := StartCaddy(t, rigSite("app {env.WX_APPID_2} {env.WX_SECRET_2}"),
		append(wx.env(up.Addr), "WX_APPID_2="+second, "WX_SECRET_2="+secondSecret)...)
	client := c.Client()
	phone := wechattest.Phone{Number: "13800138000"}
	post := func(codes wechattest.Codes, appid string, headers ...string) Answer {
		body := map[string]string{"code": codes.Code}
		if codes.PhoneCode != "" {
			body["phoneCode"] = codes.PhoneCode
		}
		if appid != "" {
			body["appid"] = appid
		}
		return client.Do(http.MethodPost, "/auth/wx", body, headers...)
	}
	seenAs := func(p Pair, appid string, codes wechattest.Codes) {
		t.Helper()
		seen := client.Get("/", p.Token).Seen(t)
		seen.wantHeader(t, "X-WX-APPID", appid)
		seen.wantHeader(t, "X-WX-OPENID", codes.OpenID)
		seen.wantHeader(t, "X-WX-UNIONID", codes.UnionID)
		seen.wantHeader(t, "X-WX-PHONE", "+8613800138000")
		if got := jwtPart(t, p.Token, 1)["client_id"]; got != appid {
			t.Errorf("client_id %v, want %s", got, appid)
		}
	}

	codes := wx.tapAs(t, AppID, "", phone)
	wantRefusal(t, post(codes, ""), http.StatusBadRequest, "invalid_request", []string{})
	wantRefusal(t, post(codes, "wx00000000000000ff"), http.StatusBadRequest, "invalid_request", []string{})
	wantRefusal(t, post(codes, "", "Referer: https://example.com/"+AppID+"/1/page.html"), http.StatusBadRequest, "invalid_request", []string{})
	if n := wx.asked(); n != 0 {
		t.Fatalf("WeChat was asked %d times", n)
	}
	one := post(codes, AppID).Pair(t)
	seenAs(one, AppID, codes)

	// The unionid is known, so the other mini program needs no tap.
	codes = wx.openAs(t, second, "+8613800138000")
	two := post(codes, "", "Referer: https://servicewechat.com/"+second+"/devtools/page-frame.html").Pair(t)
	if two.UserInfo.ID != one.UserInfo.ID || two.UserInfo.IsNew {
		t.Errorf("user %+v, want %s", *two.UserInfo, one.UserInfo.ID)
	}
	seenAs(two, second, codes)

	// The body wins over the hint; by the number it is the same user, too.
	codes = wx.tapAs(t, second, "", phone)
	three := post(codes, second, "Referer: https://servicewechat.com/"+AppID+"/1/page-frame.html").Pair(t)
	if three.UserInfo.ID != one.UserInfo.ID {
		t.Errorf("user %s, want %s", three.UserInfo.ID, one.UserInfo.ID)
	}
	seenAs(three, second, codes)
	client.Get("/", one.Token).Want(t, http.StatusOK)

	if err := wx.AddApp(wechattest.App{ID: second, Secret: secondSecret}); err != nil {
		t.Fatal(err)
	}
	// Without a unionid in common, the number alone makes them one.
	number := wechattest.Phone{Number: "13700137000"}
	codes = wx.tapAs(t, AppID, "dave", number)
	here := post(codes, AppID).Pair(t)
	codes = wx.tapAs(t, second, "dave", number)
	if there := post(codes, second).Pair(t); there.UserInfo.ID != here.UserInfo.ID || there.UserInfo.IsNew {
		t.Errorf("user %+v, want %s", *there.UserInfo, here.UserInfo.ID)
	}
	if codes.UnionID != "" {
		t.Error("the app still has unionids")
	}
}

func TestHundredLoginsOfOneNewNumber(t *testing.T) {
	t.Parallel()
	const logins = 100
	r := newRig(t)
	all := func(codes []wechattest.Codes) []Answer {
		answers := make([]Answer, len(codes))
		var wg sync.WaitGroup
		for i, c := range codes {
			wg.Go(func() { answers[i] = r.Login(c.Code, c.PhoneCode) })
		}
		wg.Wait()
		return answers
	}
	count := func(values map[string]int) string { return fmt.Sprint(len(values), " of ", logins) }

	t.Run("the same codes", func(t *testing.T) {
		codes := slices.Repeat([]wechattest.Codes{r.wx.Tap(t, "13800138000")}, logins)
		users, sessions, refreshTokens := map[string]int{}, map[string]int{}, map[string]int{}
		for _, a := range all(codes) {
			p := a.Pair(t)
			users[p.UserInfo.ID]++
			sessions[sessionOf(t, p.Token)]++
			refreshTokens[p.RefreshToken]++
		}
		if len(users) != 1 || len(sessions) != 1 || len(refreshTokens) != 1 {
			t.Errorf("users %s, sessions %s, refresh tokens %s", count(users), count(sessions), count(refreshTokens))
		}
		for _, call := range []wechattest.Call{wechattest.Code2Session, wechattest.PhoneNumber, wechattest.StableToken} {
			if n := r.wx.Count(call).Total; n != 1 {
				t.Errorf("%s was called %d times", call, n)
			}
		}
	})
	t.Run("codes of their own", func(t *testing.T) {
		r.wx.ResetCounts()
		codes := make([]wechattest.Codes, logins)
		for i := range codes {
			codes[i] = r.wx.Tap(t, "13900139000")
		}
		users, sessions, fresh := map[string]int{}, map[string]int{}, 0
		var last Pair
		for _, a := range all(codes) {
			last = a.Pair(t)
			users[last.UserInfo.ID]++
			sessions[sessionOf(t, last.Token)]++
			if last.UserInfo.IsNew {
				fresh++
			}
		}
		if len(users) != 1 || len(sessions) != logins || fresh != 1 {
			t.Errorf("users %s, sessions %s, new %d", count(users), count(sessions), fresh)
		}
		for _, call := range []wechattest.Call{wechattest.Code2Session, wechattest.PhoneNumber} {
			if n := r.wx.Count(call).Total; n != logins {
				t.Errorf("%s was called %d times", call, n)
			}
		}
		if got := len(r.sessions(t, last.Token)); got != logins {
			t.Errorf("the user has %d sessions", got)
		}
	})
}
