//go:build linux

package bench

import (
	"fmt"
	"strings"
	"testing"
)

// growth shows how the cost goes with the number of clients, of tokens and of users.
func growth(t *testing.T, p *page) {
	p.heading("Growth")
	p.text("With the number of revoked sessions see `Contains` above, with that of cached tokens in process `VerifyHit`.")
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

	p.text("Logins by 32 clients, without a delay, into one SQLite store:")
	p.table("users before", "logins/s", "p99", "CPU of the gateway a login")
	g := newLoginGateway(t, "sqlite")
	defer g.Caddy.Stop()
	phoneLogins(t, g.WeChat, 1, 3).run(t, g.Caddy)
	at := 0
	for _, users := range []int{0, 1000, 10_000, 30_000} {
		users = often(users, users/1000)
		if users > at {
			phoneLogins(t, g.WeChat, 32, users-at).run(t, g.Caddy)
			at = users
		}
		batch := often(2000, 10)
		m := phoneLogins(t, g.WeChat, 32, batch).run(t, g.Caddy)
		at += batch
		cells := []string{fmt.Sprint(at - batch), fmt.Sprintf("%.0f", m.perSecond), millis(m.p99), fmt.Sprintf("%.0f µs", micros(m.perRequest))}
		t.Log(strings.Join(cells, "  "))
		p.row(cells...)
	}
	p.end()
}
