package external

import (
	"encoding/json"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Operators select expressions, not only columns. The server determines the type of an expression.
// It must do so even when the configuration is loaded and every parameter is NULL.
func TestUsualExpressionsAreRead(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		f := tablesAt(t, address)
		put(t, f, "CREATE TABLE m (id INT, name VARCHAR(9), status INT, born DATE)")
		put(t, f, "INSERT INTO m VALUES (7, 'a', 1, NULL)")
		expressions := map[string]string{
			":openid": `"o1"`, "'x'": `"x"`, "NULL": `null`, "COALESCE(:unionid, 'none')": `"none"`, "COALESCE(name, 'none')": `"a"`,
			"CONCAT('u', id)": `"u7"`, "CONCAT(id, '')": `"7"`,
			"CASE WHEN status = 1 THEN 'vip' ELSE 'member' END": `"vip"`, "CASE WHEN status = 1 THEN 2 END": `2`,
			"(SELECT COUNT(*) FROM m x)": `1`, "(SELECT MAX(name) FROM m x)": `"a"`, "UPPER(name)": `"A"`, "MD5(name)": `"0cc175b9c0f1b6a831c399e269772661"`,
			"id * 2": `14`, "id / 2.0": "", "SUBSTRING(:phone, 1, 3)": `"+86"`, "CURRENT_TIMESTAMP": "", "CURRENT_USER": "", "COALESCE(born, '2026-03-01')": `"2026-03-01"`,
		}
		if kind == "mysql" {
			expressions["CONCAT(:country, :national)"] = `"8613800138000"`
			expressions["IF(status, 'a', 'b')"], expressions["IFNULL(:unionid, '')"], expressions["(SELECT GROUP_CONCAT(name) FROM m x)"] = `"a"`, `""`, `"a"`
			expressions["DATE_FORMAT('2026-03-01', '%Y')"], expressions["CAST(id AS CHAR)"], expressions["status = 1"] = `"2026"`, `"7"`, `1`
			expressions["JSON_UNQUOTE(JSON_EXTRACT('{\"a\":\"b\"}', '$.a'))"], expressions["HEX(x'00ff')"], expressions["id DIV 2"] = `"b"`, `"00FF"`, `3`
			expressions["CONVERT(x'61' USING utf8mb4)"], expressions["UNIX_TIMESTAMP('2026-03-01') > 0"], expressions["SUM(id) OVER ()"] = `"a"`, `1`, `"7"`
		} else {
			expressions["(SELECT string_agg(name, ',') FROM m x)"], expressions["(SELECT json_agg(name) FROM m x)"], expressions["status = 1"] = `"a"`, `["a"]`, `true`
			expressions["to_json(ARRAY[name, :openid])"], expressions["id::text || name"], expressions["encode('\\x00ff'::bytea, 'hex')"] = `["a","o1"]`, `"7a"`, `"00ff"`
			expressions["SUM(id) OVER ()"] = `7`
		}
		for expression, want := range expressions {
			d := directoryOf(t, f, "SELECT :appid AS id, "+expression+" AS x FROM m WHERE :phone <> ''", "", "SELECT :id AS id, "+"name AS x FROM m WHERE :id <> ''", "")
			if err := d.Open(t.Context()); err != nil {
				t.Errorf("%s: %v", expression, err)
				continue
			}
			u, err := d.Login(t.Context(), user.Login{AppID: "wx1", OpenID: "o1", Phone: phone(t, "13800138000")})
			got, _ := json.Marshal(u.Info["x"])
			if err != nil || u.ID != "wx1" || want != "" && string(got) != want {
				t.Errorf("%s: %s, %v; want %s", expression, got, err, want)
			}
			if u, err := d.Check(t.Context(), "u7"); err != nil || u.ID != "u7" {
				t.Errorf("check: %v %v", u, err)
			}
		}
	})
}
