package store

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The label of a store is in every scrape, so it names the database and nothing secret.
func TestLabelHasNoSecret(t *testing.T) {
	for address, want := range map[string]string{
		"sqlite:/var/lib/caddy/wx_auth/wx.db":                        "wx.db",
		"postgres://wx:p%40ss@db.internal:5433/shop?sslmode=require": "postgres:db.internal:5433/shop/wx_auth_",
		"mysql://wx:secret@db/shop?socket=/run/mysqld/mysqld.sock":   "mysql:db/shop/wx_auth_",
	} {
		db, err := New(address, Options{})
		if err != nil {
			t.Errorf("%s: %v", want, err)
			continue
		}
		if got := db.Label(); got != want {
			t.Errorf("the label is %q, want %q", got, want)
		}
	}
}

// Each operation is reported once, with its name and outcome. "This user is unknown" is an answer
// and not a failure.
func TestOperationsAreReported(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		var mu sync.Mutex
		var seen []Operation
		s.db.Observe(func(o Operation) {
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

// An on-call person who reads the log must learn what to do, and not only what the driver reported.
func TestUnavailableHasARemedy(t *testing.T) {
	db, err := New("postgres://wx@db/shop", Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{&net.DNSError{Err: "no such host", Name: "db"}, "DNS"},
		{&net.OpError{Op: "dial", Err: syscall.EMFILE}, "open files"},
		{errors.New("FATAL: sorry, too many clients already"), "max_connections"},
		{errors.New("could not extend file: No space left on device"), "free space"},
		{syscall.ECONNREFUSED, "runs and can be reached"},
	} {
		var r interface{ Remedy() string }
		if err := db.wrap(t.Context(), "asking", c.err); !errors.Is(err, ErrUnavailable) || !errors.As(err, &r) || !strings.Contains(r.Remedy(), c.want) {
			t.Errorf("%v: the remedy is %v, want %q", c.err, r, c.want)
		}
	}
}
