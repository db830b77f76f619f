package logins

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// loginAs logs a WeChat account in to an app with a number.
func (g pushed) loginAs(t *testing.T, who, appid, number string) rig.Answer {
	t.Helper()
	codes := g.WeChat.TapAs(t, appid, who, wechattest.Phone{Number: number})
	return g.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": appid})
}

// withdraw makes WeChat report that an account has withdrawn its number.
func (g pushed) withdraw(t *testing.T, who, appid string) {
	t.Helper()
	wantSuccess(t, g.push(t, wechattest.Push{AppID: appid, User: who, Event: "user_authorization_revoke", RevokeInfo: "8"}))
}

func findPhone(g *rig.Gateway, number string) rig.Answer {
	return serve(g, http.MethodPost, "/auth/wx/service/users/find", map[string]string{"phone": "+86" + number})
}

// Alice withdraws her number. Her account stays, without a number, and nobody else gets in.
// Her next phone login brings her back, in this app or in another app of the same company.
func TestWithdrawnNumberKeepsTheAccount(t *testing.T) {
	t.Parallel()
	for name, appid := range map[string]string{"by her openid": rig.AppID, "by her unionid": otherApp} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newPushed(t)
			alice := g.loginAs(t, "alice", rig.AppID, someNumber).Pair(t)
			g.withdraw(t, "alice", rig.AppID)
			g.WantEnded(t, alice)
			g.silentAt(t, rig.AppID, "alice").WantProblem(t, http.StatusForbidden, "phone_required", nil)
			findPhone(g.Gateway, someNumber).WantProblem(t, http.StatusNotFound, "not_found", nil)
			for _, path := range []string{"", "/export"} {
				a := serve(g.Gateway, http.MethodGet, userPath+alice.UserInfo.ID+path, nil)
				if a.Want(t, http.StatusOK); strings.Contains(a.Body, someNumber) {
					t.Errorf("her number is still there: %s", a.Body)
				}
			}
			if bob := g.loginAs(t, "bob", rig.AppID, someNumber).Pair(t); bob.UserInfo.ID == alice.UserInfo.ID || !bob.UserInfo.IsNew {
				t.Errorf("Bob: %+v", *bob.UserInfo)
			}
			a := g.loginAs(t, "alice", appid, anotherOne)
			back := a.Pair(t)
			if back.UserInfo.ID != alice.UserInfo.ID || back.UserInfo.IsNew || back.UserInfo.PurePhoneNumber != anotherOne || strings.Contains(a.Body, "moved") {
				t.Errorf("back as %s", a.Body)
			}
			g.WantAlive(t, back)
			g.silentAt(t, appid, "alice").Pair(t)
			findPhone(g.Gateway, anotherOne).Want(t, http.StatusOK)
			g.Caddy.Log.Wait(t, 20*time.Second, `"a user has left"`, alice.UserInfo.ID, `"detached":true`, `"erased":false`)
			g.Caddy.Log.Wait(t, 20*time.Second, `"name":"wx_auth_phone_changed"`, alice.UserInfo.ID)
		})
	}
}

// Withdrawing the number and coming back with another one must not lift a ban. A user whose
// WeChat account is cancelled after the withdrawal is erased.
func TestDetachedUserStaysBannedOrGone(t *testing.T) {
	t.Parallel()
	g := newPushed(t)
	alice := g.loginAs(t, "alice", rig.AppID, someNumber).Pair(t)
	g.withdraw(t, "alice", rig.AppID)
	path := userPath + alice.UserInfo.ID
	serve(g.Gateway, http.MethodPatch, path, map[string]bool{"disabled": true}).Want(t, http.StatusNoContent)
	g.loginAs(t, "alice", rig.AppID, anotherOne).WantProblem(t, http.StatusForbidden, "user_disabled", nil)
	wantSuccess(t, g.push(t, wechattest.Push{User: "alice", Event: "user_authorization_cancellation"}))
	serve(g.Gateway, http.MethodGet, path, nil).WantProblem(t, http.StatusNotFound, "not_found", nil)
	if back := g.loginAs(t, "alice", rig.AppID, anotherOne).Pair(t); back.UserInfo.ID == alice.UserInfo.ID || !back.UserInfo.IsNew {
		t.Errorf("%+v", *back.UserInfo)
	}
}

