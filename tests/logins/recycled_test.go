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

// Alice logs in with a new number, and so becomes another user. Her mini program learns
// this from the answer, even if the first answer was lost, and can offer to change the
// number of the old account instead.
func TestMovedIsInEveryAnswer(t *testing.T) {
	t.Parallel()
	g := newPushed(t)
	login := func(appid string, codes wechattest.Codes) string {
		t.Helper()
		a := g.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": appid})
		a.Pair(t)
		return a.Body
	}
	tap := func(appid, number string) wechattest.Codes {
		return g.WeChat.TapAs(t, appid, "alice", wechattest.Phone{Number: number})
	}
	for name, appid := range map[string]string{"her openid": rig.AppID, "her unionid": otherApp} {
		t.Run(name, func(t *testing.T) {
			if body := login(rig.AppID, tap(rig.AppID, someNumber)); name == "her openid" && strings.Contains(body, "moved") {
				t.Errorf("the first login: %s", body)
			}
			codes := tap(appid, anotherOne)
			for range 2 {
				if body := login(appid, codes); !strings.Contains(body, `"moved":true`) {
					t.Errorf("%s", body)
				}
			}
			if body := login(appid, tap(appid, anotherOne)); strings.Contains(body, "moved") {
				t.Errorf("the next login: %s", body)
			}
			silent := g.silentAt(t, appid, "alice")
			if silent.Pair(t); strings.Contains(silent.Body, "moved") {
				t.Errorf("silently: %s", silent.Body)
			}
		})
	}
}

// Bob owns Alice's number now and logs in to another mini program. The backend sees
// that her openid is suspended. When she proves that she does have the number, it
// becomes active again, and an event reports it.
func TestSuspendedOpenIDIsShownAndReturns(t *testing.T) {
	t.Parallel()
	g := newPushed(t)
	login := func(who, appid string) rig.Pair {
		t.Helper()
		codes := g.WeChat.TapAs(t, appid, who, wechattest.Phone{Number: someNumber})
		return g.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": appid}).Pair(t)
	}
	suspended := func(id string) (n int) {
		t.Helper()
		a := serve(g.Gateway, http.MethodGet, userPath+id, nil)
		a.Want(t, http.StatusOK)
		return strings.Count(a.Body, `"suspended":true`)
	}
	alice := login("alice", otherApp)
	if n := suspended(alice.UserInfo.ID); n != 0 {
		t.Errorf("%d suspended", n)
	}
	bob := login("bob", rig.AppID)
	g.WantEnded(t, alice)
	if n := suspended(alice.UserInfo.ID); n != 1 {
		t.Errorf("%d suspended after Bob's login", n)
	}
	g.Caddy.Log.Wait(t, 20*time.Second, `"name":"wx_auth_phone_rebound"`, rig.SessionOf(t, bob.Token))
	back := login("alice", otherApp)
	g.WantAlive(t, bob)
	if n := suspended(alice.UserInfo.ID); n != 0 {
		t.Errorf("%d suspended after she is back", n)
	}
	g.Caddy.Log.Wait(t, 20*time.Second, `"name":"wx_auth_phone_rebound"`, rig.SessionOf(t, back.Token))
}

// In WeChat's pushes in JSON, a name may begin with a blank.
func TestPushWithBlanksInItsNames(t *testing.T) {
	t.Parallel()
	g := newPushed(t)
	codes := g.WeChat.TapAs(t, rig.AppID, someNumber, wechattest.Phone{Number: someNumber})
	p := g.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": rig.AppID}).Pair(t)
	wantSuccess(t, g.push(t, wechattest.Push{Text: fmt.Sprintf(`{" ToUserName":"gh_1"," FromUserName":"o1"," CreateTime":%d," MsgType":"event",`+
		`" Event":"user_authorization_cancellation"," OpenID":%q," AppID":%q," RevokeInfo":"","\tPluginID":""}`, time.Now().Unix(), codes.OpenID, rig.AppID)}))
	g.WantEnded(t, p)
}
