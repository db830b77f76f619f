package logins

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

const (
	otherApp    = "wx1111111111111111"
	otherSecret = "5ec2e70000000000000000000000cafe"
	pushToken   = "tokenTOKEN0123456789"
	pushKey     = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
	otherToken  = "anotherTOKEN"
	otherKey    = "GFEDCBA9876543210zyxwvutsrqponmlkjihgfedcba"
)

// pushed is a gateway with two mini programs of one company, to which WeChat pushes
// messages.
type pushed struct{ *rig.Gateway }

func newPushed(t *testing.T, options ...string) pushed {
	t.Helper()
	return newPushedWith(t, "", options...)
}

// newPushedWith starts a gateway whose first app has the given block in its push line.
func newPushedWith(t *testing.T, block string, options ...string) pushed {
	t.Helper()
	g := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	for _, app := range []wechattest.App{
		{ID: rig.AppID, Secret: rig.Secret, OpenPlatform: "company", PushToken: pushToken, PushKey: pushKey},
		{ID: otherApp, Secret: otherSecret, OpenPlatform: "company", PushToken: otherToken, PushKey: otherKey},
	} {
		if err := g.WeChat.AddApp(app); err != nil {
			t.Fatal(err)
		}
	}
	g.Caddy = rig.StartCaddy(t, rig.Site("wx_auth {\napp {env.WX_APPID} {env.WX_SECRET} {\npush {env.PUSH_TOKEN} {env.PUSH_KEY} "+block+"\n}\n"+
		"app "+otherApp+" "+otherSecret+" {\npush "+otherToken+" "+otherKey+"\n}\n"+withKey+"\nwechat {\napi {$WX_API}\n}\n"+
		strings.Join(options, "\n")+"\n}\nreverse_proxy {$UPSTREAM}"),
		append(g.WeChat.Environ(g.Upstream.Addr), "PUSH_TOKEN="+pushToken, "PUSH_KEY="+pushKey)...)
	g.Client = g.Caddy.Client()
	return pushed{g}
}

func (g pushed) url(appid string) string { return g.Base + "/auth/wx/push/" + appid }

// push sends a message to the app, about the user with that number.
func (g pushed) push(t *testing.T, p wechattest.Push) wechattest.PushAnswer {
	t.Helper()
	if p.AppID == "" {
		p.AppID = rig.AppID
	}
	a, err := g.WeChat.Push(t.Context(), g.url(p.AppID), p)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func wantSuccess(t *testing.T, a wechattest.PushAnswer) {
	t.Helper()
	if a.Status != http.StatusOK || a.Body != "success" {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
}

func (g pushed) loginAt(t *testing.T, appid, number string) rig.Pair {
	t.Helper()
	codes := g.WeChat.TapAs(t, appid, number, wechattest.Phone{Number: number})
	return g.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": appid}).Pair(t)
}

func (g pushed) silentAt(t *testing.T, appid, number string) rig.Answer {
	t.Helper()
	return g.Do(http.MethodPost, "/auth/wx", map[string]string{"code": g.WeChat.OpenAs(t, appid, number).Code, "appid": appid})
}

var leaving = map[string]wechattest.Push{
	"phone number revoked": {User: someNumber, Event: "user_authorization_revoke", RevokeInfo: "8"},
	"account cancelled":    {User: someNumber, Event: "user_authorization_cancellation"},
	"cancelled, in XML":    {User: someNumber, Event: "user_authorization_cancellation", XML: true},
}

// WeChat's console verifies the push address when an operator enters it.
func TestPushHandshake(t *testing.T) {
	t.Parallel()
	g := newPushed(t)
	d, err := g.WeChat.Handshake(rig.AppID, "4375120948345356249")
	if err != nil {
		t.Fatal(err)
	}
	a := g.Get("/auth/wx/push/"+rig.AppID+"?"+d.Query.Encode(), "")
	a.Want(t, http.StatusOK)
	if a.Body != "4375120948345356249" || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/plain") || a.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%q %v", a.Body, a.Header)
	}
	g.Get("/auth/wx/push/"+otherApp+"?"+d.Query.Encode(), "").WantProblem(t, http.StatusForbidden, "push_refused", nil)
	g.Get("/auth/wx/push/"+rig.AppID, "").WantProblem(t, http.StatusForbidden, "push_refused", nil)
	for _, appid := range []string{"wx9999999999999999", "", "a/b", rig.AppID + "x"} {
		g.Get("/auth/wx/push/"+appid+"?"+d.Query.Encode(), "").WantProblem(t, http.StatusNotFound, "not_found", nil)
	}
	g.Do(http.MethodPut, "/auth/wx/push/"+rig.AppID, nil).WantProblem(t, http.StatusMethodNotAllowed, "method_not_allowed", nil)
	plain := rig.NewGateway(t)
	plain.Get("/auth/wx/push/"+rig.AppID+"?"+d.Query.Encode(), "").WantProblem(t, http.StatusNotFound, "not_found", nil)
	if n := g.Upstream.Hits() + plain.Upstream.Hits(); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
}

