package directories

import (
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// typedSite is a site with a table whose columns the test chooses.
func typedSite(columns string, options ...string) string {
	return rig.GatewaySite(append([]string{
		"users sql {env.MEMBERS_DB} {\nfind `SELECT id, " + columns + " FROM members WHERE mobile = :national AND :country = '86'`\n" +
			"check `SELECT id, " + columns + " FROM members WHERE id = :id`\n}",
	}, options...)...)
}

// Earlier, a FLOAT was a 503 for everybody, a BIT(1) a header with %00, and a number of points
// arrived as 1e+06.
func TestOddColumnsArriveInOneForm(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, g *rig.Gateway, db *rig.Database) {
		columns, want := "", map[string]string{}
		quote := `"`
		if db.Kind == "mysql" {
			db.Run(t, `ALTER TABLE members ADD points BIGINT UNSIGNED, ADD rate FLOAT, ADD big DOUBLE, ADD credit DECIMAL(20,2), ADD joined TIMESTAMP NULL, ADD born DATE`)
			db.Run(t, `UPDATE members SET points = 18446744073709551615, rate = 0.1, big = 1000000, credit = 1.10, joined = FROM_UNIXTIME(1772366400)`)
			want["points"] = "18446744073709551615"
		} else {
			db.Run(t, `ALTER TABLE members ADD points BIGINT, ADD rate REAL, ADD big DOUBLE PRECISION, ADD credit NUMERIC(20,2), ADD joined TIMESTAMPTZ, ADD born DATE, ADD roles JSONB`)
			db.Run(t, `UPDATE members SET points = 9223372036854775807, rate = 0.1, big = 1000000, credit = 1.10, joined = to_timestamp(1772366400), roles = '["admin", "a,b"]'`)
			want["points"], want["roles"] = "9223372036854775807", `["admin","a,b"]`
		}
		want["rate"], want["big"], want["credit"], want["joined"], want["born"] = "0.1", "1000000", `"1.10"`, `"2026-03-01T12:00:00Z"`, "null"
		var identity []string
		for name := range want {
			columns += name + ", " + name + " AS " + quote + "claims." + name + quote + ", "
			identity = append(identity, "identity X-"+name+" claims."+name)
		}
		g.Start(t, typedSite(strings.TrimSuffix(columns, ", "), identity...))
		codes := g.WeChat.Tap(t, number)
		a := g.Login(codes.Code, codes.PhoneCode)
		p := g.Refresh(a.Pair(t).RefreshToken).Pair(t)
		seen := g.Get("/", p.Token).Seen(t)
		for name, json := range want {
			if !strings.Contains(a.Body, `"`+name+`":`+json) {
				t.Errorf("%s: %s, want %s", name, a.Body, json)
			}
			header := strings.Trim(json, `"`)
			switch name {
			case "born":
				continue
			case "roles":
				header = "admin,a%2Cb"
			}
			seen.WantHeader(t, "X-"+name, header)
		}
	})
}

// A column that every login would fail on is found when the configuration is loaded.
func TestColumnWithoutOneFormIsRefusedAtLoad(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, g *rig.Gateway, db *rig.Database) {
		types := map[string]string{"avatar": "BYTEA", "price": "MONEY", "tags": "TEXT[]", "place": "POINT"}
		if db.Kind == "mysql" {
			types = map[string]string{"avatar": "BLOB", "token": "VARBINARY(16)", "vip": "BIT(1)", "place": "POINT"}
		}
		g.Start(t, typedSite("nick_name"))
		g.MustLogin(t, number)
		for name, typ := range types {
			db.Run(t, "ALTER TABLE members ADD "+name+" "+typ)
			err := g.Caddy.Reload(typedSite("nick_name, " + name))
			if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "query") && !strings.Contains(err.Error(), "find") || !strings.Contains(err.Error(), "AS ") {
				t.Errorf("%s: %v", typ, err)
			}
		}
		g.MustLogin(t, number) // the former configuration is still in use
	})
}

// RuoYi writes '2' for a deleted user. Such a value must not be a 503 at login, nor
// leave open sessions working: the user counts as disabled.
func TestStatusNobodyForesawDisables(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, g *rig.Gateway, db *rig.Database) {
		db.Run(t, "ALTER TABLE members ADD del_flag CHAR(1) NOT NULL DEFAULT '0'")
		values := map[string][2]string{"DECIMAL(4,2)": {"0.00", "0.01"}, "CHAR(1)": {"'0'", "'2'"}, "VARCHAR(20)": {"'off'", "'banned'"}}
		if db.Kind == "postgres" {
			values["REAL"], values["MONEY"] = [2]string{"0", "0.5"}, [2]string{"0", "1"}
			values["TIMESTAMPTZ"], values["INTERVAL"], values["BIT(2)"] = [2]string{"NULL", "'infinity'"}, [2]string{"'0'", "'1 day'"}, [2]string{"B'00'", "B'10'"}
		} else {
			values["FLOAT"], values["BIT(8)"], values["DATETIME"] = [2]string{"0", "0.5"}, [2]string{"b'0'", "b'110000'"}, [2]string{"NULL", "NOW()"}
		}
		g.Start(t, typedSite("nick_name"))
		for typ, v := range values {
			db.Run(t, "ALTER TABLE members DROP del_flag")
			db.Run(t, "ALTER TABLE members ADD del_flag "+typ)
			db.Run(t, "UPDATE members SET del_flag = "+v[0])
			g.MustReload(t, typedSite("nick_name, del_flag AS disabled"))
			p := g.MustLogin(t, number)
			p = g.Refresh(p.RefreshToken).Pair(t)
			db.Run(t, "UPDATE members SET del_flag = "+v[1])
			if a := g.Refresh(p.RefreshToken); a.Status != 403 {
				t.Errorf("%s %s: %d %s", typ, v[1], a.Status, a.Body)
			}
			g.WantEnded(t, p)
			g.Silent(g.WeChat.Open(t, number).Code).WantProblem(t, 403, "user_disabled", nil)
		}
	})
}
