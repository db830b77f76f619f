package replicas

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// guarded sends requests with a good token to every replica, all the time. Each must be
// answered with 200.
type guarded struct {
	*rig.Loops
	asked atomic.Int64
}

func askGuarded(t testing.TB, replicas []*rig.Gateway, p rig.Pair) *guarded {
	g := &guarded{Loops: rig.NewLoops(t)}
	for i, r := range replicas {
		g.Go(2*time.Millisecond, func() bool {
			if a := r.Get("/", p.Token); a.Err != nil || a.Status != http.StatusOK {
				t.Errorf("a good token got %d %v %s on replica %d", a.Status, a.Err, a.Body, i)
				return false
			}
			g.asked.Add(1)
			return true
		})
	}
	return g
}

// The database is restarted under load. Good tokens work all the time, and every login
// succeeds in the end without a second phone code.
func TestDatabaseRestartUnderLoad(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"postgres", "mysql"} {
		t.Run(kind, func(t *testing.T) {
			server := rig.NewServer(t, kind)
			replicas := rig.NewReplicas(t, server.Database, 2)
			good := askGuarded(t, replicas, replicas[0].MustLogin(t, "13700137000"))
			crowd := newCrowd(t, server.Database, replicas, 4, 1)
			crowd.mu.Lock()
			crowd.numbers["13700137000"] = ""
			crowd.mu.Unlock()
			for i := range rig.Rounds(2, 10) {
				time.Sleep(time.Second)
				if i%2 == 0 {
					server.Stop()
				} else {
					server.Crash()
				}
				before := good.asked.Load()
				rig.Await(t, patience, "good tokens are taken without the database", func() bool { return good.asked.Load() > before+100 })
				server.Start()
				for _, r := range replicas {
					rig.Await(t, patience, "logins work again", func() bool {
						codes := r.WeChat.Tap(t, "13700137000")
						return r.Login(codes.Code, codes.PhoneCode).Status == http.StatusOK
					})
				}
			}
			crowd.finish(t)
			good.End()
			t.Logf("%s: %d requests with a good token, none refused", kind, good.asked.Load())
		})
	}
}