// A user of one app cancels the WeChat account or, where that means the same, withdraws the
// phone number. The user is erased. The log and the events report it without any secret.
func TestPushOfALeavingUserErasesThem(t *testing.T) {
	t.Parallel()
	for name, push := range leaving {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newPushedWith(t, "{\non_phone_revoked erase\n}")
			p, again, other := g.loginAt(t, rig.AppID, someNumber), g.loginAt(t, rig.AppID, someNumber), g.loginAt(t, rig.AppID, anotherOne)
			wantSuccess(t, g.push(t, push))
			g.WantEnded(t, p)
			g.WantEnded(t, again)
			g.WantAlive(t, other)
			serve(g.Gateway, http.MethodGet, userPath+p.UserInfo.ID, nil).WantProblem(t, http.StatusNotFound, "not_found", nil)
			g.silentAt(t, rig.AppID, someNumber).WantProblem(t, http.StatusForbidden, "phone_required", nil)
			if back := g.loginAt(t, rig.AppID, someNumber); back.UserInfo.ID == p.UserInfo.ID || !back.UserInfo.IsNew {
				t.Errorf("they come back as %+v", *back.UserInfo)
			}
			g.Caddy.Log.Wait(t, 20*time.Second, `"a user has left"`, push.Event, p.UserInfo.ID, rig.SessionOf(t, p.Token), `"erased":true`)
			g.Caddy.Log.Wait(t, 20*time.Second, `"name":"wx_auth_revoked"`, p.UserInfo.ID, rig.SessionOf(t, p.Token))
			g.Caddy.Log.Wait(t, 20*time.Second, `"name":"wx_auth_user_erased"`, p.UserInfo.ID)
			for _, line := range append(g.Caddy.Log.Lines(`"logger":"http.handlers.wx_auth"`), g.Caddy.Log.Lines(`"logger":"events"`)...) {
				for _, secret := range g.WeChat.Secrets() {
					if strings.Contains(line, secret) {
						t.Errorf("%q is in the log: %s", secret, line)
					}
				}
			}
		})
	}
}

// A user of two apps leaves one of them. The other app's sessions go on.
func TestPushForOneAppLeavesTheOtherAlone(t *testing.T) {
	t.Parallel()
	g := newPushed(t)
	here, there := g.loginAt(t, rig.AppID, someNumber), g.loginAt(t, otherApp, someNumber)
	wantSuccess(t, g.push(t, leaving["phone number revoked"]))
	g.WantEnded(t, here)
	g.WantAlive(t, there)
	if u := show(t, g.Gateway, here.UserInfo.ID); len(u.OpenIDs) != 1 || u.OpenIDs[0].AppID != otherApp {
		t.Errorf("%+v", u)
	}
	// The other app's unionid does not lead to a silent login either.
	g.silentAt(t, rig.AppID, someNumber).WantProblem(t, http.StatusForbidden, "phone_required", nil)
	if silent := g.silentAt(t, otherApp, someNumber).Pair(t); silent.UserInfo.ID != here.UserInfo.ID {
		t.Error("in the other app they are somebody else")
	}
	// A user who grants the authorization again can log in again.
	back := g.loginAt(t, rig.AppID, someNumber)
	if back.UserInfo.ID != here.UserInfo.ID || back.UserInfo.IsNew {
		t.Errorf("back as %+v", *back.UserInfo)
	}
	g.silentAt(t, rig.AppID, someNumber).Pair(t)

	cancelled := leaving["account cancelled"]
	wantSuccess(t, g.push(t, cancelled))
	g.WantEnded(t, back)
	g.WantAlive(t, there)
	cancelled.AppID = otherApp
	wantSuccess(t, g.push(t, cancelled))
	g.WantEnded(t, there)
	serve(g.Gateway, http.MethodGet, userPath+here.UserInfo.ID, nil).WantProblem(t, http.StatusNotFound, "not_found", nil)
}

