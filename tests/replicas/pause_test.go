package replicas

import (
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// The feed looks back a minute at every poll, and further after a pause. A replica that
// was paused must not miss a logout.
func TestPausedReplicaLearnsOfEveryLogout(t *testing.T) {
	t.Parallel()
	pause := time.Duration(rig.Rounds(4, 70)) * time.Second
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		t.Parallel()
		replicas := rig.NewReplicas(t, db, 2)
		a, b := replicas[0], replicas[1]
		var out []rig.Pair
		for range 3 {
			out = append(out, a.MustLogin(t, number))
		}
		alive := a.MustLogin(t, number)
		sockets := []<-chan struct{}{}
		a.Upstream.SetHandler(http.HandlerFunc(switchProtocols))
		for _, p := range out {
			sockets = append(sockets, openSocket(t, b.Caddy.Addr, p.Token))
		}
		a.Upstream.SetHandler(nil)
		if err := b.Caddy.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		for _, p := range out { // these ended at the beginning, in the middle and at the end
			a.Logout(p.Token, "", false).Want(t, http.StatusNoContent)
			time.Sleep(pause / 3)
		}
		if err := b.Caddy.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		for i, p := range out {
			wantEndedEverywhere(t, replicas, p)
			rig.Within(t, patience, "the WebSocket is closed", sockets[i])
		}
		b.WantAlive(t, alive)
	})
}

// A transaction of one replica begins before others and is committed long after them,
// so its row appears behind rows that the other replicas have already read.
func TestLateCommitReachesTheOtherReplicas(t *testing.T) {
	t.Parallel()
	late := time.Duration(rig.Rounds(3, 55)) * time.Second
	for _, kind := range []string{"postgres", "mysql"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := rig.NewDatabase(t, kind)
			replicas := rig.NewReplicas(t, db, 2)
			slow, quick, alive := replicas[0].MustLogin(t, number), replicas[0].MustLogin(t, "13900139000"), replicas[0].MustLogin(t, number)
			clock := "CAST(EXTRACT(EPOCH FROM now()) * 1000 AS BIGINT)"
			if kind == "mysql" {
				clock = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000"
			}
			tx, err := db.Begin()
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			session := rig.SessionOf(t, slow.Token)
			for _, statement := range []string{
				"UPDATE wx_auth_sessions SET ended_at = " + clock + " WHERE id = '" + session + "'",
				"INSERT INTO wx_auth_revocations (session_id, until_at, recorded_at) VALUES ('" + session + "', " + clock + " + 90000000, " + clock + ")",
			} {
				if _, err := tx.Exec(statement); err != nil {
					t.Fatal(err)
				}
			}
			replicas[1].Logout(quick.Token, "", false).Want(t, http.StatusNoContent)
			wantEndedEverywhere(t, replicas, quick) // it has the higher number, and was read
			time.Sleep(late)
			for _, r := range replicas {
				r.WantAlive(t, slow)
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			wantEndedEverywhere(t, replicas, slow)
			for _, r := range replicas {
				r.WantAlive(t, alive)
			}
		})
	}
}
