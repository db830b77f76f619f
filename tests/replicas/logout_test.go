package replicas

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// switchProtocols is an upstream that upgrades a connection and then sends nothing.
func switchProtocols(w http.ResponseWriter, _ *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if rw.Flush() == nil {
		_, _ = io.Copy(io.Discard, conn)
	}
}

// openSocket upgrades a connection under a token. The channel is closed when the
// gateway ends the connection.
func openSocket(t testing.TB, addr, token string) <-chan struct{} {
	t.Helper()
	socket := rig.OpenSocket(t, addr, "/socket", token)
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, socket.R)
		close(ended)
		socket.Close()
	}()
	return ended
}

// distribution holds how long something took, measured many times.
type distribution struct {
	mu    sync.Mutex
	times []time.Duration
}

func (d *distribution) add(took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.times = append(d.times, took)
}

func (d *distribution) quantile(q float64) time.Duration {
	slices.Sort(d.times)
	return d.times[min(int(q*float64(len(d.times))), len(d.times)-1)]
}

func (d *distribution) String() string {
	ms := func(q float64) int64 { return d.quantile(q).Milliseconds() }
	return fmt.Sprintf("%d tries: least %d ms, half %d ms, 90 %% %d ms, 99 %% %d ms, most %d ms", len(d.times), ms(0), ms(0.5), ms(0.9), ms(0.99), ms(1))
}

// A user logs out on one replica. Tokens are refused and WebSockets end: on that replica at
// once, on the other within the feed's second.
func TestLogoutReachesTheOtherReplica(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		t.Parallel()
		replicas := rig.NewReplicas(t, db, 2)
		a, b := replicas[0], replicas[1]
		var tokens, sockets distribution
		tries := rig.Rounds(20, 200)
		for i := range tries {
			p := a.MustLogin(t, number)
			b.WantAlive(t, p)
			b.Upstream.SetHandler(http.HandlerFunc(switchProtocols))
			here, there := openSocket(t, a.Caddy.Addr, p.Token), openSocket(t, b.Caddy.Addr, p.Token)
			b.Upstream.SetHandler(nil)
			// The logouts must not run in step with the feed's seconds.
			time.Sleep(time.Duration(i) * time.Second / time.Duration(tries))

			a.Logout(p.Token, "", false).Want(t, http.StatusNoContent)
			answered := time.Now()
			a.Get("/", p.Token).WantProblem(t, http.StatusUnauthorized, "token_revoked", nil)
			var both sync.WaitGroup
			both.Go(func() {
				<-there
				sockets.add(time.Since(answered))
			})
			rig.Await(t, patience, "the token is refused on B", func() bool { return b.Get("/", p.Token).Status == http.StatusUnauthorized })
			tokens.add(time.Since(answered))
			b.Refresh(p.RefreshToken).WantProblem(t, http.StatusUnauthorized, "session_ended", nil)
			for name, ended := range map[string]<-chan struct{}{"A": here, "B": there} {
				select {
				case <-ended:
				case <-time.After(patience):
					t.Fatalf("the WebSocket on %s is open %s after the logout", name, time.Since(answered))
				}
			}
			both.Wait()
		}
		// A single late answer is due to a busy machine; if half of them are late, the
		// feed is.
		strict := 0.5
		if rig.Long {
			strict = 1
		}
		for what, d := range map[string]*distribution{"token": &tokens, "WebSocket": &sockets} {
			if took := d.quantile(strict); took > feedTime {
				t.Errorf("the %s was good on B for %s after the logout on A", what, took)
			}
		}
		t.Logf("%s, from the answer of the logout on A until B refuses the token: %s", db.Kind, &tokens)
		t.Logf("%s, until the WebSocket on B is closed: %s", db.Kind, &sockets)
	})
}

// A logout cannot be written. It must be answered with an error, because the session would
// still be open on the next replica that starts.
func TestLogoutWithoutTheDatabaseFails(t *testing.T) {
	t.Parallel()
	ways := map[string]func(*rig.Gateway, rig.Pair) rig.Answer{
		"token":         func(r *rig.Gateway, p rig.Pair) rig.Answer { return r.Logout(p.Token, "", false) },
		"refresh token": func(r *rig.Gateway, p rig.Pair) rig.Answer { return r.Logout("", p.RefreshToken, false) },
		"all":           func(r *rig.Gateway, p rig.Pair) rig.Answer { return r.Logout(p.Token, "", true) },
		"this device":   func(r *rig.Gateway, p rig.Pair) rig.Answer { return endDevice(t, r, p) },
	}
	try := func(t *testing.T, db *rig.Database, replicas []*rig.Gateway, down, up func()) {
		pairs := make(map[string]rig.Pair)
		i := 0
		for name := range ways {
			i++
			pairs[name] = replicas[0].MustLogin(t, fmt.Sprintf("1380013800%d", i))
		}
		down()
		for name, out := range ways {
			a := out(replicas[0], pairs[name])
			a.WantProblem(t, http.StatusServiceUnavailable, "store_unavailable", nil)
			if a.Header.Get("Retry-After") == "" {
				t.Errorf("%s: no Retry-After", name)
			}
			// Nothing is done by halves either: the token still works on both replicas.
			for _, r := range replicas {
				r.WantAlive(t, pairs[name])
			}
		}
		up()
		for name, out := range ways {
			p := pairs[name]
			var a rig.Answer
			rig.Await(t, 20*time.Second, "logouts are taken again", func() bool {
				a = out(replicas[0], p)
				return a.Status == http.StatusNoContent
			})
			wantEndedEverywhere(t, replicas, p)
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		db := rig.NewDatabase(t, "sqlite")
		replicas := rig.NewReplicas(t, db, 1)
		var unlock func()
		try(t, db, replicas, func() {
			tx, err := db.Begin() // takes the write lock at once, like a process that hangs
			if err != nil {
				t.Fatal(err)
			}
			unlock = func() { tx.Rollback() }
		}, func() { unlock() })
	})
	for _, kind := range []string{"postgres", "mysql"} {
		t.Run(kind, func(t *testing.T) {
			server := rig.NewServer(t, kind)
			try(t, server.Database, rig.NewReplicas(t, server.Database, 2), server.Stop, server.Start)
		})
	}
}

// endDevice ends the session by its id in the list of devices.
func endDevice(t testing.TB, r *rig.Gateway, p rig.Pair) rig.Answer {
	return r.Do(http.MethodDelete, "/auth/wx/sessions/"+rig.SessionOf(t, p.Token), nil, rig.Bearer(p.Token)...)
}
