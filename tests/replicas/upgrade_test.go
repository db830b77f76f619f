package replicas

import (
	"net/http"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// schema4 takes the tables back to version 4, as an earlier release left them. In that version
// a store did not record whose ids it holds.
var schema4 = []string{
	`DELETE FROM wx_auth_meta WHERE name NOT IN ('schema_version', 'key_check')`,
	`UPDATE wx_auth_meta SET value = X'34' WHERE name = 'schema_version'`,
	`ALTER TABLE wx_auth_bindings DROP COLUMN auth_at`,
	`ALTER TABLE wx_auth_bindings DROP COLUMN state`,
	`ALTER TABLE wx_auth_bindings DROP COLUMN state_at`,
	`DROP TABLE wx_auth_former_openids`,
	`ALTER TABLE wx_auth_barred_users DROP COLUMN disabled`,
	`ALTER TABLE wx_auth_claimed_steps DROP COLUMN seen_at`,
	`ALTER TABLE wx_auth_kept_steps DROP COLUMN spent`,
	`ALTER TABLE wx_auth_sessions DROP COLUMN audience`,
	`ALTER TABLE wx_auth_sessions DROP COLUMN end_reason`,
	`ALTER TABLE wx_auth_sessions DROP COLUMN tokens_until`,
	`ALTER TABLE wx_auth_sessions DROP COLUMN tokens_counter`,
	`ALTER TABLE wx_auth_sessions DROP COLUMN test`,
}

// An operator upgrades. The first replica migrates the tables and records the names of
// the directory and of WeChat. Users, sessions, tokens and an earlier logout stay valid
// on each replica, and another directory is refused from then on.
func TestUpgradeKeepsUsersAndSessions(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		r := rig.NewReplicas(t, db, 2)
		p, gone := r[0].MustLogin(t, number), r[0].MustLogin(t, "13900139001")
		r[0].Logout(gone.Token, "", false).Want(t, http.StatusNoContent)
		r[0].Caddy.Stop()
		r[1].Caddy.Stop()
		for _, statement := range schema4 {
			if db.Kind == "postgres" {
				statement = strings.Replace(statement, "X'34'", "'4'::bytea", 1)
			}
			db.Run(t, statement)
		}

		r[0].Restart(t)
		r[0].Get("/", p.Token).Want(t, http.StatusOK)
		r[0].WantEnded(t, gone)
		r[1].Restart(t)
		next := r[1].WantSame(t, p, number)
		r[0].Get("/", next.Token).Want(t, http.StatusOK)
		for name, want := range map[string]string{"directory": "store", "wechat:" + rig.AppID: strings.TrimPrefix(r[0].WeChat.URL, "http://")} {
			var recorded []byte
			if err := db.QueryRow(`SELECT value FROM wx_auth_meta WHERE name = '` + name + `'`).Scan(&recorded); err != nil || string(recorded) != want {
				t.Errorf("the name of %s is %q, want %q: %v", name, recorded, want, err)
			}
		}
		other := rig.ReplicaSite("users webhook https://users.invalid/wx {\nsecret whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\n}")
		if err := r[0].Caddy.Reload(other); err == nil || !strings.Contains(err.Error(), "realm store") {
			t.Errorf("another directory: %v", err)
		}
		r[0].Get("/", next.Token).Want(t, http.StatusOK)
	})
}
