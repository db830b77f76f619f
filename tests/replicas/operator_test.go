package replicas

import (
	"net/http"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// A support desk finds a user by number, openid or id, looks at the sessions, and locks the
// user out. Both replicas learn of it in time. Then the user is let in again, and finally
// erased.
func TestOperatorLooksAfterUsers(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		replicas := rig.NewReplicas(t, db, 2)
		o := rig.Operator{Caddy: replicas[0].Caddy, Caddyfile: rig.ReplicaSite()}
		p, other := replicas[1].MustLogin(t, number), replicas[1].MustLogin(t, "13900139000")
		id, openid := p.UserInfo.ID, rig.JWTPart(t, p.Token, 1)["openid"].(string)

		for _, what := range []string{"+86" + number, number, openid, id} {
			out := o.Run(t, "users", "find", what)
			if !strings.Contains(out, id) || strings.Contains(out, number) || !strings.Contains(out, "+86138****8000") || strings.Contains(out, other.UserInfo.ID) {
				t.Errorf("users find:\n%s", out)
			}
		}
		if out, err := o.Try(t, "+86"+number+"\n", "users", "find", "-", "--full-phone"); err != nil || !strings.Contains(out, "+86"+number) {
			t.Errorf("users find -: %v\n%s", err, out)
		}
		var list struct{ Users []map[string]any }
		if err := o.JSON(t, &list, "users", "list"); err != nil || len(list.Users) != 2 {
			t.Errorf("users list: %v", list)
		}
		if out := o.Run(t, "users", "show", id); !strings.Contains(out, openid) || !strings.Contains(out, rig.SessionOf(t, p.Token)) || strings.Contains(out, number) {
			t.Errorf("users show:\n%s", out)
		}
		if out := o.Run(t, "users", "export", id); !strings.Contains(out, "+86"+number) || !strings.Contains(out, openid) || strings.Contains(out, other.UserInfo.ID) {
			t.Errorf("users export:\n%s", out)
		}

		o.Run(t, "sessions", "end", rig.SessionOf(t, p.Token))
		wantEndedEverywhere(t, replicas, p)
		if out := o.Run(t, "sessions", "list", id, "--ended"); !strings.Contains(out, "revoked") {
			t.Errorf("sessions list --ended:\n%s", out)
		}
		p = replicas[0].MustLogin(t, number)
		o.Run(t, "sessions", "end", "--user", id)
		wantEndedEverywhere(t, replicas, p)

		p = replicas[0].MustLogin(t, number)
		o.Run(t, "users", "disable", id)
		wantEndedEverywhere(t, replicas, p)
		replicas[1].Silent(replicas[1].WeChat.Open(t, number).Code).WantProblem(t, http.StatusForbidden, "user_disabled", nil)
		if out := o.Run(t, "users", "show", id); !strings.Contains(out, "disabled") {
			t.Errorf("users show of a disabled user:\n%s", out)
		}
		o.Run(t, "users", "enable", id)
		p = replicas[1].Silent(replicas[1].WeChat.Open(t, number).Code).Pair(t)

		o.Run(t, "users", "erase", id)
		wantEndedEverywhere(t, replicas, p)
		replicas[1].Silent(replicas[1].WeChat.Open(t, number).Code).WantProblem(t, http.StatusForbidden, "phone_required", nil)
		replicas[0].WantAlive(t, other)

		for _, args := range [][]string{
			{"users", "find", "+86" + number}, {"users", "show", id}, {"users", "disable", id}, {"users", "enable", "nobody"}, {"users", "erase", id},
			{"users", "export", "nobody"}, {"sessions", "list", "nobody"}, {"sessions", "end", "nobody"}, {"sessions", "end", "--user", "nobody"},
		} {
			if out, err := o.Try(t, "", args...); err == nil || strings.Contains(out, number) {
				t.Errorf("%v of nobody: %v\n%s", args, err, out)
			}
		}
	})
}

// The doctor examines each kind of database beside running replicas by writing to it. It
// reports a database whose password is wrong. No password is in its output.
func TestDoctorExaminesEachDatabase(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		replicas := rig.NewReplicas(t, db, 1)
		o := rig.Operator{Caddy: replicas[0].Caddy, Caddyfile: rig.ReplicaSite()}
		if out := o.Run(t, "doctor"); !strings.Contains(out, "a write succeeded") || !strings.Contains(out, "the database's") {
			t.Error(out)
		}
		if db.Kind == "sqlite" {
			return
		}
		scheme, rest, _ := strings.Cut(db.URL, "://")
		_, rest, _ = strings.Cut(rest, "@")
		o.Caddyfile = rig.GatewaySite("store "+scheme+"://nobody:s3cret-password@"+rest, "encryption_key {env.WX_AUTH_KEY}")
		out, err := o.Try(t, "", "doctor")
		if err == nil || !strings.Contains(out, "wrong  store") || !strings.Contains(out, "wrong  secret         store url") || strings.Contains(out, "s3cret-password") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}
