package store

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
)

// Each operation is reported once, with its name and outcome. "This user is unknown" is an answer
// and not a failure.
func TestOperationsAreReported(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		var mu sync.Mutex
		var seen []sqldb.Operation
		s.db.Observe(func(o sqldb.Operation) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, o)
		})
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		_, _ = s.Session(t.Context(), "unknown")
		_ = s.Probe(t.Context())
		_, _ = s.CountSessions(t.Context())
		_ = s.Probe(canceled)
		want := []string{"read_session ok", "probe ok", "count_sessions ok", "probe canceled"}
		for i, o := range seen {
			if o.Took <= 0 || o.Took > time.Minute {
				t.Errorf("%s took %v", o.Name, o.Took)
			}
			if got := o.Name + " " + o.Outcome(); i >= len(want) || got != want[i] {
				t.Errorf("operation %d is %q", i, got)
			}
		}
		if len(seen) != len(want) {
			t.Errorf("%d operations were reported, want %d", len(seen), len(want))
		}
	})
}
