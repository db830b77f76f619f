package rig

import (
	"fmt"
	"testing"
	"time"
)

// LargeTables are the tables that grow with the users.
var LargeTables = []string{"wx_auth_users", "wx_auth_user_phones", "wx_auth_bindings", "wx_auth_sessions", "wx_auth_revocations"}

// Fill creates that many users, each with a binding and a session, and a tenth as many
// revocations, so that the database's planner has a choice. No real user has their numbers.
// The tables must exist, and no gateway may be running.
func (d *Database) Fill(t testing.TB, rows int) {
	t.Helper()
	var from, text, hash, blob, analyze string
	switch d.Kind {
	case "postgres":
		from, text, hash, blob, analyze = "generate_series(1, %d) AS g(n)", "'f' || n", "sha256(CAST(CAST(n AS TEXT) AS BYTEA))", "'\\x00'", "ANALYZE "
	case "mysql":
		from, text, hash, blob, analyze = "(SELECT seq AS n FROM seq_1_to_%d) AS g", "CONCAT('f', n)", "UNHEX(SHA2(n, 256))", "x'00'", "ANALYZE TABLE "
	default:
		from, text, hash, blob, analyze = "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s LIMIT %d) SELECT n FROM s) AS g",
			"'f' || n", "randomblob(32)", "x'00'", "ANALYZE "
	}
	from = fmt.Sprintf(from, rows)
	now := time.Now().UnixMilli()
	later := now + 30*24*time.Hour.Milliseconds()
	for _, statement := range []string{
		fmt.Sprintf("INSERT INTO wx_auth_users (id, phone, disabled, created_at) SELECT %s, %s, 0, n FROM %s", text, blob, from),
		fmt.Sprintf("INSERT INTO wx_auth_user_phones (phone_hash, key_id, user_id) SELECT %s, %s, %s FROM %s", hash, blob, text, from),
		fmt.Sprintf("INSERT INTO wx_auth_bindings (appid, openid, unionid, user_id, phone_at, bound_at) SELECT '%s', %s, '', %s, n, n FROM %s", AppID, text, text, from),
		fmt.Sprintf("INSERT INTO wx_auth_sessions (id, user_id, issuer, appid, openid, unionid, created_at, refreshed_at, counter, advanced_at, expires_at, ended_at, user_agent, address)"+
			" SELECT %s, %s, 'wx-auth', '%s', %s, '', %d, %d, 1, %d, %d + n, 0, '', '' FROM %s", text, text, AppID, text, now, now, now, later, from),
		fmt.Sprintf("INSERT INTO wx_auth_revocations (session_id, until_at, recorded_at) SELECT %s, %d + n, %d + n FROM %s WHERE n %% 10 = 0", text, later, now-int64(rows)-48*time.Hour.Milliseconds(), from),
	} {
		d.Run(t, statement)
	}
	for _, table := range LargeTables {
		rows, err := d.Query(analyze + table)
		if err != nil {
			t.Fatal(err)
		}
		rows.Close()
	}
}
