//go:build linux

package bench

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// site is the site of both Caddys, with further directives above it.
func site(directives ...string) string {
	return "{\ndefault_bind 127.0.0.1\n}\nhttp://{$ADDR} {\n" + strings.Join(directives, "\n") +
		"\nrespond /respond/* ok\nreverse_proxy {$UPSTREAM}\n}\n"
}

// wxAuth returns the directive with further options.
func wxAuth(options ...string) string {
	return "wx_auth {env.WX_APPID} {env.WX_SECRET} {\npublic /public/* /respond/public/*\nwechat {\napi {$WX_API}\n}\n" + strings.Join(options, "\n") + "\n}"
}

// couple is a plain Caddy and one with the gateway, in front of the same upstream.
type couple struct {
	plain, gateway *rig.Caddy
	wx             *rig.WeChat
	upstream       string
	key            signing
	token          string
}

func newCouple(t testing.TB, algorithm string) *couple {
	t.Helper()
	upstream := rig.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"application/json"}
		fmt.Fprint(w, `{"ok":true}`)
	}))
	c := &couple{wx: rig.NewWeChat(t), upstream: upstream, key: newSigning(t, algorithm)}
	c.plain = rig.StartCaddy(t, site(), c.wx.Environ(upstream)...)
	c.gateway = rig.StartCaddy(t, site(wxAuth(c.key.options())), c.wx.Environ(upstream)...)
	(&rig.Gateway{Client: c.gateway.Client()}).AwaitStore(t)
	c.token = login(t, c.gateway, c.wx)
	return c
}

func (c *couple) stop() {
	c.plain.Stop()
	c.gateway.Stop()
}

// warm returns a load with several tokens in turn, which the gateway knows after the first
// run.
func (c *couple) warm(t testing.TB, path string, tokens, clients, requests int) load {
	return inTurn(path, c.key.tokens(t, c.token, tokens), clients, requests)
}

// inTurn returns a load with these tokens, each used at least once.
func inTurn(path string, tokens []string, clients, requests int) load {
	prepared := make([][]byte, len(tokens))
	for i := range prepared {
		prepared[i] = get(path, tokens[i])
	}
	return load{clients: clients, requests: max(requests, len(tokens)), status: http.StatusOK,
		request: func(i int) []byte { return prepared[i%len(prepared)] }}
}

// held returns how much memory both processes hold.
func (c *couple) held(t testing.TB, when string) []string {
	t.Helper()
	mebi := func(c *rig.Caddy) float64 { return float64(rig.Resident(t, c.PID())) / (1 << 20) }
	plain, gateway := mebi(c.plain), mebi(c.gateway)
	return []string{when, fmt.Sprintf("%.1f MiB", plain), fmt.Sprintf("%.1f MiB", gateway), fmt.Sprintf("%+.1f MiB", gateway-plain)}
}

func nothing() {}

// proxied compares both Caddys on each kind of path.
func proxied(t *testing.T, p *page) {
	const clients = 32
	n, requests := often(10, 1), often(10_000, 50)
	p.heading("The proxy, with and without the gateway")
	p.text(fmt.Sprintf("%d pairs of runs of at least %d requests, over %d kept-alive connections. Unless the row says otherwise, tokens are signed with ES256.", n, requests, clients))
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
	one, many := c.key.tokens(t, c.token, 1), c.key.tokens(t, c.token, often(20_000, 20))
	respond := func(tokens []string) load { return inTurn("/respond/orders", tokens, clients, requests) }
	proxy := func(tokens []string) load { return inTurn("/orders", tokens, clients, requests) }
	inTurns := fmt.Sprintf(", %d tokens in turn", len(many))
	held := [][]string{c.held(t, "just started")}
	// Both processes are slower in their first seconds, while their heaps grow.
	compare(t, c.plain, c.gateway, often(10, 1), respond(one), nothing)
	add("`respond`, one token", c, respond(one), nothing)
	add("`respond`, public path, no token", c, always("/respond/public/logo", "", http.StatusOK), nothing)
	add("`reverse_proxy`, one token", c, proxy(one), nothing)
	add("`reverse_proxy`, public path, no token", c, always("/public/logo", "", http.StatusOK), nothing)
	held = append(held, c.held(t, fmt.Sprintf("after %d requests with one token or none", 5*(n+1)*requests)))
	add("`respond`"+inTurns, c, respond(many), nothing)
	add("`reverse_proxy`"+inTurns, c, proxy(many), nothing)
	held = append(held, c.held(t, fmt.Sprintf("after %d more with %d tokens in turn", 2*(n+1)*max(requests, len(many)), len(many))))
	other := &couple{plain: c.plain, gateway: rig.StartCaddy(t, site("request_header X-WX-USER-ID 01a20a19-23a0-7d1c-8098-d0fef8aaf38c"), c.wx.Environ(c.upstream)...)}
	compare(t, other.plain, other.gateway, often(10, 1), respond(one), nothing)
	add("for comparison: `respond` behind Caddy's `request_header` instead of the gateway", other, respond(one), nothing)
	other.gateway.Stop()
	p.end()

	p.text("Where the time of a request to `respond` with one token goes, by profiles of both processes:")
	p.table("", "plain", "with the gateway")
	long := respond(one)
	long.requests = often(400_000, 100)
	plain, gateway := long.spent(t, c.plain, often(20, 1)), long.spent(t, c.gateway, often(20, 1))
	for i := range plain {
		name := "in all"
		if i < len(requestParts) {
			name = requestParts[i].name
		}
		p.row(name, fmt.Sprintf("%.1f µs", plain[i]), fmt.Sprintf("%.1f µs", gateway[i]))
	}
	p.end()
	p.text("Garbage collection and system calls are also part of the lines above them. Memory of each process:")
	p.table("", "plain", "with the gateway", "difference")
	for _, cells := range held {
		p.row(cells...)
	}
	p.end()

	p.text("Refused without a token, by the gateway alone:")
	p.table("path", "CPU per request", "p50", "p99")
	refused := always("/orders", "", http.StatusUnauthorized)
	refused.run(t, c.gateway)
	m := refused.run(t, c.gateway)
	p.row("401", fmt.Sprintf("%.1f µs", micros(m.perRequest)), m.p50.String(), m.p99.String())
	p.end()
	c.stop()

	p.text("Each request has a token that the gateway has not seen before:")
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
