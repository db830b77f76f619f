package directories

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

const (
	backendKey = "5f2b8c0d9e1a4f7c6b3d2e8f0a1c9b7d"
	pushToken  = "tokenTOKEN0123456789"
	pushKey    = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
)

var bothCodes = []string{"code", "phoneCode"}

// onHooked runs a test over each database, with a backend and with WeChat's pushes.
func onHooked(t *testing.T, test func(t *testing.T, g *rig.Gateway, b *backend, db *rig.Database)) {
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		b := newBackend(t)
		g := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
		if err := g.WeChat.AddApp(wechattest.App{ID: rig.AppID, Secret: rig.Secret, PushToken: pushToken, PushKey: pushKey}); err != nil {
			t.Fatal(err)
		}
		env := append(append(g.WeChat.Environ(g.Upstream.Addr), db.Environ()...), "HOOK="+b.url, "HOOK_SECRET="+secret)
		g.Caddy = rig.StartCaddy(t, rig.Site("wx_auth {\napp {env.WX_APPID} {env.WX_SECRET} {\npush "+pushToken+" "+pushKey+"\n}\n"+
			"users webhook {env.HOOK} {\nsecret {env.HOOK_SECRET}\n}\nservice_key "+backendKey+"\n"+
			"store {env.WX_AUTH_STORE}\nencryption_key {env.WX_AUTH_KEY}\nwechat {\napi {$WX_API}\ntimeout 15s\n}\n}\nreverse_proxy {$UPSTREAM}"), env...)
		g.Client = g.Caddy.Client()
		test(t, g, b, db)
	})
}

func eraseUser(t *testing.T, g *rig.Gateway, id string) {
	t.Helper()
	g.Do(http.MethodDelete, "/auth/wx/service/users/"+id, nil, rig.Bearer(backendKey)...).Want(t, http.StatusNoContent)
}

// holdEvent makes the backend hold back its next answer to an event of that name.
func (b *backend) holdEvent(t *testing.T, name string) (asked <-chan struct{}, release func()) {
	t.Helper()
	reached, gate := make(chan struct{}), make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(release)
	var once sync.Once
	b.says(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		e := b.asked[len(b.asked)-1]
		b.mu.Unlock()
		if e.Type == name {
			once.Do(func() {
				close(reached)
				<-gate
			})
		}
		usual(w, e)
	})
	return reached, release
}

// A user is erased while one of their logins is under way, at WeChat or in the
// directory. That login must fail and leave nothing behind. The client learns which
// codes to fetch, and with them the login creates a new user.
func TestErasureBesideALogin(t *testing.T) {
	t.Parallel()
	onHooked(t, func(t *testing.T, g *rig.Gateway, b *backend, db *rig.Database) {
		nothing := func(what string) {
			t.Helper()
			if n := db.Count(t, `SELECT COUNT(*) FROM wx_auth_bindings`); n != 0 {
				t.Errorf("%s: %d bindings are left", what, n)
			}
			if n := db.Count(t, `SELECT COUNT(*) FROM wx_auth_sessions WHERE ended_at = 0`); n != 0 {
				t.Errorf("%s: %d sessions are live", what, n)
			}
		}
		g.MustLogin(t, number)

		codes := g.WeChat.Tap(t, number)
		release := g.WeChat.Hold(t, wechattest.PhoneNumber)
		login := rig.InBackground(func() rig.Answer { return g.Login(codes.Code, codes.PhoneCode) })
		rig.Await(t, 10*time.Second, "the phone code is on its way", func() bool { return g.WeChat.Count(wechattest.PhoneNumber).Total == 2 })
		eraseUser(t, g, "m"+number)
		release()
		(<-login).WantProblem(t, http.StatusBadRequest, "phone_code_invalid", bothCodes)
		nothing("in WeChat")
		g.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusBadRequest, "phone_code_invalid", bothCodes)
		nothing("sent again")
		g.MustLogin(t, number)

		codes = g.WeChat.Tap(t, number)
		asked, release := b.holdEvent(t, "user.login")
		login = rig.InBackground(func() rig.Answer { return g.Login(codes.Code, codes.PhoneCode) })
		<-asked
		eraseUser(t, g, "m"+number)
		release()
		(<-login).WantProblem(t, http.StatusBadRequest, "phone_code_invalid", bothCodes)
		nothing("in the directory")
		g.Login(g.WeChat.Open(t, number).Code, codes.PhoneCode).WantProblem(t, http.StatusBadRequest, "phone_code_invalid", bothCodes)
		nothing("with a new login code")
		g.MustLogin(t, number)

		code := g.WeChat.Open(t, number).Code
		asked, release = b.holdEvent(t, "user.login")
		login = rig.InBackground(func() rig.Answer { return g.Silent(code) })
		<-asked
		eraseUser(t, g, "m"+number)
		release()
		(<-login).WantProblem(t, http.StatusForbidden, "phone_required", nil)
		nothing("silently")

		// The first attempt fails at WeChat before the erasure. The same codes are sent again
		// after the erasure.
		g.MustLogin(t, number)
		codes = g.WeChat.Tap(t, number)
		busy := wechattest.Fault{Call: wechattest.PhoneNumber, Kind: wechattest.Errcode, Code: codes.PhoneCode, Count: 3}
		if err := g.WeChat.Inject(busy); err != nil {
			t.Fatal(err)
		}
		g.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusServiceUnavailable, "wechat_unavailable", []string{})
		eraseUser(t, g, "m"+number)
		g.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusBadRequest, "phone_code_invalid", bothCodes)
		nothing("failed before")
		g.MustLogin(t, number)
	})
}

