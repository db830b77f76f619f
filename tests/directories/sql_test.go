package directories

import (
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

func phoneOf(national string) wechattest.Phone { return wechattest.Phone{Number: national} }

// members is a table such as a team may have.
const members = `CREATE TABLE members (
	id INTEGER NOT NULL PRIMARY KEY,
	mobile VARCHAR(20) NOT NULL UNIQUE,
	nick_name VARCHAR(50) NOT NULL DEFAULT '',
	role VARCHAR(20) NOT NULL DEFAULT 'member',
	banned BOOLEAN NOT NULL DEFAULT FALSE)`

const columns = "SELECT id, nick_name, role AS \"claims.role\", banned AS disabled FROM members "

func tableSite(queries ...string) string {
	return rig.GatewaySite("users sql {env.MEMBERS_DB} {\n"+strings.Join(queries, "\n")+"\n}",
		"identity X-WX-USER-ID id", "identity X-WX-PHONE phone", "identity X-Role claims.role")
}

const (
	find   = "find `" + columns + "WHERE mobile = :national AND :country = '86'`"
	create = "create `INSERT INTO members (id, mobile) SELECT 1 + COALESCE(MAX(id), 0), :national FROM members HAVING :country = '86'`"
	check  = "check `" + columns + "WHERE id = :id`"
)

// onServers runs a test with a members table in each database server.
func onServers(t *testing.T, test func(t *testing.T, g *rig.Gateway, db *rig.Database)) {
	for _, kind := range []string{"postgres", "mysql"} {
		t.Run(kind, func(t *testing.T) {
			db := rig.NewDatabase(t, kind)
			db.Run(t, members)
			db.Run(t, `INSERT INTO members (id, mobile, nick_name, role) VALUES (41, '13800138000', '安安', 'admin')`)
			g := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
			g.Caddy = rig.NewCaddy(t, append(g.WeChat.Environ(g.Upstream.Addr), "MEMBERS_DB="+db.URL)...)
			g.Client = g.Caddy.Client()
			test(t, g, db)
		})
	}
}

// Members of a team's table log in, refresh and log out. Someone whose number is not in
// the table is refused, or created by `create`.
func TestMembersOfATableLogIn(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, g *rig.Gateway, db *rig.Database) {
		g.Start(t, tableSite(find, check))
		codes := g.WeChat.Tap(t, number)
		a := g.Login(codes.Code, codes.PhoneCode)
		p := a.Pair(t)
		if p.UserInfo.ID != "41" || p.UserInfo.IsNew || !strings.Contains(a.Body, `"nick_name":"安安"`) {
			t.Errorf("%s", a.Body)
		}
		p = g.Refresh(p.RefreshToken).Pair(t)
		seen := g.Get("/", p.Token, "X-Role: root").Seen(t)
		seen.WantHeader(t, "X-WX-USER-ID", "41")
		seen.WantHeader(t, "X-WX-PHONE", "+86"+number)
		seen.WantHeader(t, "X-Role", "admin")

		codes = g.WeChat.Tap(t, other) // no create query is configured
		g.Login(codes.Code, codes.PhoneCode).WantProblem(t, 403, "registration_closed", nil)
		g.MustReload(t, tableSite(find, create, check))
		made := g.Login(codes.Code, codes.PhoneCode).Pair(t) // with the same codes
		if made.UserInfo.ID != "42" || !made.UserInfo.IsNew {
			t.Errorf("%+v", *made.UserInfo)
		}
		if g.WeChat.PhoneOK() != 2 {
			t.Errorf("%d phone codes were exchanged", g.WeChat.PhoneOK())
		}
		// A number of another country with the same digits belongs to nobody.
		german := g.WeChat.TapAs(t, rig.AppID, "hans", wechattest.Phone{Country: "49", Number: number})
		g.Login(german.Code, german.PhoneCode).WantProblem(t, 403, "registration_closed", nil)
		if n := db.Count(t, `SELECT COUNT(*) FROM members`); n != 2 {
			t.Errorf("%d members", n)
		}
		db.Run(t, `UPDATE members SET banned = TRUE WHERE id = 41`)
		g.Refresh(p.RefreshToken).WantProblem(t, 403, "user_disabled", nil)
		g.WantEnded(t, p)
		g.Silent(g.WeChat.Open(t, number).Code).WantProblem(t, 403, "user_disabled", nil)
		db.Run(t, `DELETE FROM members WHERE id = 42`)
		g.Refresh(made.RefreshToken).WantProblem(t, 401, "session_ended", nil)
		g.Silent(g.WeChat.Open(t, other).Code).WantProblem(t, 403, "phone_required", nil)
	})
}

// A query with a mistake is refused at load, and the former configuration stays in use.
func TestWrongQueryKeepsTheConfiguration(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, g *rig.Gateway, db *rig.Database) {
		wrong := strings.Replace(find, "mobile", "phone", 1)
		if err := g.Caddy.TryStart(tableSite(wrong, check)); err == nil {
			t.Fatal("it started")
		}
		g.Caddy.Log.Wait(t, 0, "query find")
		if err := g.Caddy.Validate(tableSite(wrong, check)); err != nil {
			t.Errorf("validate asks the database: %v", err)
		}
		g.Start(t, tableSite(find, check))
		if err := g.Caddy.Reload(tableSite(find, strings.Replace(check, "AS disabled", "FROM", 1))); err == nil || !strings.Contains(err.Error(), "query check") {
			t.Errorf("reload: %v", err)
		}
		g.MustLogin(t, number)
		// If the table changes later, a login finds out, and the log names the query.
		db.Run(t, `ALTER TABLE members RENAME TO people`)
		codes := g.WeChat.Tap(t, number)
		a := g.Login(codes.Code, codes.PhoneCode)
		a.WantProblem(t, 503, "misconfigured", []string{})
		if cause, _ := g.Caddy.Line(t, a.Problem(t).RequestID)["cause"].(string); !strings.Contains(cause, "query find") {
			t.Errorf("cause: %s", cause)
		}
		db.Run(t, `ALTER TABLE people RENAME TO members`)
		g.Login(codes.Code, codes.PhoneCode).Pair(t)
	})
}

// The team's database is down at the start and during logins. No phone code is lost,
// and logins work as soon as it is back.
func TestLoginsWaitForTheTable(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"postgres", "mysql"} {
		g := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
		g.Caddy = rig.StartCaddy(t, tableSite(find, check), append(g.WeChat.Environ(g.Upstream.Addr), "MEMBERS_DB="+kind+"://wx:geheim123@127.0.0.1:1/x")...)
		g.Client = g.Caddy.Client()
		codes := g.WeChat.Tap(t, number)
		for range 2 {
			g.Login(codes.Code, codes.PhoneCode).WantProblem(t, 503, "directory_unavailable", []string{})
		}
		if g.WeChat.PhoneOK() != 1 || strings.Contains(g.Caddy.Log.String(), "geheim123") {
			t.Errorf("%s: %d exchanges; or the password is in the log", kind, g.WeChat.PhoneOK())
		}
		g.Get("/", "").WantProblem(t, 401, "token_missing", nil)
	}
}
