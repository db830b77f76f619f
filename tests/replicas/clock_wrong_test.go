package replicas

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// movingClock lets a file set the clock wrong while the gateway runs. In this build
// housekeeping runs once a second; a jump that lasts is still trusted only after an
// hour.
var movingClock = func() []rig.Change {
	changes := slices.Clone(anotherClock)
	for i, c := range changes {
		if c.Old == "" {
			pkg := filepath.Base(filepath.Dir(c.File))
			changes[i].New = "package " + pkg + "\n" + movedClock
		}
	}
	return append(changes,
		rig.Change{File: "caddymodule/internal/storestate/run.go", Old: "purgeEvery = time.Minute", New: "purgeEvery = time.Second"},
		rig.Change{File: "caddymodule/app.go", Old: "ringEvery = time.Minute", New: "ringEvery = 2 * time.Second"})
}()

const movedClock = `
import (
	"os"
	"strings"
	"time"
)

func wrong(now time.Time) time.Time {
	text, _ := os.ReadFile(os.Getenv("CLOCK_WRONG_FILE"))
	by, _ := time.ParseDuration(strings.TrimSpace(string(text)))
	return now.Add(by)
}
`

var movingBinary struct {
	sync.Once
	path string
}

// clocks are replicas whose clocks a test can set wrong.
type clocks struct {
	replicas []*rig.Gateway
	files    []string
}

func newClocks(t *testing.T, db *rig.Database, n int) *clocks {
	t.Helper()
	movingBinary.Do(func() { movingBinary.path = rig.BuildWith(t, "moving", movingClock) })
	c := &clocks{replicas: rig.PrepareReplicasOf(t, db, n, movingBinary.path)}
	for i, r := range c.replicas {
		c.files = append(c.files, filepath.Join(t.TempDir(), "wrong"))
		c.set(t, i, 0)
		r.Caddy.Setenv("CLOCK_WRONG_FILE", c.files[i])
	}
	return c
}

// set makes a replica's clock wrong by this much. The gateway never reads a
// half-written file.
func (c *clocks) set(t testing.TB, i int, by time.Duration) {
	t.Helper()
	if err := os.WriteFile(c.files[i]+".new", []byte(by.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(c.files[i]+".new", c.files[i]); err != nil {
		t.Fatal(err)
	}
}

const (
	day = 24 * time.Hour

	clockWrong = "the clock of this process is wrong"
	clockRight = "the clock of this process is right again"
)

// The clock of one of two replicas is 200 days ahead, or behind. No user may lose a
// session: neither one that the other replica opened, nor one that this replica opens
// or refreshes. What it writes must be right for the other. It logs that its clock is
// wrong, and does no housekeeping.
func TestWrongClockDeletesNobody(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		c := newClocks(t, db, 2)
		c.set(t, 1, 200*day)
		rig.StartReplicas(t, c.replicas[1:], rig.ReplicaSite()) // first, so that this one could have the housekeeping role
		c.replicas[1].Caddy.Log.Wait(t, patience, clockWrong, "remedy")
		rig.StartReplicas(t, c.replicas[:1], rig.ReplicaSite())
		right, wrong := c.replicas[0], c.replicas[1]

		people := []rig.Pair{right.MustLogin(t, "13800138001"), right.MustLogin(t, "13800138002"), right.MustLogin(t, "13800138003")}
		theirs := wrong.MustLogin(t, "13800138004")
		wrong.WantAlive(t, theirs)
		live := db.Count(t, "SELECT COUNT(*) FROM wx_auth_sessions")
		// The other replica still removes what has expired. Check twice, so that a
		// complete round of housekeeping lies between.
		for range 2 {
			db.Run(t, "UPDATE wx_auth_kept_steps SET expires_at = 1")
			rig.Await(t, patience, "the right one does the housekeeping", func() bool {
				return db.Count(t, "SELECT COUNT(*) FROM wx_auth_kept_steps WHERE expires_at = 1") == 0
			})
		}
		if n := db.Count(t, "SELECT COUNT(*) FROM wx_auth_sessions"); n != live {
			t.Fatalf("%d sessions of %d", n, live)
		}
		// Sessions that the wrong replica refreshes are neither lost nor extended.
		for i, p := range append(people, theirs) {
			next := wrong.Refresh(p.RefreshToken).Pair(t)
			if again := right.Refresh(p.RefreshToken).Pair(t); again.RefreshToken != next.RefreshToken {
				t.Errorf("%d: the right one does not know the grace of what the wrong one advanced", i)
			}
			right.Refresh(next.RefreshToken).Pair(t)
		}
		latest := time.Now().Add(31 * day).UnixMilli()
		for _, column := range []string{"expires_at", "refreshed_at", "created_at", "advanced_at"} {
			if at := db.Count(t, "SELECT MAX("+column+") FROM wx_auth_sessions"); at > latest {
				t.Errorf("%s is %v", column, time.UnixMilli(at))
			}
			if at := db.Count(t, "SELECT MIN("+column+") FROM wx_auth_sessions"); at < time.Now().Add(-day).UnixMilli() {
				t.Errorf("%s is %v", column, time.UnixMilli(at))
			}
		}
		if at := db.Count(t, "SELECT MAX(signs_from) FROM wx_auth_signing_keys"); at > time.Now().Add(time.Hour).UnixMilli() {
			t.Errorf("a key signs from %v", time.UnixMilli(at))
		}
		// It also ends sessions, and the other replicas refuse their tokens until these
		// expire.
		c.set(t, 1, -200*day)
		p := right.MustLogin(t, "13800138005")
		wrong.Logout("", p.RefreshToken, false).Want(t, http.StatusNoContent)
		rig.Await(t, patience, "what one ends whose clock is behind is over for the other", func() bool {
			return right.Get("/", p.Token).Status == http.StatusUnauthorized
		})
		right.WantEnded(t, p)
		right.Caddy.Stop()
		right.Restart(t)
		right.WantEnded(t, p)

		c.set(t, 1, 0)
		wrong.Caddy.Log.Wait(t, patience, clockRight)
		wrong.WantEnded(t, p)
		for _, r := range c.replicas {
			if n := len(r.Caddy.Log.Lines(clockWrong)); r == right && n > 0 || r == wrong && n != 1 {
				t.Errorf("%d lines of a wrong clock", n)
			}
		}
	})
}

