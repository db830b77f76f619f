package replicas

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// Replicas are killed all the time, while users go on. Whatever was answered must be in the
// database, and every user must get an answer in the end.
func TestKill9LosesNothingThatWasAnswered(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		n := 2
		if db.Kind == "sqlite" {
			n = 1 // an SQLite store is for one replica
		}
		replicas := rig.NewReplicas(t, db, n)
		seed := rand.Uint64()
		t.Logf("%s: seed %d", db.Kind, seed)
		random := rand.New(rand.NewPCG(seed, 1))
		crowd := newCrowd(t, db, replicas, 6, seed)
		kills := rig.Rounds(8, 200)
		for range kills {
			time.Sleep(time.Duration(random.IntN(600)) * time.Millisecond)
			victim := replicas[random.IntN(n)].Caddy
			victim.Kill9()
			time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
			victim.Restart()
		}
		crowd.finish(t)
	})
}
