//go:build linux

package bench

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// site is what both Caddys serve, below further directives.
func site(directives ...string) string {
	return "{\ndefault_bind 127.0.0.1\n}\nhttp://{$ADDR} {\n" + strings.Join(directives, "\n") +
		"\nrespond /respond/* ok\nreverse_proxy {$UPSTREAM}\n}\n"
}

// wxAuth is the directive with further options.
func wxAuth(options ...string) string {
	return "wx_auth {env.WX_APPID} {env.WX_SECRET} {\npublic /public/* /respond/public/*\nwechat {\napi {$WX_API}\n}\n" + strings.Join(options, "\n") + "\n}"
}

// couple is a plain Caddy and one with the gateway, before one upstream.
type couple struct {
	plain, gateway *rig.Caddy
	wx             *rig.WeChat
	key            signing
	token          string
}

func newCouple(t testing.TB, algorithm string) *couple {
	t.Helper()
	upstream := rig.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"application/json"}
		fmt.Fprint(w, `{"ok":true}`)
	}))
	c := &couple{wx: rig.NewWeChat(t), key: newSigning(t, algorithm)}
	c.plain = rig.StartCaddy(t, site(), c.wx.Environ(upstream)...)
	c.gateway = rig.StartCaddy(t, site(wxAuth(c.key.options())), c.wx.Environ(upstream)...)
	c.token = login(t, c.gateway, c.wx)
	return c
}

func (c *couple) stop() {
	c.plain.Stop()
	c.gateway.Stop()
}

// warm is a load with tokens in turn that the gateway knows from the first run on.
func (c *couple) warm(t testing.TB, path string, tokens, clients, requests int) load {
	list := c.key.tokens(t, c.token, tokens)
	prepared := make([][]byte, tokens)
	for i := range prepared {
		prepared[i] = get(path, list[i])
	}
	return load{clients: clients, requests: max(requests, tokens), status: http.StatusOK,
		request: func(i int) []byte { return prepared[i%tokens] }}
}

func nothing() {}

// proxied compares both Caddys on each way of a request.
func proxied(t *testing.T, p *page) {
	const clients = 32
	n, requests := often(10, 1), often(10_000, 50)
	p.heading("The proxy, with and without the gateway")
	p.text(fmt.Sprintf("%d pairs of runs of at least %d requests, over %d connections that are kept open. Where nothing else is said the tokens are signed with ES256.", n, requests, clients))
	p.table(pairColumns...)
	add := func(name string, c *couple, l load, rest func()) {
		cells := compare(t, c.plain, c.gateway, n, l, rest).cells(name)
		t.Log(strings.Join(cells, "  "))
		p.row(cells...)
	}
	always := func(path, token string, status int) load {
		r := get(path, token)
		return load{clients: clients, requests: requests, status: status, request: func(int) []byte { return r }}
	}

	c := newCouple(t, "ES256")
	many := often(20_000, 20)
	// Either process takes more in its first seconds, while its heap grows.
	compare(t, c.plain, c.gateway, often(10, 1), c.warm(t, "/respond/orders", many, clients, requests), nothing)
	add("`respond`, one token", c, c.warm(t, "/respond/orders", 1, clients, requests), nothing)
	add(fmt.Sprintf("`respond`, %d tokens in turn", many), c, c.warm(t, "/respond/orders", many, clients, requests), nothing)
	add("`respond`, public path, no token", c, always("/respond/public/logo", "", http.StatusOK), nothing)
	add("`reverse_proxy`, one token", c, c.warm(t, "/orders", 1, clients, requests), nothing)
	add(fmt.Sprintf("`reverse_proxy`, %d tokens in turn", many), c, c.warm(t, "/orders", many, clients, requests), nothing)
	add("`reverse_proxy`, public path, no token", c, always("/public/logo", "", http.StatusOK), nothing)
	p.end()
	p.text(fmt.Sprintf("After these %d requests each, the process with the gateway holds %+.1f MiB more memory than the plain one (%.1f MiB).",
		6*(n+1)*requests, float64(resident(t, c.gateway.PID())-resident(t, c.plain.PID()))/(1<<20), float64(resident(t, c.plain.PID()))/(1<<20)))

	p.text("Refused without a token, by the gateway alone:")
	p.table("path", "CPU a request", "p50", "p99")
	refused := always("/orders", "", http.StatusUnauthorized)
	refused.run(t, c.gateway)
	m := refused.run(t, c.gateway)
	p.row("401", fmt.Sprintf("%.1f µs", micros(m.perRequest)), m.p50.String(), m.p99.String())
	p.end()
	c.stop()

	p.text("A token that the gateway has not seen before, in each request:")
	p.table(pairColumns...)
	for _, algorithm := range []string{"ES256", "EdDSA", "RS256", "HS256"} {
		c := newCouple(t, algorithm)
		each := often(2000, 20)
		var list []string
		l := load{clients: clients, requests: each, status: http.StatusOK, request: func(i int) []byte { return get("/orders", list[i]) }}
		renew := func() { list = c.key.tokens(t, c.token, each) }
		renew()
		add("`reverse_proxy`, new tokens, "+algorithm, c, l, renew)
		c.stop()
	}
	p.end()
}
