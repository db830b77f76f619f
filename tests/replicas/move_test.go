package replicas

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// moving is a gateway whose environment names an old and a new database.
func moving(t *testing.T, from, to string) (g *rig.Gateway, o rig.Operator, moved string) {
	t.Helper()
	old, next := rig.NewDatabase(t, from), rig.NewDatabase(t, to)
	wx, up := rig.NewWeChat(t), rig.NewUpstream(t)
	c := rig.NewCaddy(t, append(append(wx.Environ(up.Addr), old.Environ()...), "NEW_STORE="+next.URL, "NEW_KEY="+next.Key)...)
	c.Start(rig.ReplicaSite())
	moved = rig.GatewaySite("store {env.NEW_STORE}", "encryption_key {env.NEW_KEY}")
	return &rig.Gateway{Client: c.Client(), Caddy: c, WeChat: wx, Upstream: up}, rig.Operator{Caddy: c, Caddyfile: rig.ReplicaSite()}, moved
}

// A site grows out of its database. While the store is moved, tokens keep working, and
// everything else is answered with 503 and costs no code. After the reload everybody is logged
// in as before, and users that had logged out stay logged out.
func TestNobodyLogsInAgainAfterAMove(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{{"sqlite", "postgres"}, {"sqlite", "mysql"}, {"postgres", "sqlite"}, {"mysql", "sqlite"}} {
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) {
			t.Parallel()
			g, o, moved := moving(t, pair[0], pair[1])
			p, gone, erased := g.MustLogin(t, number), g.MustLogin(t, "13900139000"), g.MustLogin(t, "13700137000")
			g.Logout(gone.Token, "", false).Want(t, http.StatusNoContent)
			o.Run(t, "users", "erase", erased.UserInfo.ID)

			out := o.Run(t, "move", "{env.NEW_STORE}", "--encryption-key", "{env.NEW_KEY}")
			if !strings.Contains(out, "Everything is in "+pair[1]) || !strings.Contains(out, "phone numbers   2") {
				t.Errorf("move:\n%s", out)
			}

			paid := g.WeChat.PhoneOK()
			// The old store is closed, both for a running replica and for one that starts.
			for range 2 {
				g.WantAlive(t, p)
				g.Get("/", gone.Token).WantProblem(t, http.StatusUnauthorized, "token_revoked", nil)
				codes := g.WeChat.Tap(t, "13600136000")
				a := g.Login(codes.Code, codes.PhoneCode)
				a.WantProblem(t, http.StatusServiceUnavailable, "store_unavailable", []string{})
				g.Refresh(p.RefreshToken).WantProblem(t, http.StatusServiceUnavailable, "store_unavailable", nil)
				g.Logout(p.Token, "", false).WantProblem(t, http.StatusServiceUnavailable, "store_unavailable", nil)
				rig.Await(t, patience, "/health is 503", func() bool { return g.Get("/auth/wx/health", "").Status == http.StatusServiceUnavailable })
				g.Get("/auth/wx/health/ready", "").Want(t, http.StatusOK)
				g.Caddy.Log.Wait(t, patience, "it was moved to "+pair[1], "move --undo")
				g.Caddy.Stop()
				g.Caddy.Restart()
			}
			if lines := g.Caddy.Log.Lines("the store: back again"); len(lines) > 0 {
				t.Errorf("a closed store is back again: %s", lines[0])
			}
			if now := g.WeChat.PhoneOK(); now != paid {
				t.Errorf("%d phone codes were spent for nothing", now-paid)
			}
			codes := g.WeChat.Tap(t, "13600136000")
			g.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusServiceUnavailable, "store_unavailable", []string{})
			if out, err := o.Try(t, "", "users", "disable", p.UserInfo.ID); err == nil || !strings.Contains(out, "it was moved to "+pair[1]) {
				t.Errorf("disable in the old store: %v\n%s", err, out)
			}

			g.MustReload(t, moved)
			g.Login(codes.Code, codes.PhoneCode).Pair(t) // the same codes as before
			p = g.WantSame(t, p, number)
			g.WantEnded(t, gone)
			g.WantEnded(t, erased)
			if again := g.MustLogin(t, "13900139000"); again.UserInfo.ID != gone.UserInfo.ID || again.UserInfo.IsNew {
				t.Errorf("the user is %+v, not %s", again.UserInfo, gone.UserInfo.ID)
			}
			g.Caddy.Stop()
			g.Restart(t)
			g.WantSame(t, p, number)

			if out, err := o.Try(t, "", "move", "{env.NEW_STORE}", "--encryption-key", "{env.NEW_KEY}"); err == nil || !strings.Contains(out, "was moved to "+pair[1]) {
				t.Errorf("a second time: %v\n%s", err, out)
			}
			if out := o.Run(t, "move", "--undo"); !strings.Contains(out, "is open again") {
				t.Errorf("--undo:\n%s", out)
			}
			g.MustReload(t, rig.ReplicaSite())
			g.MustLogin(t, number)
		})
	}
}

