package api

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

// The health checks are for load balancers, orchestrators and people. None of them
// calls WeChat or an external directory.

// healthLive answers while the process runs.
func (c *call) healthLive() error { return c.healthIs(true) }

// healthReady reports whether this replica should get requests. An outage of the
// database does not take it out of the load balancer, because tokens are still
// accepted.
func (c *call) healthReady() error { return c.healthIs(c.isReady()) }

// health reports whether logins work here.
func (c *call) health() error {
	works := c.isReady() && c.Opening.Recorded() && c.State.health.check(c.r.Context(), c.probe) == nil
	return c.healthIs(works)
}

// probe writes to the store. It does not run in a request's goroutine, so no server
// would recover a panic.
func (s *Server) probe(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.Panicked("panic in a health check", p)
			err = errHealthPanic
		}
	}()
	return s.Store.Probe(ctx)
}

// isReady reports whether this site's store has been opened and written to, and the
// process is not about to stop. With shutdown_delay it goes on serving after SIGTERM.
func (s *Server) isReady() bool { return s.Opening.IsOpen() && !s.Host.Exiting() }

func (c *call) healthIs(good bool) error {
	if good {
		return c.answer(http.StatusOK, "", nil)
	}
	c.w.Header().Set("Retry-After", "2")
	return c.answer(http.StatusServiceUnavailable, "", nil)
}

const (
	// healthEvery is how long the result of one check is reused for all requests.
	healthEvery = time.Second
	// healthTimeout bounds one check, and how long a request waits for it.
	healthTimeout = 2 * time.Second
)

// health checks whether a store can be written, at most once a second however many
// requests ask. The zero value is ready to use.
type health struct {
	mu    sync.Mutex
	at    time.Time     // when the last check ended
	err   error         // its result
	under chan struct{} // closed when the current check has ended; nil: none is running
}

var (
	errHealthLate  = errors.New("the store does not answer in time")
	errHealthPanic = errors.New("the health check panicked")
)

// check returns the result of a check that is at most a second old.
func (h *health) check(ctx context.Context, probe func(context.Context) error) error {
	h.mu.Lock()
	if !h.at.IsZero() && time.Since(h.at) < healthEvery {
		defer h.mu.Unlock()
		return h.err
	}
	under := h.under
	if under == nil {
		under = make(chan struct{})
		h.under = under
		go h.look(under, probe)
	}
	h.mu.Unlock()
	late := time.NewTimer(healthTimeout)
	defer late.Stop()
	select {
	case <-under:
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.err
	case <-late.C: // a check that hangs is not started a second time
		return errHealthLate
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// look runs one check on behalf of all requests that wait for it, even if some of them
// hang up.
func (h *health) look(under chan struct{}, probe func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
	defer cancel()
	err := probe(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at, h.err, h.under = time.Now(), err, nil
	close(under)
}
