package directories

import (
	"net/http"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// The database dates from before UTF-8 was the default. The gateway must not start and
// then answer every login with 503 because of it.
func TestPostgresOfOtherEncodings(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		encoding, nick string
		settings       []string
	}{
		"SQL_ASCII":            {"SQL_ASCII", "安安", nil},
		"LATIN1":               {"LATIN1", "Zoë", nil},
		"EUC_CN":               {"EUC_CN", "安安", []string{"DateStyle TO 'German, DMY'", "IntervalStyle TO 'sql_standard'", "TimeZone TO 'Asia/Shanghai'"}},
		"backslashes":          {"UTF8", `a\b`, []string{"standard_conforming_strings TO off", "backslash_quote TO on"}},
		"a client of the past": {"UTF8", "安安", []string{"client_encoding TO 'GBK'", "bytea_output TO 'escape'", "extra_float_digits TO -3"}},
	} {
		t.Run(name, func(t *testing.T) {
			db := rig.NewPostgresIn(t, tc.encoding, tc.settings...)
			db.Run(t, members)
			db.Run(t, `ALTER TABLE members ADD joined TIMESTAMPTZ NOT NULL DEFAULT '2026-03-01T12:00:00Z'`)
			db.Run(t, `INSERT INTO members (id, mobile, nick_name, role) VALUES (41, '13800138000', $1, 'admin')`, tc.nick)
			g := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
			// If a backslash escaped the quote, :id would be part of the literal.
			backslash := `'a\' <> :id AND`
			site := rig.GatewaySite("store {env.WX_AUTH_STORE}", "encryption_key {env.WX_AUTH_KEY}",
				"users sql {env.MEMBERS_DB} {\n"+strings.ReplaceAll(strings.Join([]string{find, create, check}, "\n"), "nick_name, role", "nick_name, joined, role")+"\n}",
				"identity X-WX-USER-ID id", "identity X-Role claims.role")
			site = rig.Replaced(t, site, "WHERE id = :id", "WHERE "+backslash+" id = :id")
			g.Caddy = rig.StartCaddy(t, site, append(append(g.WeChat.Environ(g.Upstream.Addr), db.Environ()...), "MEMBERS_DB="+db.URL)...)
			g.Client = g.Caddy.Client()
			codes := g.WeChat.Tap(t, number)
			a := g.Login(codes.Code, codes.PhoneCode)
			p := a.Pair(t)
			nick := strings.ReplaceAll(tc.nick, `\`, `\\`)
			if p.UserInfo.ID != "41" || !strings.Contains(a.Body, `"nick_name":"`+nick+`"`) || !strings.Contains(a.Body, `"joined":"2026-03-01T12:00:00Z"`) {
				t.Errorf("%s", a.Body)
			}
			p = g.Refresh(p.RefreshToken).Pair(t)
			g.Get("/", p.Token).Seen(t).WantHeader(t, "X-Role", "admin")
			if made := g.MustLogin(t, other); made.UserInfo.ID != "42" {
				t.Errorf("%+v", *made.UserInfo)
			}
			// A client's User-Agent is stored. No encoding of the database may turn it
			// into a 503.
			g.Do(http.MethodPost, "/auth/wx", map[string]string{"code": g.WeChat.Open(t, number).Code}, "User-Agent: 微信/é😀").Pair(t)
			db.Run(t, `UPDATE members SET banned = TRUE WHERE id = 41`)
			g.Refresh(p.RefreshToken).WantProblem(t, 403, "user_disabled", nil)
			g.WantEnded(t, p)
		})
	}
}
