package directories

import (
	"net/http"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// The backend remembers the openids of a number's former owners. After Alice came Bob, and after
// him Carol. Neither of the former owners gets in without a phone login, and Carol does.
func TestRememberedOwnerStaysOut(t *testing.T) {
	t.Parallel()
	for _, rule := range []string{"replace", "deny"} {
		g, b := newHooked(t, "on_new_openid "+rule)
		b.says(func(w http.ResponseWriter, _ *http.Request) { body(200, `{"id":"m`+number+`"}`)(w, nil) })
		phone := func(who string) rig.Answer {
			codes := g.WeChat.TapAs(t, rig.AppID, who, phoneOf(number))
			return g.Login(codes.Code, codes.PhoneCode)
		}
		silent := func(who string) rig.Answer { return g.Silent(g.WeChat.OpenAs(t, rig.AppID, who).Code) }
		phone("alice").Pair(t)
		if rule == "deny" {
			phone("bob").WantProblem(t, http.StatusForbidden, "new_openid_denied", nil)
			silent("alice").Pair(t)
			continue
		}
		phone("bob").Pair(t)
		phone("carol").Pair(t)
		for _, who := range []string{"alice", "bob"} {
			silent(who).WantProblem(t, http.StatusForbidden, "phone_required", nil)
		}
		silent("carol").Pair(t)
	}
}

// The backend remembers Alice in another mini program, which she has not used here yet. Bob has the
// number now. Alice does not get in there without a phone login, and Bob does after his own.
func TestRememberedElsewhereStaysOut(t *testing.T) {
	t.Parallel()
	const otherApp, otherSecret = "wx2222222222222222", "22222222222222222222222222222222"
	g, b := newHooked(t, "app "+otherApp+" "+otherSecret)
	if err := g.WeChat.AddApp(wechattest.App{ID: otherApp, Secret: otherSecret}); err != nil {
		t.Fatal(err)
	}
	b.says(func(w http.ResponseWriter, _ *http.Request) { body(200, `{"id":"m`+number+`"}`)(w, nil) })
	phone := func(appid, who string) rig.Answer {
		codes := g.WeChat.TapAs(t, appid, who, phoneOf(number))
		return g.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": appid})
	}
	silent := func(appid, who string) rig.Answer {
		return g.Do(http.MethodPost, "/auth/wx", map[string]string{"code": g.WeChat.OpenAs(t, appid, who).Code, "appid": appid})
	}
	silent(otherApp, "dan").Pair(t) // nobody has logged in with the number
	phone(rig.AppID, "alice").Pair(t)
	phone(rig.AppID, "bob").Pair(t)
	silent(otherApp, "alice").WantProblem(t, http.StatusForbidden, "phone_required", nil)
	silent(rig.AppID, "bob").Pair(t)
	phone(otherApp, "bob").Pair(t)
	silent(otherApp, "bob").Pair(t)
}
