package replicas

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// traffic sends requests without a pause, over new and over kept-alive connections. Each must
// be answered with 200. Requests without an answer are remembered by their URI.
type traffic struct {
	asked   atomic.Int64
	loops   *rig.Loops
	clients []*rig.Client

	mu     sync.Mutex
	failed map[string]error // URI -> how the exchange failed
}

var runs atomic.Int64 // makes the URIs of these tests unique

func newTraffic(t testing.TB, c *rig.Caddy, headers ...string) *traffic {
	f := &traffic{loops: rig.NewLoops(t), failed: make(map[string]error)}
	run := runs.Add(1)
	for i := range 4 {
		client, n := c.Client(), 0
		client.HTTP.Transport.(*http.Transport).DisableKeepAlives = i%2 == 0
		f.clients = append(f.clients, client)
		f.loops.Go(time.Millisecond, func() bool {
			// It is a POST, because clients do not repeat a lost POST by themselves.
			uri := fmt.Sprintf("/traffic/%d-%d-%d-end", run, i, n)
			n++
			a := client.Do(http.MethodPost, uri, "{}", headers...)
			f.asked.Add(1)
			if a.Err != nil {
				f.mu.Lock()
				f.failed[uri] = a.Err
				f.mu.Unlock()
			} else if a.Status != http.StatusOK {
				t.Errorf("%s: %d %s", uri, a.Status, a.Body)
			}
			return true
		})
	}
	return f
}

func (f *traffic) end() {
	f.loops.End()
	for _, c := range f.clients {
		c.HTTP.CloseIdleConnections()
	}
}

// reloads loads the configurations in turn, without a pause, under traffic. It returns how
// many requests were sent, and how many of them failed. No request that reached a handler may
// have failed.
func reloads(t testing.TB, c *rig.Caddy, n int, configs []string, headers ...string) (failed int, asked int64) {
	t.Helper()
	f := newTraffic(t, c, headers...)
	for i := range n {
		if err := c.Load(configs[i%len(configs)]); err != nil {
			t.Fatal(err)
		}
	}
	f.end()
	if len(f.failed) > 0 && !c.Unheard("/nothing/waits/for/this") {
		t.Error("the log has what nobody asked for")
	}
	for uri, err := range f.failed {
		if lines := c.Log.Lines(`"logger":"http.log.access`, uri); len(lines) > 0 {
			t.Errorf("%s reached a handler and was not answered: %v\n%s", uri, err, lines)
		}
	}
	return len(f.failed), f.asked.Load()
}

// An operator reloads again and again under load. No request may fail, and no
// goroutine, connection or file may be left behind.
func TestReloadsUnderLoadLeakNothing(t *testing.T) {
	t.Parallel()
	count := rig.Rounds(20, 200)
	// Otherwise connections to the upstream would be kept by a former reverse_proxy, which is
	// Caddy's own doing.
	const proxy = "reverse_proxy {$UPSTREAM} {\ntransport http {\nkeepalive off\n}\n}"
	plain := func(mark string) string {
		return rig.Site("log\nheader X-Config " + mark + "\n" + proxy)
	}
	up := rig.NewUpstream(t)
	baseline := rig.StartCaddy(t, plain("a"), "UPSTREAM="+up.Addr)
	baseFailed, baseAsked := reloads(t, baseline, count, []string{plain("a"), plain("b")})
	baseline.Stop()

	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		// Refused logins are counted by the client's address.
		const proxies = "servers {\ntrusted_proxies static private_ranges 127.0.0.1/8\ntrusted_proxies_strict\n}"
		site := func(mark string) string {
			return rig.Site("log\nheader X-Config "+mark+"\nwx_auth {env.WX_APPID} {env.WX_SECRET} {\nstore {env.WX_AUTH_STORE}\nencryption_key {env.WX_AUTH_KEY}\n"+
				"login_rate 3/h\nwechat {\napi {$WX_API}\n}\n}\n"+proxy, proxies)
		}
		configs := []string{site("a"), site("b")}
		r := rig.NewReplicasWith(t, db, 1, configs[0])[0]
		p, out := r.MustLogin(t, number), r.MustLogin(t, number)
		r.Logout(out.Token, "", false).Want(t, http.StatusNoContent)
		refused := func() rig.Answer {
			return r.Do(http.MethodPost, "/auth/wx", map[string]string{"code": "0b3aBcDeFgHiJkLmNoPqRsTuVwXyZ012"}, "X-Forwarded-For: 203.0.113.7")
		}
		for range 3 {
			refused().WantProblem(t, http.StatusBadRequest, "login_code_invalid", nil)
		}
		refused().WantProblem(t, http.StatusTooManyRequests, "rate_limited", nil)
		older := p
		for range 10 { // a minute allows ten refreshes
			p = r.Refresh(p.RefreshToken).Pair(t)
		}

		// Measure after some reloads, and at rest.
		reloads(t, r.Caddy, 3, configs, rig.Bearer(p.Token)...)
		rest, pooled := atRest(t, r), db.Connections(t)

		begun := time.Now()
		failed, asked := reloads(t, r.Caddy, count, configs, rig.Bearer(p.Token)...)
		t.Logf("%s: %d reloads in %s: %d of %d requests failed, none of which reached a handler; of Caddy without wx_auth %d of %d",
			db.Kind, count, time.Since(begun).Round(time.Millisecond), failed, asked, baseFailed, baseAsked)

		refused().WantProblem(t, http.StatusTooManyRequests, "rate_limited", nil)
		r.WantEnded(t, out)
		r.WantAlive(t, p)
		r.Refresh(older.RefreshToken).WantProblem(t, http.StatusUnauthorized, "reuse_detected", nil)

		var now rig.Usage
		settled := func() bool {
			r.HTTP.CloseIdleConnections()
			now = r.Caddy.Usage(t)
			// The pool keeps the connections of a burst for minutes, up to its bound.
			// That is not a leak. Each one is a file, a socket and at most two
			// goroutines of its driver.
			more := max(0, db.Connections(t)-pooled)
			return now.Goroutines <= rest.Goroutines+2+2*more && now.Files <= rest.Files+1+more && now.Sockets <= rest.Sockets+1+more
		}
		done := settled() // once is enough: housekeeping may use a connection at any later moment
		for deadline := time.Now().Add(patience); !done && time.Now().Before(deadline); done = settled() {
			time.Sleep(time.Second)
		}
		t.Logf("%s: at rest before %+v, after %+v", db.Kind, rest, now)
		if !done {
			profile, _ := r.Caddy.Admin("/debug/pprof/goroutine?debug=1")
			t.Errorf("it holds more than before:\n%s", profile[:min(len(profile), 8<<10)])
		}
	})
}

// atRest returns what an idle gateway holds: the minimum of some measurements.
func atRest(t testing.TB, r *rig.Gateway) rig.Usage {
	t.Helper()
	r.HTTP.CloseIdleConnections()
	time.Sleep(time.Second)
	return r.Caddy.Usage(t)
}