// WeChat repeats a message that was not answered in time. A repeated message cannot be
// distinguished from one that an attacker has recorded, so it must be harmless.
func TestPushSentAgainDoesNothing(t *testing.T) {
	t.Parallel()
	g := newPushed(t)
	g.loginAt(t, rig.AppID, someNumber)
	push := leaving["account cancelled"]
	push.AppID = rig.AppID
	d, err := g.WeChat.Deliver(push)
	if err != nil {
		t.Fatal(err)
	}
	send := func() {
		t.Helper()
		a, err := d.Send(t.Context(), g.url(rig.AppID))
		if err != nil {
			t.Fatal(err)
		}
		wantSuccess(t, a)
	}
	send()
	back := g.loginAt(t, rig.AppID, someNumber)
	for range 3 {
		send()
	}
	g.WantAlive(t, back)
	g.Caddy.Stop()
	g.Caddy.Restart()
	send()
	g.WantAlive(t, back)
	if n := len(g.Caddy.Log.Lines(`"a user has left"`)); n != 1 {
		t.Errorf("%d lines of one message", n)
	}
}

// WeChat pushes many kinds of events, which are answered "success" and ignored.
func TestPushOfOtherEventsDoesNothing(t *testing.T) {
	t.Parallel()
	g := newPushed(t)
	p := g.loginAt(t, rig.AppID, someNumber)
	for _, push := range []wechattest.Push{
		{User: someNumber, Event: "user_authorization_revoke", RevokeInfo: "6"},
		{User: someNumber, Event: "user_authorization_revoke", RevokeInfo: "8", PluginID: "wxplugin"},
		{User: someNumber, Event: "user_info_modified"},
		{User: someNumber, Event: "debug_demo", XML: true},
		{Text: `{"MsgType":"text","Content":"hello"}`},
		{User: "a stranger", Event: "user_authorization_cancellation"},
	} {
		wantSuccess(t, g.push(t, push))
	}
	g.WantAlive(t, p)
	g.silentAt(t, rig.AppID, someNumber).Pair(t)
}