// An operator must not write a password into an argument, must not fill a store that is in
// use, and needs a key for a database server. A move that does not begin closes nothing.
func TestMoveThatCannotBeginClosesNothing(t *testing.T) {
	t.Parallel()
	g, o, moved := moving(t, "sqlite", "postgres")
	p := g.MustLogin(t, number)
	for want, args := range map[string][]string{
		"list of processes":      {"move", "postgres://root:s3cret@127.0.0.1/test", "--encryption-key", "{env.NEW_KEY}"},
		"NOBODY_SET_IT":          {"move", "{env.NOBODY_SET_IT}"},
		"same database":          {"move", "{env.WX_AUTH_STORE}"},
		"unknown kind of store":  {"move", "oracle://host/db"},
		"name the new store, or": {"move"},
		"it was not moved":       {"move", "--undo"},
	} {
		if out, err := o.Try(t, "", args...); err == nil || !strings.Contains(out, want) {
			t.Errorf("%v: %v, not %q\n%s", args, err, want, out)
		}
	}
	g.MustReload(t, moved)
	g.MustLogin(t, number)
	g.MustReload(t, rig.ReplicaSite())
	if out, err := o.Try(t, "", "move", "{env.NEW_STORE}", "--encryption-key", "{env.NEW_KEY}", "--force"); err == nil || !strings.Contains(out, "is not empty") {
		t.Errorf("a store in use: %v\n%s", err, out)
	}
	g.WantSame(t, p, number)
}

// People log in, refresh and log out while the store is moved. Everything that was answered
// before the store closed holds in the new store: nobody who logged out is logged in again,
// and no refresh is lost.
func TestAnsweredRequestsOutliveAMove(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{{"sqlite", "postgres"}, {"mysql", "sqlite"}, {"postgres", "sqlite"}} {
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) {
			t.Parallel()
			g, o, moved := moving(t, pair[0], pair[1])
			type person struct{ live, ended []rig.Pair }
			people := make([]person, 6)
			closed := func(a rig.Answer) bool {
				if a.Status != http.StatusServiceUnavailable {
					return false
				}
				a.WantProblem(t, http.StatusServiceUnavailable, "store_unavailable", nil)
				return true
			}
			var all sync.WaitGroup
			var busy atomic.Int64
			for i := range people {
				all.Go(func() {
					for n := 0; !t.Failed(); n++ {
						codes := g.WeChat.Tap(t, fmt.Sprintf("1380013800%d", i))
						a := g.Login(codes.Code, codes.PhoneCode)
						if closed(a) {
							return
						}
						p := a.Pair(t)
						switch (i + n) % 3 {
						case 0:
							if a := g.Logout(p.Token, "", false); closed(a) {
								people[i].live = append(people[i].live, p)
								return
							} else if a.Want(t, http.StatusNoContent); true {
								people[i].ended = append(people[i].ended, p)
							}
						case 1:
							if a := g.Refresh(p.RefreshToken); !closed(a) {
								p = a.Pair(t)
							}
							people[i].live = append(people[i].live, p)
						default:
							people[i].live = append(people[i].live, p)
						}
						busy.Add(1)
					}
				})
			}
			rig.Await(t, patience, "people are busy", func() bool { return busy.Load() > 30 || t.Failed() })
			o.Run(t, "move", "{env.NEW_STORE}", "--encryption-key", "{env.NEW_KEY}")
			all.Wait()
			g.MustReload(t, moved)
			live, ended := 0, 0
			for _, one := range people {
				for _, p := range one.live[max(0, len(one.live)-10):] { // a user has at most 20 sessions
					live++
					g.WantAlive(t, p)
					g.Refresh(p.RefreshToken).Pair(t)
				}
				for _, p := range one.ended {
					ended++
					g.WantEnded(t, p)
				}
			}
			if live < 6 || ended < 6 {
				t.Errorf("only %d live and %d ended sessions", live, ended)
			}
			t.Logf("%d live and %d ended sessions were looked at", live, ended)
		})
	}
}
