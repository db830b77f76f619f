//go:build linux

package bench

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

var baseline = flag.String("baseline", "", "the binary of another version, with which the section turnarounds compares logins and refreshes")

// turnarounds measures the cost of a database behind a network: how often a request waits for
// the database, and how much longer a login takes when each wait takes a millisecond more.
func turnarounds(t *testing.T, p *page) {
	p.heading("The database over a network")
	p.text("A turnaround is a wait for the database: the gateway has asked, and the answer comes. A proxy counts them, one client logs in at a time. What each is for: docs/design/turnarounds.md.")
	kinds := []string{"postgres", "mysql"}
	p.table("turnarounds", "first phone login", "silent login", "refresh", "idle, a second")
	for _, kind := range kinds {
		cells := append([]string{kind}, counted(t, kind)...)
		t.Log(cells)
		p.row(cells...)
	}
	p.end()

	p.text("Phone logins of new users with 32 clients, WeChat's two calls at 50 ms each, and so much added to each turnaround:")
	p.table("store", "added", "p50", "p99")
	for _, kind := range rig.Kinds {
		for _, added := range []time.Duration{0, time.Millisecond} {
			if kind == "sqlite" && added > 0 {
				continue
			}
			m := distant(t, kind, added)
			cells := []string{kind, added.String(), millis(m.p50), millis(m.p99)}
			t.Log(cells)
			p.row(cells...)
		}
	}
	p.end()
	if *baseline == "" {
		p.text("Logins and refreshes are compared with another version where its binary is given (`-baseline`).")
		return
	}
	name := filepath.Base(*baseline)
	p.text("Phone logins and refreshes a second with 32 clients and no delays, as a ratio to those of `" + name + "`, in pairs:")
	p.table("store", "logins/s", "ratio", "refreshes/s", "ratio")
	spent := make(map[string][2]spentOn)
	for _, kind := range rig.Kinds {
		var cells []string
		cells, spent[kind] = against(t, kind)
		t.Log(kind, cells)
		p.row(append([]string{kind}, cells...)...)
	}
	p.end()
	p.text("Both cores were busy with these logins. Processor time of each:")
	p.table("store", "version", "gateway", "database server", "load generator and simulator", "in all")
	for _, kind := range rig.Kinds {
		for i, version := range []string{name, "this"} {
			each := spent[kind][i]
			cells := []string{kind, version}
			for _, d := range []time.Duration{each.gateway, each.server, each.load, each.gateway + each.server + each.load} {
				cells = append(cells, fmt.Sprintf("%.2f ms", micros(d)/1000))
			}
			t.Log(cells)
			p.row(cells...)
		}
	}
	p.end()
}

// spentOn is the processor time of one login.
type spentOn struct{ gateway, server, load time.Duration }

// sinceSpent returns the processor time that each process has used since before.
func (s spentOn) sinceSpent(before spentOn, requests int) spentOn {
	n := time.Duration(requests)
	return spentOn{(s.gateway - before.gateway) / n, (s.server - before.server) / n, (s.load - before.load) / n}
}

func (s spentOn) plus(o spentOn) spentOn {
	return spentOn{s.gateway + o.gateway, s.server + o.server, s.load + o.load}
}

// spentBy returns the processor time that a gateway, the database servers on this machine and this
// process have used so far.
func spentBy(t *testing.T, c *rig.Caddy) spentOn {
	s := spentOn{gateway: processorTime(t, c.PID()), load: processorTime(t, os.Getpid())}
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		comm, _ := os.ReadFile(name) // the process may be gone
		switch strings.TrimSpace(string(comm)) {
		case "postgres", "mariadbd", "mysqld":
			s.server += ticks(filepath.Dir(name))
		}
	}
	return s
}

