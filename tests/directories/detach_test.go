package directories

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

func withdraw(t *testing.T, g *rig.Gateway, who string) {
	t.Helper()
	a, err := g.WeChat.Push(t.Context(), g.Base+"/auth/wx/push/"+rig.AppID, wechattest.Push{
		AppID: rig.AppID, User: who, Event: "user_authorization_revoke", RevokeInfo: "8",
	})
	if err != nil || a.Body != "success" {
		t.Fatal(a, err)
	}
}

func loginAs(t *testing.T, g *rig.Gateway, who, national string) rig.Answer {
	t.Helper()
	codes := g.WeChat.TapAs(t, rig.AppID, who, phoneOf(national))
	return g.Login(codes.Code, codes.PhoneCode)
}

// changing is a backend that changes numbers. It has one user, and creates another one for
// every other number.
type changing struct {
	*backend
	number string // of the user; empty: none
}

func (c *changing) answer(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.asked[len(c.asked)-1]
	switch {
	case e.Type == "user.phone" && e.UserID == "ann" && e.Phone == "":
		c.number = ""
		body(http.StatusOK, `{"phone":null}`)(w, r)
	case e.Type == "user.phone" && e.UserID == "ann":
		c.number = e.Phone
		body(http.StatusOK, `{"phone":"`+e.Phone+`"}`)(w, r)
	case e.Type == "user.check" && e.UserID == "ann", e.Type == "user.login" && e.Phone != "" && e.Phone == c.number:
		body(http.StatusOK, `{"id":"ann"}`)(w, r)
	case e.Type == "user.login" && e.Phone != "":
		body(http.StatusCreated, `{"id":"new`+e.Phone[1:]+`"}`)(w, r)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// A user withdraws the number, and the backend removes it. At the user's next phone login the
// backend sets the new one. The service endpoint asks the backend as well.
func TestWebhookDetachesUsers(t *testing.T) {
	t.Parallel()
	onHooked(t, func(t *testing.T, g *rig.Gateway, b *backend, db *rig.Database) {
		there := &changing{backend: b, number: "+86" + number}
		b.says(there.answer)
		ann := loginAs(t, g, "ann", number).Pair(t)
		if ann.UserInfo.ID != "ann" {
			t.Fatalf("%+v", *ann.UserInfo)
		}
		withdraw(t, g, "ann")
		g.WantEnded(t, ann)
		g.Caddy.Log.Wait(t, 10*time.Second, `"a user has left"`, `"detached":true`)
		if bob := loginAs(t, g, "bob", number).Pair(t); bob.UserInfo.ID != "new86"+number {
			t.Errorf("the number's next owner: %+v", *bob.UserInfo)
		}
		back := loginAs(t, g, "ann", other)
		if p := back.Pair(t); p.UserInfo.ID != "ann" || strings.Contains(back.Body, "moved") {
			t.Errorf("back as %s", back.Body)
		}
		g.Do(http.MethodPatch, "/auth/wx/service/users/ann", `{"phone":null}`, rig.Bearer(backendKey)...).Want(t, http.StatusNoContent)
		g.WantEnded(t, back.Pair(t))
		if there.number != "" || db.Count(t, `SELECT COUNT(*) FROM wx_auth_bindings WHERE user_id = 'ann' AND phone IS NOT NULL`) != 0 {
			t.Error("the number is still there")
		}
		g.Do(http.MethodPatch, "/auth/wx/service/users/nobody", `{"phone":null}`, rig.Bearer(backendKey)...).WantProblem(t, http.StatusNotFound, "not_found", nil)
	})
}

// A backend from before `user.phone` cannot remove a number. A withdrawal then erases the
// user, as before.
func TestOldBackendErasesInstead(t *testing.T) {
	t.Parallel()
	g, _ := newHooked(t, "service_key "+backendKey)
	p := g.MustLogin(t, number)
	g.Do(http.MethodPatch, "/auth/wx/service/users/"+p.UserInfo.ID, `{"phone":null}`, rig.Bearer(backendKey)...).WantProblem(t, http.StatusConflict, "not_here", nil)
	g.WantAlive(t, p)
	onHooked(t, func(t *testing.T, g *rig.Gateway, b *backend, db *rig.Database) {
		ann := loginAs(t, g, "ann", number).Pair(t)
		withdraw(t, g, "ann")
		g.WantEnded(t, ann)
		g.Caddy.Log.Wait(t, 10*time.Second, `"a user has left"`, `"erased":true`)
		if n := db.Count(t, `SELECT COUNT(*) FROM wx_auth_bindings`); n != 0 {
			t.Errorf("%d bindings are left", n)
		}
		events := b.events()
		if last := events[len(events)-1]; last.Type != "user.erase" || last.UserID != ann.UserInfo.ID {
			t.Errorf("the backend was asked %+v", last)
		}
	})
}

// A table with a `phone` query keeps the row of a member who withdraws the number.
func TestTableDetachesMembers(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, g *rig.Gateway, db *rig.Database) {
		if err := g.WeChat.AddApp(wechattest.App{ID: rig.AppID, Secret: rig.Secret, PushToken: pushToken, PushKey: pushKey}); err != nil {
			t.Fatal(err)
		}
		null := `ALTER TABLE members ALTER COLUMN mobile DROP NOT NULL`
		if db.Kind == "mysql" {
			null = `ALTER TABLE members MODIFY mobile VARCHAR(20) NULL UNIQUE`
		}
		db.Run(t, null)
		g.Start(t, rig.Site("wx_auth {\napp {env.WX_APPID} {env.WX_SECRET} {\npush "+pushToken+" "+pushKey+"\n}\n"+
			"users sql {env.MEMBERS_DB} {\n"+strings.Join([]string{find, create, check, "phone `UPDATE members SET mobile = :national WHERE id = :id AND COALESCE(:country, '86') = '86'`"}, "\n")+
			"\n}\nwechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}"))
		ann := loginAs(t, g, "ann", number).Pair(t)
		withdraw(t, g, "ann")
		g.WantEnded(t, ann)
		if n := db.Count(t, `SELECT COUNT(*) FROM members WHERE id = 41 AND mobile IS NULL`); n != 1 {
			t.Error("the member has the number")
		}
		if bob := loginAs(t, g, "bob", number).Pair(t); bob.UserInfo.ID == "41" {
			t.Errorf("%+v", *bob.UserInfo)
		}
		if back := loginAs(t, g, "ann", other).Pair(t); back.UserInfo.ID != "41" {
			t.Errorf("back as %+v", *back.UserInfo)
		}
	})
}
