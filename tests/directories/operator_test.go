package directories

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// A support desk looks after users in the team's backend. The list of users, the lock and the
// sessions are kept here. The commands show and erase ask the backend, as the service
// endpoints do.
func TestOperatorLooksAfterUsersElsewhere(t *testing.T) {
	t.Parallel()
	g, b := newHooked(t)
	o := rig.Operator{Caddy: g.Caddy, Caddyfile: hooked()}
	p := g.MustLogin(t, "13800138000")
	id, openid := p.UserInfo.ID, rig.JWTPart(t, p.Token, 1)["openid"].(string)
	if out := o.Run(t, "users", "list"); !strings.Contains(out, id) {
		t.Errorf("users list:\n%s", out)
	}
	for _, args := range [][]string{{"users", "find", openid}, {"users", "find", id}, {"users", "show", id}} {
		if out := o.Run(t, args...); !strings.Contains(out, id) || strings.Contains(out, "+8613800138000") {
			t.Errorf("%v:\n%s", args, out)
		}
	}
	if out, err := o.Try(t, "", "users", "find", "+8613800138000"); err == nil || !strings.Contains(out, "your own directory") {
		t.Errorf("by phone number: %v\n%s", err, out)
	}
	o.Run(t, "users", "disable", id)
	rig.Await(t, 10*time.Second, "the user is locked out", func() bool { return g.Get("/", p.Token).Status == http.StatusUnauthorized })
	g.Silent(g.WeChat.Open(t, "13800138000").Code).WantProblem(t, http.StatusForbidden, "user_disabled", nil)
	o.Run(t, "users", "enable", id)
	g.Silent(g.WeChat.Open(t, "13800138000").Code).Pair(t)
	if out := o.Run(t, "doctor"); !strings.Contains(out, "ok     users          ") {
		t.Errorf("doctor:\n%s", out)
	}
	o.Run(t, "users", "erase", id)
	if !slices.ContainsFunc(b.events(), func(e event) bool { return e.Type == "user.erase" }) {
		t.Errorf("the backend was not asked to erase: %+v", b.events())
	}
	if out := o.Run(t, "users", "list"); strings.Contains(out, id) {
		t.Errorf("users list after the erasure:\n%s", out)
	}
}
