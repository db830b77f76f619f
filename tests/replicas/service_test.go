package replicas

import (
	"net/http"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

const serviceKey = "5f2b8c0d9e1a4f7c6b3d2e8f0a1c9b7d"

// The backend or WeChat ends, disables or erases a user through one replica. The other replica
// must follow in time, also for open WebSockets.
func TestUserIsThrownOutEverywhere(t *testing.T) {
	t.Parallel()
	const token, key = "tokenTOKEN0123456789", "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		replicas := rig.NewReplicasWith(t, db, 2, rig.Site("wx_auth {\napp {env.WX_APPID} {env.WX_SECRET} {\npush "+token+" "+key+"\n}\n"+
			"store {env.WX_AUTH_STORE}\nencryption_key {env.WX_AUTH_KEY}\nservice_key "+serviceKey+"\nwechat {\napi {$WX_API}\ntimeout 15s\n}\n}\nreverse_proxy {$UPSTREAM}"))
		a, b := replicas[0], replicas[1]
		if err := a.WeChat.AddApp(wechattest.App{ID: rig.AppID, Secret: rig.Secret, PushToken: token, PushKey: key}); err != nil {
			t.Fatal(err)
		}
		serve := func(method, path string, body any) {
			t.Helper()
			a.Do(method, "/auth/wx/service/"+path, body, rig.Bearer(serviceKey)...).Want(t, http.StatusNoContent)
		}
		a.Upstream.SetHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/ws") {
				rig.EchoUpgrade(w, r)
			}
		}))
		for _, c := range []struct {
			name   string
			throw  func(user rig.Pair)
			silent string // the refusal of a silent login afterwards; empty: it succeeds
		}{
			{"revoke session", func(p rig.Pair) {
				serve(http.MethodPost, "revoke", map[string]string{"sessionId": rig.SessionOf(t, p.Token)})
			}, ""},
			{"revoke user", func(p rig.Pair) { serve(http.MethodPost, "revoke", map[string]string{"userId": p.UserInfo.ID}) }, ""},
			{"disable", func(p rig.Pair) { serve(http.MethodPatch, "users/"+p.UserInfo.ID, map[string]bool{"disabled": true}) }, "user_disabled"},
			{"erase", func(p rig.Pair) { serve(http.MethodDelete, "users/"+p.UserInfo.ID, nil) }, "phone_required"},
			{"push", func(rig.Pair) {
				answer, err := a.WeChat.Push(t.Context(), a.Base+"/auth/wx/push/"+rig.AppID, wechattest.Push{
					AppID: rig.AppID, User: "+86" + number, Event: "user_authorization_cancellation",
				})
				if err != nil || answer.Body != "success" {
					t.Fatalf("%+v %v", answer, err)
				}
			}, "phone_required"},
		} {
			p := b.MustLogin(t, number)
			socket := rig.OpenSocket(t, b.Caddy.Addr, "/ws", p.Token)
			socket.Alive(t)
			b.WantAlive(t, p)
			c.throw(p)
			socket.Ends(t, patience) // logout_test.go measures how soon
			wantEndedEverywhere(t, replicas, p)
			silent := b.Silent(b.WeChat.Open(t, number).Code)
			if c.silent == "" {
				silent.Pair(t)
			} else {
				silent.WantProblem(t, http.StatusForbidden, c.silent, nil)
			}
			if c.name == "disable" {
				serve(http.MethodPatch, "users/"+p.UserInfo.ID, map[string]bool{"disabled": false})
			}
		}
	})
}
