//go:build linux

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// people counts the phones used so far, because each login is by a new user.
var people int

// newWeChat returns a simulator without the quotas that a benchmark would use up.
func newWeChat(t testing.TB) *rig.WeChat {
	none := map[wechattest.Call]int{}
	for _, call := range []wechattest.Call{wechattest.Code2Session, wechattest.PhoneNumber, wechattest.StableToken} {
		none[call] = 1 << 30
	}
	sim := wechattest.New(wechattest.Options{Apps: []wechattest.App{{ID: rig.AppID, Secret: rig.Secret, DailyQuota: none, MinuteQuota: none}}})
	return &rig.WeChat{Simulator: sim, URL: "http://" + rig.Serve(t, sim)}
}

// phoneLogins returns a load of logins by n new users.
func phoneLogins(t testing.TB, wx *rig.WeChat, clients, n int) load {
	bodies := make([][]byte, n)
	for i := range bodies {
		people++
		codes := wx.Tap(t, number(people))
		bodies[i] = post("/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode})
	}
	return load{clients: clients, requests: n, status: http.StatusOK, request: func(i int) []byte { return bodies[i] }}
}

func number(i int) string { return fmt.Sprintf("138%08d", i) }

func post(path string, body any) []byte {
	text, _ := json.Marshal(body) // cannot fail for a map of strings
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Mozilla/5.0 (iPhone) MicroMessenger/8.0.50\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(text), text)
	return b.Bytes()
}

// logins measures phone logins of new users when the access token is already cached.
func logins(t *testing.T, p *page) {
	p.heading("Logins")
	p.text("Phone logins of new users, with the access token already cached. The simulator answers each of WeChat's two calls after the given delay. A client begins its next login when it has the answer to the previous one, so with a delay all logins arrive at the same moments; rows with an interval avoid that. The stores have their default durability.")
	p.table("store", "WeChat's delay", "clients", "logins/s", "p50", "p99", "gateway CPU per login")
	kinds := []string{"sqlite"}
	if *full {
		kinds = rig.Kinds
	}
	row := func(kind string, delay time.Duration, clients string, m measured) {
		cells := []string{kind, delay.String(), clients, fmt.Sprintf("%.0f", m.perSecond), millis(m.p50), millis(m.p99), fmt.Sprintf("%.0f µs", micros(m.perRequest))}
		t.Log(strings.Join(cells, "  "))
		p.row(cells...)
	}
	made := make(map[string][]float64)
	for _, kind := range kinds {
		for _, delay := range []time.Duration{0, 50 * time.Millisecond} {
			g := newLoginGateway(t, rig.NewDatabase(t, kind))
			if delay > 0 {
				if err := g.WeChat.Inject(wechattest.Fault{Kind: wechattest.Delay, Count: -1, Delay: delay}); err != nil {
					t.Fatal(err)
				}
			}
			phoneLogins(t, g.WeChat, 1, 3).run(t, g.Caddy) // fetches the access token
			for _, clients := range []int{1, 32, 256} {
				n := often(5000, 10)
				if *full && delay > 0 {
					n = min(5000, clients*60)
				}
				row(kind, delay, fmt.Sprint(clients), phoneLogins(t, g.WeChat, clients, n).run(t, g.Caddy))
			}
			if delay > 0 {
				const clients, every = 32, 128 * time.Millisecond
				l := phoneLogins(t, g.WeChat, clients, often(clients*60, 10))
				l.every = every
				row(kind, delay, fmt.Sprintf("%d, one of them every %s", clients, every/clients), l.run(t, g.Caddy))
			}
			if delay == 0 {
				more := phoneLogins(t, g.WeChat, 32, often(5000, 100))
				spent := shares(t, g.Caddy, often(2, 1), loginParts) // a separate run, because a profile costs time too
				more.run(t, g.Caddy)
				made[kind] = spent()
			}
			g.Caddy.Stop()
		}
	}
	p.end()
	p.text("Where the gateway's processor time goes, with 32 clients and no delay:")
	p.table(append([]string{""}, kinds...)...)
	for i, part := range loginParts {
		cells := []string{part.name}
		for _, kind := range kinds {
			cells = append(cells, fmt.Sprintf("%.0f %%", made[kind][i]))
		}
		p.row(cells...)
	}
	p.end()
}

// newLoginGateway starts a gateway on that database.
func newLoginGateway(t testing.TB, db *rig.Database) *rig.Gateway {
	g := &rig.Gateway{WeChat: newWeChat(t)}
	g.Caddy = rig.StartCaddy(t, site(wxAuth("store {env.WX_AUTH_STORE}", "encryption_key {env.WX_AUTH_KEY}")),
		append(g.WeChat.Environ("127.0.0.1:9"), db.Environ()...)...)
	g.Client = g.Caddy.Client()
	g.AwaitStore(t)
	return g
}

func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", micros(d)/1000) }
