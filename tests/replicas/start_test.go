package replicas

import (
	"net/http"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// Three replicas start at the same moment on an empty database. They must end up with
// one schema and the same keys.
func TestReplicasStartTogether(t *testing.T) {
	t.Parallel()
	for _, kind := range rig.Kinds {
		t.Run(kind, func(t *testing.T) {
			for range rig.Rounds(3, 10) {
				db := rig.NewDatabase(t, kind)
				replicas := rig.NewReplicas(t, db, 3)
				for _, table := range []string{"meta WHERE name = 'schema_version'", "meta WHERE name = 'key_check'", "signing_keys"} {
					if n := db.Count(t, "SELECT COUNT(*) FROM wx_auth_"+table); n != 1 {
						t.Errorf("%d rows in %s", n, table)
					}
				}
				for _, r := range replicas {
					p := r.MustLogin(t, number)
					for _, other := range replicas {
						other.Get("/", p.Token).Seen(t).WantHeader(t, "X-WX-PHONE", "+86"+number)
					}
					r.Get("/auth/wx/health", "").Want(t, http.StatusOK)
				}
				if n := db.Count(t, "SELECT COUNT(*) FROM wx_auth_users"); n != 1 {
					t.Errorf("%d users", n)
				}
				for _, r := range replicas {
					r.Caddy.Stop()
					if lines := r.Caddy.Log.Lines(`"level":"error"`); len(lines) > 0 {
						t.Errorf("errors at start: %s", lines)
					}
				}
			}
		})
	}
}