// ticks returns the processor time of a process by its directory in /proc, in steps of ten
// milliseconds. It is zero if the process is gone.
func ticks(dir string) time.Duration {
	text, _ := os.ReadFile(filepath.Join(dir, "stat"))
	_, rest, _ := strings.Cut(string(text), ") ") // behind the name, which may contain blanks
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// distantGateway returns a gateway whose database is behind a wire.
func distantGateway(t *testing.T, kind string, added time.Duration) (*rig.Gateway, *rig.Wire) {
	db, wire := rig.NewDatabase(t, kind).Behind(t, added)
	return newLoginGateway(t, db), wire
}

// counted counts the round trips of logins and refreshes, and those of an idle gateway.
func counted(t *testing.T, kind string) (cells []string) {
	g, wire := distantGateway(t, kind, 0)
	defer g.Caddy.Stop()
	n := often(50, 5)
	phones := make([]string, n)
	var tokens []string
	operations := []func(i int){
		func(i int) {
			people++
			phones[i] = number(people)
			g.MustLogin(t, phones[i])
		},
		func(i int) {
			tokens = append(tokens, g.Client.Silent(g.WeChat.Open(t, phones[i]).Code).Pair(t).RefreshToken)
		},
		func(i int) { g.Client.Refresh(tokens[i]).Pair(t) },
	}
	for _, o := range operations {
		for i := range min(n, 5) { // each connection prepares its statements first
			o(i)
		}
	}
	idle := func(d time.Duration) float64 {
		before := wire.Turnarounds()
		time.Sleep(d)
		return float64(wire.Turnarounds()-before) / d.Seconds()
	}
	rest := idle(time.Duration(often(60, 3)) * time.Second)
	tokens = nil
	for _, o := range operations {
		before, start := wire.Turnarounds(), time.Now()
		for i := range n {
			o(i)
		}
		asked := float64(wire.Turnarounds()-before) - rest*time.Since(start).Seconds()
		cells = append(cells, fmt.Sprintf("%.1f", asked/float64(n)))
	}
	return append(cells, fmt.Sprintf("%.1f", rest))
}

// distant measures logins at WeChat's usual delay.
func distant(t *testing.T, kind string, added time.Duration) measured {
	var g *rig.Gateway
	if added == 0 {
		g = newLoginGateway(t, rig.NewDatabase(t, kind))
	} else {
		g, _ = distantGateway(t, kind, added)
	}
	defer g.Caddy.Stop()
	if err := g.WeChat.Inject(wechattest.Fault{Kind: wechattest.Delay, Count: -1, Delay: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	const clients, every = 32, 256 * time.Millisecond
	warm := phoneLogins(t, g.WeChat, clients, often(20*clients, 3))
	warm.every = every
	warm.run(t, g.Caddy)
	l := phoneLogins(t, g.WeChat, clients, often(60*clients, 10))
	l.every = every
	return l.run(t, g.Caddy)
}

// against compares logins and refreshes with the baseline's, pair by pair. It returns what a login
// costs with each. The gateway that is started first is a few percent faster, even if both are of
// one version, so half of the pairs are measured with the other one started first.
func against(t *testing.T, kind string) (cells []string, spent [2]spentOn) {
	var logins, refreshed compared
	for _, first := range []int{0, 1} {
		halves := startedFirst(t, kind, first, &logins, &refreshed)
		for which, half := range halves {
			spent[which] = spent[which].plus(half)
		}
	}
	for which := range spent {
		spent[which] = spent[which].sinceSpent(spentOn{}, 2)
	}
	return append(logins.cells(), refreshed.cells()...), spent
}

// compared holds the results of pairs of runs.
type compared struct{ rates, ratios []float64 }

func (c compared) cells() []string {
	return []string{fmt.Sprintf("%.0f", spreadOf(c.rates).median), spreadOf(c.ratios).ratio()}
}

// startedFirst compares a gateway of each version. It starts first the baseline (0) or ours (1).
func startedFirst(t *testing.T, kind string, first int, logins, refreshed *compared) (spent [2]spentOn) {
	var gateways [2]*rig.Gateway // the baseline's and ours
	for _, which := range []int{first, 1 - first} {
		g := &rig.Gateway{WeChat: newWeChat(t)}
		db := rig.NewDatabase(t, kind)
		binary := []string{*baseline, rig.Binary(t)}[which]
		g.Caddy = rig.NewCaddyOf(t, binary, append(g.WeChat.Environ("127.0.0.1:9"), db.Environ()...)...)
		g.Client = g.Caddy.Client()
		g.Start(t, site(wxAuth("store {env.WX_AUTH_STORE}", "encryption_key {env.WX_AUTH_KEY}")))
		defer g.Caddy.Stop()
		gateways[which] = g
	}
	const clients = 32
	rounds, n := often(3, 1), often(2000, 40)
	login := func(g *rig.Gateway) load { return phoneLogins(t, g.WeChat, clients, n) }
	refresh := func(g *rig.Gateway) load { return refreshes(t, g, clients, n) }
	for which, g := range gateways {
		login(g).run(t, g.Caddy) // prepares what is prepared once
		l, before := login(g), spentBy(t, g.Caddy)
		l.run(t, g.Caddy)
		spent[which] = spentBy(t, g.Caddy).sinceSpent(before, n)
	}
	for _, one := range []struct {
		load func(*rig.Gateway) load
		into *compared
	}{{login, logins}, {refresh, refreshed}} {
		for i := range rounds + 1 {
			var perSecond [2]float64
			for _, which := range []int{i % 2, 1 - i%2} {
				perSecond[which] = one.load(gateways[which]).run(t, gateways[which].Caddy).perSecond
			}
			if i > 0 || rounds == 1 {
				one.into.rates, one.into.ratios = append(one.into.rates, perSecond[1]), append(one.into.ratios, perSecond[1]/perSecond[0])
			}
		}
	}
	return spent
}

// refreshes returns a load with the first refreshes of n sessions.
func refreshes(t *testing.T, g *rig.Gateway, clients, n int) load {
	bodies := make([][]byte, n)
	for i := range bodies {
		people++
		codes := g.WeChat.Tap(t, number(people))
		bodies[i] = post("/auth/wx/refresh", map[string]string{"refreshToken": g.Client.Login(codes.Code, codes.PhoneCode).Pair(t).RefreshToken})
	}
	return load{clients: clients, requests: n, status: http.StatusOK, request: func(i int) []byte { return bodies[i] }}
}