// A user of an external directory who was disabled here stays disabled after an
// erasure.
func TestErasureKeepsUsersDisabled(t *testing.T) {
	t.Parallel()
	onHooked(t, func(t *testing.T, g *rig.Gateway, _ *backend, _ *rig.Database) {
		p := g.MustLogin(t, number)
		path := "/auth/wx/service/users/" + p.UserInfo.ID
		g.Do(http.MethodPatch, path, map[string]bool{"disabled": true}, rig.Bearer(backendKey)...).Want(t, http.StatusNoContent)
		eraseUser(t, g, p.UserInfo.ID)
		codes := g.WeChat.Tap(t, number)
		g.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusForbidden, "user_disabled", nil)
		g.Do(http.MethodPatch, path, map[string]bool{"disabled": false}, rig.Bearer(backendKey)...).Want(t, http.StatusNoContent)
		g.MustLogin(t, number)
	})
}

// WeChat reports that a user has cancelled their account, and the backend is slow to
// erase them. If they log in with their phone meanwhile, what is stored about them here
// stays.
func TestPhoneLoginBesideAPush(t *testing.T) {
	t.Parallel()
	onHooked(t, func(t *testing.T, g *rig.Gateway, b *backend, _ *rig.Database) {
		first := g.MustLogin(t, number)
		asked, release := b.holdEvent(t, "user.erase")
		push := rig.InBackground(func() wechattest.PushAnswer {
			a, err := g.WeChat.Push(t.Context(), g.Base+"/auth/wx/push/"+rig.AppID, wechattest.Push{
				AppID: rig.AppID, User: "+86" + number, Event: "user_authorization_cancellation",
			})
			if err != nil {
				t.Error(err)
			}
			return a
		})
		<-asked
		g.WantEnded(t, first)
		back := g.MustLogin(t, number)
		release()
		if a := <-push; !strings.Contains(a.Body, "success") && a.Status != http.StatusServiceUnavailable {
			t.Errorf("%+v", a)
		}
		g.Caddy.Log.Wait(t, 10*time.Second, `"a user has left"`, `"erased":false`)
		g.WantAlive(t, back)
		g.Refresh(back.RefreshToken).Pair(t)
		g.Silent(g.WeChat.Open(t, number).Code).Pair(t)
	})
}

// With an external directory, the rules for recycled numbers are the same.
func TestRecycledNumberElsewhere(t *testing.T) {
	t.Parallel()
	onHooked(t, func(t *testing.T, g *rig.Gateway, b *backend, _ *rig.Database) {
		login := func(who, national string) rig.Pair {
			t.Helper()
			codes := g.WeChat.TapAs(t, rig.AppID, who, phoneOf(national))
			return g.Login(codes.Code, codes.PhoneCode).Pair(t)
		}
		alice := login("alice", number)
		moved := login("alice", other)
		g.WantEnded(t, alice)
		bob := login("bob", number)
		if bob.UserInfo.ID != alice.UserInfo.ID || moved.UserInfo.ID == alice.UserInfo.ID {
			t.Errorf("Alice %+v, then %+v; Bob %+v", *alice.UserInfo, *moved.UserInfo, *bob.UserInfo)
		}
		carol := login("carol", number)
		g.WantEnded(t, bob)
		g.WantAlive(t, carol)
		g.WantAlive(t, moved)
		g.Silent(g.WeChat.OpenAs(t, rig.AppID, "bob").Code).WantProblem(t, http.StatusForbidden, "phone_required", nil)
		g.Silent(g.WeChat.OpenAs(t, rig.AppID, "carol").Code).Pair(t)
	})
}
