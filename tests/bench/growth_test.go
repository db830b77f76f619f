//go:build linux

package bench

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// growth shows how the cost depends on the number of clients and of tokens.
func growth(t *testing.T, p *page) {
	p.heading("Growth")
	p.text("For the cost by the number of revoked sessions, see `Contains` above; by the number of cached tokens, `VerifyHit`.")
	n, requests := often(6, 1), often(10_000, 64)
	p.table(pairColumns...)
	c := newCouple(t, "ES256")
	compare(t, c.plain, c.gateway, often(10, 1), c.warm(t, "/respond/orders", 1, 32, requests), nothing) // as in proxied
	for _, clients := range []int{1, 4, 16, 64} {
		cells := compare(t, c.plain, c.gateway, n, c.warm(t, "/respond/orders", 1, clients, requests), nothing).cells(fmt.Sprintf("`respond`, %d clients", clients))
		t.Log(strings.Join(cells, "  "))
		p.row(cells...)
	}
	for _, tokens := range []int{1000, 100_000} {
		tokens = often(tokens, tokens/1000)
		l := c.warm(t, "/respond/orders", tokens, 32, requests)
		cells := compare(t, c.plain, c.gateway, n, l, nothing).cells(fmt.Sprintf("`respond`, %d tokens in turn", tokens))
		t.Log(strings.Join(cells, "  "))
		p.row(cells...)
	}
	p.end()
	c.stop()

}

// users measures logins and refreshes with few users and with many.
func users(t *testing.T, p *page) {
	p.heading("With a million users")
	p.text("Logins of new users, and refreshes, by 32 clients without a delay. The store already has the given number of users, each with a binding and a session, and a tenth as many revocations:")
	p.table("store", "users before", "logins/s", "p99", "gateway CPU per login", "refreshes/s", "p99", "gateway CPU per refresh")
	for _, kind := range rig.Kinds {
		for _, n := range []int{1000, 1_000_000} {
			cells := crowded(t, kind, often(n, n/1000))
			t.Log(strings.Join(cells, "  "))
			p.row(cells...)
		}
	}
	p.end()
}

// crowded measures logins and refreshes in a store that already has that many users.
func crowded(t *testing.T, kind string, users int) []string {
	db := rig.NewDatabase(t, kind)
	g := newLoginGateway(t, db)
	g.Caddy.Stop()
	db.Fill(t, users)
	g.Caddy.Restart()
	defer g.Caddy.Stop()
	n := often(2000, 10)
	phoneLogins(t, g.WeChat, 32, often(1000, 3)).run(t, g.Caddy) // fetches the access token and fills the pools
	in := phoneLogins(t, g.WeChat, 32, n).run(t, g.Caddy)

	bodies := make([][]byte, n/2)
	for i := range bodies {
		people++
		bodies[i] = post("/auth/wx/refresh", map[string]string{"refreshToken": g.MustLogin(t, number(people)).RefreshToken})
	}
	again := load{clients: 32, requests: len(bodies), status: http.StatusOK, request: func(i int) []byte { return bodies[i] }}.run(t, g.Caddy)
	cells := []string{kind, fmt.Sprint(users)}
	for _, m := range []measured{in, again} {
		cells = append(cells, fmt.Sprintf("%.0f", m.perSecond), millis(m.p99), fmt.Sprintf("%.0f µs", micros(m.perRequest)))
	}
	return cells
}
