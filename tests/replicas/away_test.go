package replicas

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// While the database is down, an operator reloads with another site, other lifetimes and
// another mini program. What was open stays open: good tokens, the JWKS and WebSockets keep
// working, and logins wait.
func TestReloadWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"postgres", "mysql"} {
		t.Run(kind, func(t *testing.T) {
			server := rig.NewServer(t, kind)
			r := rig.NewReplicas(t, server.Database, 1)[0]
			p := r.MustLogin(t, number)
			ended := r.MustLogin(t, "13900139000")
			r.Logout(ended.Token, "", false).Want(t, http.StatusNoContent)
			server.Stop()
			// The store is checked at most once a second.
			rig.Await(t, 20*time.Second, "the database is away", func() bool { return r.Get("/auth/wx/health", "").Status == http.StatusServiceUnavailable })
			for i, c := range []string{
				rig.ReplicaSite(),
				rig.ReplicaSite() + "http://" + rig.FreeAddress(t) + " {\nrespond hello\n}\n",
				rig.ReplicaSite("session {\nidle 10d\n}", "token {\nlifetime 30m\n}"),
				rig.ReplicaSite("app wx1123456789abcdef 5ec2e70000000000000000000000beef"),
				rig.ReplicaSite(),
			} {
				r.MustReload(t, c)
				r.Get("/", p.Token).Seen(t).WantHeader(t, "X-WX-PHONE", "+86"+number)
				r.Get("/", ended.Token).WantProblem(t, http.StatusUnauthorized, "token_revoked", nil)
				r.Get("/auth/wx/jwks.json", "").Want(t, http.StatusOK)
				r.Get("/auth/wx/verify", p.Token).Want(t, http.StatusNoContent)
				r.Get("/auth/wx/health/ready", "").Want(t, http.StatusOK)
				r.Get("/auth/wx/health", "").Want(t, http.StatusServiceUnavailable)
				r.Refresh(p.RefreshToken).WantProblem(t, http.StatusServiceUnavailable, "store_unavailable", nil)
				if t.Failed() {
					t.Fatalf("reload %d", i)
				}
			}
			server.Start()
			rig.Await(t, 60*time.Second, "logins work again", func() bool { return r.Get("/auth/wx/health", "").Status == http.StatusOK })
			p = r.Refresh(p.RefreshToken).Pair(t)
			r.MustLogin(t, number)
			// Logouts on this replica reach the set of revoked sessions again.
			r.Logout(p.Token, "", false).Want(t, http.StatusNoContent)
			r.Get("/", p.Token).WantProblem(t, http.StatusUnauthorized, "token_revoked", nil)
		})
	}
}

// A database server that is read-only does not count as open until it accepts writes.
// The log says what to do.
func TestReadOnlyServerIsNotReady(t *testing.T) {
	t.Parallel()
	for kind, c := range map[string]struct{ on, off []string }{
		"postgres": {[]string{"ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"},
			[]string{"ALTER SYSTEM SET default_transaction_read_only = off", "SELECT pg_reload_conf()"}},
		"mysql": {[]string{"SET GLOBAL read_only = 1"}, []string{"SET GLOBAL read_only = 0"}},
	} {
		t.Run(kind, func(t *testing.T) {
			server := rig.NewServer(t, kind)
			db := *server.Database
			if kind == "mysql" { // root may write even then
				server.Run(t, "CREATE USER wx@'%' IDENTIFIED BY 'pw'")
				server.Run(t, "CREATE DATABASE wx")
				server.Run(t, "GRANT ALL ON wx.* TO wx@'%'")
				u, err := url.Parse(db.URL)
				if err != nil {
					t.Fatal(err)
				}
				u.User, u.Path = url.UserPassword("wx", "pw"), "/wx"
				db.URL = u.String()
			}
			r := rig.NewReplicas(t, &db, 1)[0]
			p := r.MustLogin(t, number)
			for _, s := range c.on {
				server.Run(t, s)
			}
			rig.Await(t, 30*time.Second, "logins do not work", func() bool { return r.Get("/auth/wx/health", "").Status == http.StatusServiceUnavailable })
			r.Get("/auth/wx/health/ready", "").Want(t, http.StatusOK) // tokens are still accepted
			r.Get("/", p.Token).Want(t, http.StatusOK)
			r.Caddy.Stop()
			r.Caddy.Restart()
			for path, want := range map[string]int{"/live": 200, "/ready": 503, "": 503} {
				r.Get("/auth/wx/health"+path, "").Want(t, want)
			}
			codes := r.WeChat.Tap(t, number)
			r.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusServiceUnavailable, "store_unavailable", []string{})
			r.Caddy.Log.Wait(t, 20*time.Second, "the store cannot be written", `"remedy":"let the user`, "read_only")
			for _, s := range c.off {
				server.Run(t, s)
			}
			rig.Await(t, 60*time.Second, "the store is open", func() bool { return r.Get("/auth/wx/health", "").Status == http.StatusOK })
			r.WantSame(t, p, number)
		})
	}
}

// The database accepts connections but answers nothing. The health endpoint must say so
// in time, however many clients ask, and the checks must not pile up.
func TestHealthWhileTheDatabaseHangs(t *testing.T) {
	t.Parallel()
	db := rig.NewDatabase(t, "postgres")
	u, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	front := newFront(t, u.Host)
	u.Host = front.address
	behind := *db
	behind.URL = u.String() + "&sslmode=disable"
	if !strings.Contains(u.String(), "?") {
		behind.URL = u.String() + "?sslmode=disable"
	}
	r := rig.NewReplicas(t, &behind, 1)[0]
	p := r.MustLogin(t, number)
	r.Get("/auth/wx/health", "").Want(t, http.StatusOK)
	front.hang()
	time.Sleep(1200 * time.Millisecond) // until the last check of the store is more than a second old
	for range 3 {
		answers := make([]<-chan rig.Answer, 20)
		start := time.Now()
		for i := range answers {
			answers[i] = rig.InBackground(func() rig.Answer { return r.Get("/auth/wx/health", "") })
		}
		for _, a := range answers {
			(<-a).Want(t, http.StatusServiceUnavailable)
		}
		if took := time.Since(start); took > 5*time.Second { // about 2 s, but the machine may be busy
			t.Errorf("20 answers took %s", took)
		}
	}
	r.Get("/auth/wx/health/ready", "").Want(t, http.StatusOK)
	r.Get("/auth/wx/health/live", "").Want(t, http.StatusOK)
	r.Get("/", p.Token).Want(t, http.StatusOK)
}

// front is a proxy in front of a database that can stop forwarding.
type front struct {
	address string
	stopped chan struct{}
}

func newFront(t *testing.T, to string) *front {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{address: l.Addr().String(), stopped: make(chan struct{})}
	t.Cleanup(func() { l.Close() })
	pass := func(from, to net.Conn) {
		defer from.Close()
		defer to.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			select {
			case <-f.stopped:
				if err == nil {
					continue // dropped
				}
			default:
			}
			if err != nil {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			go pass(c, s)
			go pass(s, c)
		}
	}()
	return f
}

func (f *front) hang() { close(f.stopped) }