// A clock jumps a day ahead for a while and back, or back and ahead. On both replicas,
// the tokens of sessions that ended before or during the jump stay refused, and
// WebSockets last exactly as long as their tokens.
func TestClockJumpBringsNoTokenBack(t *testing.T) {
	t.Parallel()
	for _, jump := range []struct {
		name string
		by   time.Duration
	}{{"ahead", 2 * day}, {"back", -2 * day}} {
		t.Run(jump.name, func(t *testing.T) {
			rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
				c := newClocks(t, db, 2)
				rig.StartReplicas(t, c.replicas, rig.ReplicaSite())
				jumping, other := c.replicas[0], c.replicas[1]
				jumping.Upstream.SetHandler(http.HandlerFunc(switchProtocols))
				before, meanwhile, alive := other.MustLogin(t, "13800138001"), other.MustLogin(t, "13800138002"), other.MustLogin(t, "13800138003")
				socket := openSocket(t, jumping.Caddy.Addr, alive.Token)
				ended := openSocket(t, jumping.Caddy.Addr, meanwhile.Token)
				other.Logout(before.Token, "", false).Want(t, http.StatusNoContent)
				refused := func(p rig.Pair) bool { return strings.Contains(jumping.Me(p.Token).Body, "token_revoked") }
				rig.Await(t, patience, "it is over", func() bool { return refused(before) })

				c.set(t, 0, jump.by)
				jumping.Caddy.Log.Wait(t, patience, clockWrong)
				other.Logout(meanwhile.Token, "", false).Want(t, http.StatusNoContent)
				select {
				case <-ended:
				case <-time.After(patience):
					t.Error("the WebSocket of an ended session lives on")
				}
				// All 256 parts of the set take 64 s. The tests of package session
				// cover that; here only a few parts are swept.
				time.Sleep(2 * time.Second)
				select {
				case <-socket:
					t.Error("the WebSocket of a live session has ended")
				default:
				}
				c.set(t, 0, 0)
				if !refused(before) {
					t.Error("a revoked token is back at once")
				}
				jumping.Caddy.Log.Wait(t, patience, clockRight)
				if !refused(before) || !refused(meanwhile) {
					t.Error("a revoked token is back")
				}
				jumping.Refresh(alive.RefreshToken).Pair(t)
				select {
				case <-socket:
					t.Error("the WebSocket of a live session has ended")
				default:
				}
			})
		})
	}
}
