package replicas

import (
	"net/http"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// anotherClock lets an environment variable set the gateway's clock forward or back.
var anotherClock = []rig.Change{
	{File: "caddymodule/internal/storestate/state.go", Old: "time.Now()", New: "wrong(time.Now())"},
	{File: "caddymodule/internal/storestate/opener.go", Old: "time.Now()", New: "wrong(time.Now())"},
	{File: "caddymodule/internal/storestate/run.go", Old: "time.Now()", New: "wrong(time.Now())"},
	{File: "caddymodule/internal/storestate/run.go", Old: "time.Now, ", New: "func() time.Time { return wrong(time.Now()) }, "},
	{File: "caddymodule/site.go", Old: "time.Now()", New: "wrong(time.Now())"},
	{File: "caddymodule/handler.go", Old: "time.Now()", New: "wrong(time.Now())"},
	{File: "caddymodule/internal/api/endpoints.go", Old: "time.Now()", New: "wrong(time.Now())"},
	{File: "caddymodule/internal/login/login.go", Old: "return time.Now()", New: "return wrong(time.Now())"},
	{File: "caddymodule/internal/store/db.go", Old: "opts.Now = time.Now", New: "opts.Now = func() time.Time { return wrong(time.Now()) }"},
	{File: "caddymodule/wrong_clock.go", New: "package caddymodule\n" + wrongClock},
	{File: "caddymodule/internal/api/wrong_clock.go", New: "package api\n" + wrongClock},
	{File: "caddymodule/internal/login/wrong_clock.go", New: "package login\n" + wrongClock},
	{File: "caddymodule/internal/store/wrong_clock.go", New: "package store\n" + wrongClock},
	{File: "caddymodule/internal/storestate/wrong_clock.go", New: "package storestate\n" + wrongClock},
}

const wrongClock = `
import (
	"os"
	"time"
)

var wrongBy, _ = time.ParseDuration(os.Getenv("CLOCK_WRONG_BY"))

func wrong(now time.Time) time.Time { return now.Add(wrongBy) }
`

// The clocks of replicas differ by up to two minutes. Each replica must still be able to end
// sessions that another one opened and refresh sessions that another one refreshed, and must
// learn of the others' logouts.
func TestReplicasWhoseClocksAreAMinuteApart(t *testing.T) {
	t.Parallel()
	binary := rig.BuildWith(t, "clock", anotherClock)
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		replicas := rig.PrepareReplicasOf(t, db, 3, binary)
		for i, wrong := range []string{"-60s", "0s", "60s"} {
			replicas[i].Caddy.Setenv("CLOCK_WRONG_BY", wrong)
		}
		// The leeway is for clocks that differ. Without it, a token from the future is
		// not accepted.
		rig.StartReplicas(t, replicas, rig.ReplicaSite("token {\nleeway 3m\n}", "session {\ngrace 5m\n}"))
		if n := db.Count(t, "SELECT COUNT(*) FROM wx_auth_signing_keys"); n != 1 {
			t.Errorf("%d signing keys", n)
		}
		for i, at := range replicas {
			for j, out := range replicas {
				p := at.MustLogin(t, number)
				for _, r := range replicas {
					r.WantAlive(t, p)
				}
				next := out.Refresh(p.RefreshToken).Pair(t)
				if again := at.Refresh(p.RefreshToken).Pair(t); again.RefreshToken != next.RefreshToken {
					t.Errorf("from %d to %d: another refresh token within the grace", i, j)
				}
				out.Logout(next.Token, "", false).Want(t, http.StatusNoContent)
				wantEndedEverywhere(t, replicas, next)
			}
		}
		// A revoked session stays revoked when a replica restarts, whichever clock the replica
		// has.
		p := replicas[0].MustLogin(t, number)
		replicas[0].Logout(p.Token, "", false).Want(t, http.StatusNoContent)
		replicas[2].Caddy.Stop()
		replicas[2].Restart(t)
		wantEndedEverywhere(t, replicas, p)
		// The same holds for codes: sent to another replica, they lead to the same
		// session.
		codes := replicas[0].WeChat.Tap(t, number)
		one := replicas[2].Login(codes.Code, codes.PhoneCode).Pair(t)
		if two := replicas[0].Login(codes.Code, codes.PhoneCode).Pair(t); rig.SessionOf(t, one.Token) != rig.SessionOf(t, two.Token) {
			t.Error("the same codes opened two sessions")
		}
	})
}
