package rig

import (
	"net/http"
	"sync"
	"testing"
	"time"
)

// ReplicaSite is GatewaySite with the database in the environment; see Database.Environ.
func ReplicaSite(options ...string) string { return ReplicaSiteWith("", options...) }

// ReplicaSiteWith is ReplicaSite with further directives beside wx_auth.
func ReplicaSiteWith(directives string, options ...string) string {
	return GatewaySiteWith(directives, append([]string{"store {env.WX_AUTH_STORE}", "encryption_key {env.WX_AUTH_KEY}"}, options...)...)
}

// NewReplicas starts n gateways at the same moment, on one database, between one
// simulator and one upstream.
func NewReplicas(t testing.TB, db *Database, n int, options ...string) []*Gateway {
	t.Helper()
	return NewReplicasWith(t, db, n, ReplicaSite(options...))
}

func NewReplicasWith(t testing.TB, db *Database, n int, caddyfile string) []*Gateway {
	t.Helper()
	replicas := PrepareReplicas(t, db, n)
	StartReplicas(t, replicas, caddyfile)
	return replicas
}

// PrepareReplicas is NewReplicas without the start.
func PrepareReplicas(t testing.TB, db *Database, n int) []*Gateway {
	t.Helper()
	return PrepareReplicasOf(t, db, n, Binary(t))
}

// PrepareReplicasOf is PrepareReplicas with another binary; see BuildWith.
func PrepareReplicasOf(t testing.TB, db *Database, n int, binary string) []*Gateway {
	t.Helper()
	wx, up := NewWeChat(t), NewUpstream(t)
	replicas := make([]*Gateway, n)
	for i := range replicas {
		c := NewCaddyOf(t, binary, append(wx.Environ(up.Addr), db.Environ()...)...)
		replicas[i] = &Gateway{Client: c.Client(), Caddy: c, WeChat: wx, Upstream: up}
	}
	return replicas
}

// openTime is how long a gateway may need to open its store on a busy machine. It serves
// without one too, and tries again and again.
const openTime = 60 * time.Second

// AwaitStore waits until logins work. A database server that is slow at the gateway's start
// is an outage to it.
func (r *Gateway) AwaitStore(t testing.TB) {
	t.Helper()
	Await(t, openTime, "the store is open and logins work", func() bool {
		return r.Get("/auth/wx/health", "").Status == http.StatusOK
	})
}

// Start starts the gateway with a site whose store is a server's, and waits until logins work.
func (r *Gateway) Start(t testing.TB, caddyfile string) {
	t.Helper()
	r.Caddy.Start(caddyfile)
	r.AwaitStore(t)
}

// Restart runs the gateway again as it was, and waits until logins work.
func (r *Gateway) Restart(t testing.TB) {
	t.Helper()
	r.Caddy.Restart()
	r.AwaitStore(t)
}

// StartReplicas starts them at the same moment, and waits until logins work at each. If one
// does not start, the test ends.
func StartReplicas(t testing.TB, replicas []*Gateway, caddyfile string) {
	t.Helper()
	errs := make([]error, len(replicas))
	var starting sync.WaitGroup
	for i, r := range replicas {
		starting.Go(func() { errs[i] = r.Caddy.TryStart(caddyfile) })
	}
	starting.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("starting replica %d: %v\n%s", i, err, replicas[i].Caddy.Log.tail())
		}
	}
	for _, r := range replicas {
		r.AwaitStore(t)
	}
}
