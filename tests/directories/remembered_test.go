package directories

import (
	"net/http"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// The backend remembers the openids of a number's former owners. After Alice came Bob, and after
// him Carol. Neither of the former owners gets in without a phone login, and Carol does.
func TestRememberedOwnerStaysOut(t *testing.T) {
	t.Parallel()
	for _, rule := range []string{"replace", "deny"} {
		g, b := newHooked(t, "on_new_openid "+rule)
		b.says(func(w http.ResponseWriter, _ *http.Request) { body(200, `{"id":"m`+number+`"}`)(w, nil) })
		phone := func(who string) rig.Answer {
			codes := g.WeChat.TapAs(t, rig.AppID, who, phoneOf(number))
			return g.Login(codes.Code, codes.PhoneCode)
		}
		silent := func(who string) rig.Answer { return g.Silent(g.WeChat.OpenAs(t, rig.AppID, who).Code) }
		phone("alice").Pair(t)
		if rule == "deny" {
			phone("bob").WantProblem(t, http.StatusForbidden, "new_openid_denied", nil)
			silent("alice").Pair(t)
			continue
		}
		phone("bob").Pair(t)
		phone("carol").Pair(t)
		for _, who := range []string{"alice", "bob"} {
			silent(who).WantProblem(t, http.StatusForbidden, "phone_required", nil)
		}
		silent("carol").Pair(t)
	}
}