// A shop's lawyers want users to be erased when they withdraw their number. The setting
// applies to one app only.
func TestWithdrawnNumberErasesIfSet(t *testing.T) {
	t.Parallel()
	g := newPushedWith(t, "{\non_phone_revoked erase\n}")
	alice, carol := g.loginAs(t, "alice", rig.AppID, someNumber).Pair(t), g.loginAs(t, "carol", otherApp, anotherOne).Pair(t)
	g.withdraw(t, "alice", rig.AppID)
	g.withdraw(t, "carol", otherApp)
	serve(g.Gateway, http.MethodGet, userPath+alice.UserInfo.ID, nil).WantProblem(t, http.StatusNotFound, "not_found", nil)
	serve(g.Gateway, http.MethodGet, userPath+carol.UserInfo.ID, nil).Want(t, http.StatusOK)
}

// The backend takes the number from an unused account, so that the number's next owner begins
// a new one. The WeChat account of the unused account can still log in silently, without a
// number.
func TestBackendTakesANumber(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, withKey)
	alice := g.MustLogin(t, someNumber)
	path := userPath + alice.UserInfo.ID
	serve(g, http.MethodPatch, path, `{"phone":null}`).Want(t, http.StatusNoContent)
	g.WantEnded(t, alice)
	findPhone(g, someNumber).WantProblem(t, http.StatusNotFound, "not_found", nil)
	a := serve(g, http.MethodGet, path+"/export", nil)
	if a.Want(t, http.StatusOK); strings.Contains(a.Body, someNumber) {
		t.Errorf("the number is still there: %s", a.Body)
	}
	silent := g.Silent(g.WeChat.Open(t, someNumber).Code).Pair(t)
	if silent.UserInfo.ID != alice.UserInfo.ID || silent.UserInfo.PhoneNumber != "" {
		t.Errorf("silently: %+v", *silent.UserInfo)
	}
	g.Get("/", silent.Token).Seen(t).WantHeader(t, "X-WX-PHONE", "")
	codes := g.WeChat.TapAs(t, rig.AppID, "bob", wechattest.Phone{Number: someNumber})
	if bob := g.Login(codes.Code, codes.PhoneCode).Pair(t); bob.UserInfo.ID == alice.UserInfo.ID || !bob.UserInfo.IsNew {
		t.Errorf("the next owner: %+v", *bob.UserInfo)
	}
	serve(g, http.MethodPatch, path, `{"phone":null}`).Want(t, http.StatusNoContent)
	serve(g, http.MethodPatch, userPath+noSuchUserID, `{"phone":null}`).WantProblem(t, http.StatusNotFound, "not_found", nil)
	for _, body := range []string{`{}`, `{"phone":"+8613900139000"}`, `{"phone":""}`, `{"phone":null,"disabled":true}`, `{"phone":[]}`} {
		serve(g, http.MethodPatch, path, body).WantProblem(t, http.StatusBadRequest, "invalid_request", nil)
	}
	g.Caddy.Log.Wait(t, 20*time.Second, `"service: take phone"`, alice.UserInfo.ID)
	g.Caddy.Log.Wait(t, 20*time.Second, `"name":"wx_auth_phone_changed"`, alice.UserInfo.ID)
}

// Bob owns Alice's old number, logs in with it in another app, and moves on to a new one. Alice
// then withdraws the old number, or closes her account. Neither lets her into what was his, nor
// erases it: with her next number she is a new user, and he comes back with his own.
func TestPutOutOwnerLeaves(t *testing.T) {
	t.Parallel()
	for _, cancels := range []bool{false, true} {
		g := newPushed(t)
		g.loginAs(t, "alice", otherApp, someNumber).Pair(t)
		bob := g.loginAs(t, "bob", rig.AppID, someNumber).Pair(t)
		g.loginAs(t, "bob", rig.AppID, "13700137000").Pair(t)
		if cancels {
			wantSuccess(t, g.push(t, wechattest.Push{AppID: otherApp, User: "alice", Event: "user_authorization_cancellation"}))
		} else {
			g.withdraw(t, "alice", otherApp)
		}
		if alice := g.loginAs(t, "alice", otherApp, anotherOne).Pair(t); alice.UserInfo.ID == bob.UserInfo.ID || !alice.UserInfo.IsNew {
			t.Errorf("she closed her account: %v. She is let into his: %+v", cancels, *alice.UserInfo)
		}
		if back := g.loginAs(t, "bob", rig.AppID, someNumber).Pair(t); back.UserInfo.ID != bob.UserInfo.ID {
			t.Errorf("she closed her account: %v. His was %s, now it is %s", cancels, bob.UserInfo.ID, back.UserInfo.ID)
		}
	}
}