// A forged push could erase any user.
func TestPushRefusesForgeries(t *testing.T) {
	t.Parallel()
	g := newPushed(t)
	p := g.loginAt(t, rig.AppID, someNumber)
	var first string
	post := func(name string, d wechattest.Delivery, body []byte) rig.Answer {
		return g.Do(http.MethodPost, "/auth/wx/push/"+rig.AppID+"?"+d.Query.Encode(), string(body), "Content-Type: "+d.ContentType)
	}
	refused := func(name string, a rig.Answer) {
		t.Helper()
		a.WantProblem(t, http.StatusForbidden, "push_refused", nil)
		if whole := a.Whole(t); first == "" {
			first = whole
		} else if whole != first {
			t.Errorf("%s: answers differ:\n%s\n%s", name, whole, first)
		}
	}
	deliver := func(push wechattest.Push) wechattest.Delivery {
		t.Helper()
		d, err := g.WeChat.Deliver(push)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, asXML := range []bool{false, true} {
		for _, forge := range []wechattest.Forgery{
			wechattest.ForgeSignature, wechattest.ForgePlain, wechattest.ForgeKey, wechattest.ForgeApp,
			wechattest.ForgePadding, wechattest.ForgeLength, wechattest.ForgeOld, wechattest.ForgeAhead,
		} {
			d := deliver(wechattest.Push{AppID: rig.AppID, User: someNumber, Event: "user_authorization_cancellation", Forge: forge, XML: asXML})
			refused(string(forge), post(string(forge), d, d.Body))
		}
		foreign := deliver(wechattest.Push{AppID: otherApp, User: someNumber, Event: "user_authorization_cancellation", XML: asXML})
		refused("another app's", post("another app's", foreign, foreign.Body))
	}
	good := deliver(wechattest.Push{AppID: rig.AppID, User: someNumber, Event: "user_authorization_cancellation"})
	for name, body := range map[string]string{
		"empty":       "",
		"garbage":     "\x00\xff{",
		"an XML bomb": `<!DOCTYPE xml [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><xml><Encrypt>&b;</Encrypt></xml>`,
		"deep XML":    strings.Repeat("<xml>", 9_000),
		"deep JSON":   strings.Repeat(`{"a":`, 9_000),
	} {
		refused(name, post(name, good, []byte(body)))
	}
	a := post("oversized", good, append(good.Body, strings.Repeat(" ", 64<<10)...))
	a.WantProblem(t, http.StatusRequestEntityTooLarge, "body_too_large", nil)
	g.WantAlive(t, p)
	for _, reason := range []string{"secure mode", "with this token", "too far from ours", "this EncodingAESKey", "for another app"} {
		g.Caddy.Log.Wait(t, 20*time.Second, `"message push refused"`, reason, rig.AppID)
	}
	wantSuccess(t, g.push(t, wechattest.Push{User: someNumber, Event: "user_authorization_cancellation"}))
	g.WantEnded(t, p)
}

// A push that could not be carried out must not be answered "success", so that WeChat
// sends it again.
func TestFailedPushIsDoneWhenRepeated(t *testing.T) {
	t.Parallel()
	g := newPushed(t)
	p := g.loginAt(t, rig.AppID, someNumber)
	push := leaving["account cancelled"]
	push.AppID = rig.AppID
	d, err := g.WeChat.Deliver(push)
	if err != nil {
		t.Fatal(err)
	}
	unlock := g.Caddy.Lock(t)
	start := time.Now()
	a, err := d.Send(t.Context(), g.url(rig.AppID))
	if err != nil || a.Status != http.StatusServiceUnavailable {
		t.Errorf("within WeChat's five seconds: %d %s %v, after %s", a.Status, a.Body, err, time.Since(start))
	}
	unlock()
	if a, err = d.Send(t.Context(), g.url(rig.AppID)); err != nil {
		t.Fatal(err)
	}
	wantSuccess(t, a)
	g.WantEnded(t, p)
	serve(g.Gateway, http.MethodGet, userPath+p.UserInfo.ID, nil).WantProblem(t, http.StatusNotFound, "not_found", nil)
}

// Each app may call a WeChat of its own, such as the host of another region.
func TestEachAppMayHaveItsOwnAPI(t *testing.T) {
	t.Parallel()
	wx, hk, up := rig.NewWeChat(t), rig.NewWeChat(t), rig.NewUpstream(t)
	if err := hk.AddApp(wechattest.App{ID: otherApp, Secret: otherSecret}); err != nil {
		t.Fatal(err)
	}
	c := rig.StartCaddy(t, rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\napp "+otherApp+" "+otherSecret+" {\napi {$WX_API_HK}\n}\n"+
		"wechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}"), append(wx.Environ(up.Addr), "WX_API_HK="+hk.URL)...)
	client := c.Client()
	ids := make(map[string]bool)
	for appid, at := range map[string]*rig.WeChat{rig.AppID: wx, otherApp: hk} {
		codes := at.TapAs(t, appid, someNumber, wechattest.Phone{Number: someNumber})
		p := client.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": appid}).Pair(t)
		ids[p.UserInfo.ID] = true
	}
	if len(ids) != 1 {
		t.Errorf("one number is %d users", len(ids))
	}
	rig.WantCalls(t, wx, 1, 1)
	rig.WantCalls(t, hk, 1, 1)
}
