package directories

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// These pages have the blocks that the tests run.
const (
	usersPage    = "../../docs/users.md"
	backendsPage = "../../docs/backends.md"
)

// apiInExpress is an API by somebody who only knows the table of headers, which is in
// place of HEADERS.
const apiInExpress = `
import express from 'express'
const app = express()
app.get('/orders', (req, res) => {
  HEADERS
  res.json({ userId, phone, role: req.get('X-User-Role') })
})
app.listen(process.env.PORT, '127.0.0.1')
`

// membersInMySQL returns the page's table.
func membersInMySQL(t *testing.T) string {
	return rig.ReadmeBlock(t, usersPage, "CREATE TABLE members")
}

// onThisMachine changes a page's Caddyfile for a test: its site is at {$ADDR}, and its
// upstream and WeChat are the test's.
func onThisMachine(t *testing.T, block string, oldnew ...string) string {
	t.Helper()
	return "{\ndefault_bind 127.0.0.1\n}\n" + rig.Replaced(t, block, append([]string{
		"api.example.com {", "http://{$ADDR} {",
		"wx_auth {env.WX_APPID} {env.WX_SECRET} {", "wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n",
		"localhost:3000", "{$UPSTREAM}",
	}, oldnew...)...)
}

// strangers starts a gateway with a page's Caddyfile, in front of an API in Express.
func strangers(t *testing.T, db *rig.Database, caddyfile string, env ...string) *rig.Gateway {
	t.Helper()
	api := rig.FreeAddress(t)
	startNode(t, strings.Replace(apiInExpress, "HEADERS", headersOf(t, "Express"), 1), api, "PORT="+portOf(api))
	g := &rig.Gateway{WeChat: rig.NewWeChat(t)}
	g.Caddy = rig.StartCaddy(t, caddyfile, append(g.WeChat.Environ(api), append(env, "MEMBERS_DB="+db.URL)...)...)
	g.Client = g.Caddy.Client()
	return g
}

