package replicas

import (
	"net/http"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// A reviewer's session, and its end, are the same on every replica. An operator rolls the line
// out replica by replica. A replica without the line refuses the session, but does not end it
// for the others.
func TestReviewerOnReplicas(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		const line = "test_login review-me-please-2026 +8613000000000 until 2099-12-31"
		r := rig.NewReplicas(t, db, 2, line)
		login := func(g *rig.Gateway) rig.Answer {
			return g.Do(http.MethodPost, "/auth/wx", map[string]string{"testLogin": "review-me-please-2026"})
		}
		p := login(r[0]).Pair(t)
		p = r[1].Refresh(p.RefreshToken).Pair(t)
		r[0].WantAlive(t, p)
		r[1].MustReload(t, rig.ReplicaSite())
		r[1].Get("/", p.Token).WantProblem(t, http.StatusUnauthorized, "token_revoked", nil)
		r[1].Refresh(p.RefreshToken).WantProblem(t, http.StatusUnauthorized, "session_ended", nil)
		r[0].WantAlive(t, p)
		p = r[0].Refresh(p.RefreshToken).Pair(t)
		r[1].MustReload(t, rig.ReplicaSite(line))
		r[1].WantAlive(t, p)

		codes := r[1].WeChat.TapAs(t, rig.AppID, "owner", wechattest.Phone{Number: "13000000000"})
		r[1].Login(codes.Code, codes.PhoneCode).Pair(t)
		wantEndedEverywhere(t, r, p)
		login(r[0]).WantProblem(t, http.StatusForbidden, "test_login_taken", nil)
	})
}
