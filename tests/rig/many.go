package rig

import (
	"fmt"
	"testing"
	"time"
)

// FillSessions creates that many open sessions of one user and openid, as a version
// without a bound left them. Each was refreshed a millisecond after the previous one,
// long ago. Their ids are "0-", the user's id, "-" and a number from 1 on, so they sort
// before those of the gateway. The tables must exist.
func (d *Database) FillSessions(t testing.TB, userID, openid string, many int) {
	t.Helper()
	from, id := map[string]string{
		"postgres": "generate_series(1, %d) AS g(n)",
		"mysql":    "(SELECT seq AS n FROM seq_1_to_%d) AS g",
		"sqlite":   "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s LIMIT %d) SELECT n FROM s) AS g",
	}[d.Kind], "'0-"+userID+"-' || n"
	if d.Kind == "mysql" {
		id = "CONCAT('0-" + userID + "-', n)"
	}
	past := time.Now().Add(-24 * time.Hour).UnixMilli()
	later := time.Now().Add(24 * time.Hour).UnixMilli()
	d.Run(t, fmt.Sprintf("INSERT INTO wx_auth_sessions (id, user_id, issuer, appid, openid, unionid, created_at, refreshed_at, counter, advanced_at, expires_at, ended_at, user_agent, address)"+
		" SELECT %s, '%s', 'wx-auth', '%s', '%s', '', %d, %d + n, 1, %d + n, %d, 0, 'agent', '192.0.2.1' FROM "+from, id, userID, AppID, openid, past, past, past, later, many))
}

// Live returns the number of open sessions of a user.
func (d *Database) Live(t testing.TB, userID string) int64 {
	t.Helper()
	return d.Count(t, "SELECT COUNT(*) FROM wx_auth_sessions WHERE ended_at = 0 AND user_id = '"+userID+"'")
}