// signatureOf returns the headers of a webhook request that was signed with a key. Like a
// gateway with two secrets, it also sends the signature of another one.
func signatureOf(key, body string, at time.Time) []string {
	stamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte("msg_2." + stamp + "." + body))
	return []string{"webhook-id: msg_2", "webhook-timestamp: " + stamp,
		"webhook-signature: v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))}
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// wantStrangersWay does everything that member 7 (an admin) and a newcomer would do.
func wantStrangersWay(t *testing.T, g *rig.Gateway, db *rig.Database) {
	t.Helper()
	p := g.MustLogin(t, number)
	p = g.Refresh(p.RefreshToken).Pair(t)
	orders := g.Get("/orders", p.Token, "X-User-Role: root")
	if want := `{"userId":"7","phone":"+8613800138000","role":"admin"}`; orders.Body != want {
		t.Errorf("the API answered %d %s, want %s", orders.Status, orders.Body, want)
	}
	if me := g.Me(p.Token); !strings.Contains(me.Body, `"nickName":"安安"`) {
		t.Errorf("me: %s", me.Body)
	}
	newcomer := g.MustLogin(t, other)
	if again := g.MustLogin(t, other); again.UserInfo.ID != newcomer.UserInfo.ID || newcomer.UserInfo.ID == "7" || !newcomer.UserInfo.IsNew || again.UserInfo.IsNew {
		t.Errorf("users %+v and %+v", *newcomer.UserInfo, *again.UserInfo)
	}
	// A login creates a row, or leaves the counter alone. Otherwise an INT would be
	// used up.
	first, _ := strconv.Atoi(newcomer.UserInfo.ID)
	if third := g.MustLogin(t, "13700137000"); third.UserInfo.ID != strconv.Itoa(first+1) {
		t.Errorf("users %d and %s were made one after the other", first, third.UserInfo.ID)
	}
	if n := db.Count(t, `SELECT COUNT(*) FROM members WHERE mobile = '13900139000'`); n != 1 {
		t.Errorf("%d members of the new number", n)
	}
	// The newcomer changes to another number. The admin's number is taken.
	change := func(to string) rig.Answer {
		return g.ChangePhone(newcomer.Token, g.WeChat.NewNumber(t, rig.AppID, "+86"+other, to))
	}
	change(number).WantProblem(t, http.StatusConflict, "phone_taken", nil)
	for range 2 { // the second time, they already have the number
		if c := change("13600136000").Changed(t); c.UserInfo.ID != newcomer.UserInfo.ID || c.UserInfo.PhoneNumber != "+8613600136000" {
			t.Errorf("%+v", c.UserInfo)
		}
	}
	if n := db.Count(t, `SELECT COUNT(*) FROM members WHERE mobile = '13600136000'`); n != 1 {
		t.Errorf("%d members of the changed number", n)
	}
	// After a change of the directory, the database may consider different ids equal.
	silent := g.Silent(g.WeChat.Open(t, number).Code).Pair(t)
	if silent.UserInfo.ID != "7" {
		t.Errorf("silently user %s", silent.UserInfo.ID)
	}
	db.Run(t, `UPDATE members SET banned = TRUE WHERE id = 7`)
	g.Refresh(p.RefreshToken).WantProblem(t, http.StatusForbidden, "user_disabled", nil)
	g.WantEnded(t, silent)
}

// A team copies the webhook receiver and the Caddyfile from the page. Nothing else
// may be needed.
func TestPagesReceiverWorksAsWritten(t *testing.T) {
	t.Parallel()
	db := rig.NewDatabase(t, "mysql")
	db.Run(t, membersInMySQL(t))
	db.Run(t, `INSERT INTO members (id, mobile, nick_name, role) VALUES (7, '13800138000', '安安', 'admin')`)
	users := rig.FreeAddress(t)
	stop := startNode(t, rig.Replaced(t, rig.ReadmeBlock(t, usersPage, "// users.mjs"), "app.listen(3001,", "app.listen("+portOf(users)+","),
		users, "MEMBERS_DB="+db.URL, "WX_USERS_SECRET="+secret)
	g := strangers(t, db, onThisMachine(t, rig.ReadmeBlock(t, usersPage, "users webhook http"), "localhost:3001", users), "WX_USERS_SECRET="+secret)
	wantStrangersWay(t, g, db)

	// A request without the secret learns nothing and creates no user.
	forger := rig.NewClient(t, "http://"+users)
	body := `{"type":"user.login","phone":"+8613700137000","country":"86","national":"13700137000","userId":null}`
	for name, headers := range map[string][]string{
		"unsigned": nil,
		"forged":   {"webhook-id: msg_1", "webhook-timestamp: 1772000000", "webhook-signature: v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
	} {
		if a := forger.Do(http.MethodPost, "/wx-users", body, headers...); a.Status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	if n := db.Count(t, `SELECT COUNT(*) FROM members`); n != 3 {
		t.Errorf("%d members", n)
	}
	// Logins do not send these events. An erased user is gone, and the answer is 204.
	signed := func(body string) rig.Answer {
		return forger.Do(http.MethodPost, "/wx-users", body, signatureOf(webhookKey, body, time.Now())...)
	}
	signed(`{"type":"user.erase","userId":"9"}`).Want(t, http.StatusNoContent)
	signed(`{"type":"user.check","userId":"9"}`).Want(t, http.StatusNotFound)
	signed(`{"type":"user.check","userId":"7x"}`).Want(t, http.StatusNotFound)
	signed(`{"type":"user.check","userId":"7"}`).Want(t, http.StatusOK)
	stop()
	codes := g.WeChat.Tap(t, number)
	g.Login(codes.Code, codes.PhoneCode).WantProblem(t, 503, "directory_unavailable", []string{})
}

// A team copies the table and the queries from the page, in each database.
func TestPagesTableNeedsNoCode(t *testing.T) {
	t.Parallel()
	for kind, create := range map[string]string{
		"mysql":    membersInMySQL(t),
		"postgres": rig.Replaced(t, membersInMySQL(t), "INT NOT NULL AUTO_INCREMENT", "SERIAL", "TINYINT(1) NOT NULL DEFAULT 0", "BOOLEAN NOT NULL DEFAULT FALSE"),
	} {
		t.Run(kind, func(t *testing.T) {
			db := rig.NewDatabase(t, kind)
			db.Run(t, create)
			db.Run(t, `INSERT INTO members (id, mobile, nick_name, role) VALUES (7, '13800138000', '安安', 'admin')`)
			block := rig.ReadmeBlock(t, usersPage, "users sql {env.MEMBERS_DB}")
			if kind == "postgres" { // as the page says for PostgreSQL
				block = rig.Replaced(t, block, " FROM DUAL", "")
			}
			wantStrangersWay(t, strangers(t, db, onThisMachine(t, block)), db)
		})
	}
}

// A team migrates by the page: the tokens of its former system keep working beside
// ours.
func TestPagesMigrationAcceptsOldTokens(t *testing.T) {
	t.Parallel()
	api := rig.FreeAddress(t)
	startNode(t, `
import express from 'express'
const app = express()
const userOfOldToken = authorization => authorization === 'Bearer old-token-of-5' ? '5' : undefined
`+rig.ReadmeBlock(t, usersPage, "userOfOldToken(")+`
app.get('/orders', (req, res) => res.json({ userId: req.userId, authorization: req.get('Authorization') }))
app.listen(process.env.PORT, '127.0.0.1')
`, api, "PORT="+portOf(api))
	g := &rig.Gateway{WeChat: rig.NewWeChat(t)}
	g.Caddy = rig.StartCaddy(t, onThisMachine(t, rig.ReadmeBlock(t, usersPage, "optional /*\n")), g.WeChat.Environ(api)...)
	g.Client = g.Caddy.Client()
	p := g.MustLogin(t, number)
	for name, tc := range map[string]struct {
		token  string
		forged string
		status int
		body   string
	}{
		"ours":            {p.Token, "", 200, `{"userId":"` + p.UserInfo.ID + `"}`},
		"old":             {"old-token-of-5", "", 200, `{"userId":"5","authorization":"Bearer old-token-of-5"}`},
		"old, and forged": {"old-token-of-5", "X-WX-USER-ID: 1", 200, `{"userId":"5","authorization":"Bearer old-token-of-5"}`},
		"forged alone":    {"", "X-WX-USER-ID: 1", 401, "Unauthorized"},
		"none":            {"", "", 401, "Unauthorized"},
		"unknown":         {"made-up", "", 401, "Unauthorized"},
	} {
		var headers []string
		if tc.forged != "" {
			headers = []string{tc.forged}
		}
		if a := g.Get("/orders", tc.token, headers...); a.Status != tc.status || a.Body != tc.body {
			t.Errorf("%s: %d %s, want %d %s", name, a.Status, a.Body, tc.status, tc.body)
		}
	}
	g.Logout(p.Token, "", false).Want(t, http.StatusNoContent)
	g.Get("/orders", p.Token).WantProblem(t, 401, "token_revoked", nil)
}

// A team copies the token verifier from the page. It must accept our tokens and no
// others.
func TestPagesVerifierAcceptsOnlyOurTokens(t *testing.T) {
	t.Parallel()
	api := rig.FreeAddress(t)
	g := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	g.Caddy = rig.StartCaddy(t, rig.GatewaySite("forward_token"), g.WeChat.Environ(g.Upstream.Addr)...)
	g.Client = g.Caddy.Client()
	startNode(t, rig.Replaced(t, rig.ReadmeBlock(t, backendsPage, "createRemoteJWKSet(new URL"),
		"https://api.example.com", g.Caddy.URL(), "app.listen(3000,", "app.listen("+portOf(api)+","), api)
	backend := rig.NewClient(t, "http://"+api) // the backend itself, without Caddy in front
	p := g.MustLogin(t, number)
	if a := backend.Get("/orders", p.Token); a.Body != `{"userId":"`+p.UserInfo.ID+`"}` {
		t.Errorf("ours: %d %s", a.Status, a.Body)
	}
	head, rest, _ := strings.Cut(p.Token, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	for name, token := range map[string]string{
		"none":              "",
		"cut":               head + "." + payload,
		"another signature": head + "." + payload + "." + strings.Repeat("A", len(signature)),
		"a refresh token":   p.RefreshToken,
	} {
		if a := backend.Get("/orders", token); a.Status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
}
