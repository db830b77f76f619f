package login

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
)

const (
	// leaseLife is how long a replica that died holds a step up. It is shorter than
	// maxJoin, so that who waits for a dead one outlasts it.
	leaseLife = 4 * time.Second
	// maxJoin is how long a login waits for another replica that is at the same step.
	maxJoin = 5 * time.Second
	// joinPoll is how often it looks.
	joinPoll = 100 * time.Millisecond
)

// errElsewhere says that another replica is still at it, so that no code was spent.
var errElsewhere = errors.New("another replica is at the same step of this login")

// Claim is what a replica finds that is about to do a step.
type Claim struct {
	// Value is the step's result, if it is Kept: then there is nothing to do.
	Value []byte
	Kept  bool
	// Ours says that the step is ours to do, until the lease ends. If it is neither
	// kept nor ours, another replica is at it.
	Ours bool
	// Seen is when the step's code was first seen, by the database's clock; it
	// belongs into the result. Zero: unknown, or the step is kept.
	Seen time.Time
}

// claimed is a step that is ours to do.
type claimed struct {
	c    *Chain
	key  Key
	seen time.Time
	stop context.CancelFunc
}

// replica names this process among those that share the store. Claims are the
// process's: within it flights see to it that one does a step, and a step that
// failed is free for the next try even if the store could not be told.
func (s *State) replica() string {
	s.naming.Do(func() { s.name = rand.Text() })
	return s.name
}

// claim reads the step's result into v, or takes the step for this replica: then
// the second result must be ended when the step is done. What another replica is
// doing is waited for.
func (c *Chain) claim(ctx context.Context, k Key, v any, seen ...Key) (found bool, mine *claimed, err error) {
	if found, err := c.flush(ctx, k, v); found || err != nil {
		return found, nil, err
	}
	patience := time.NewTimer(maxJoin)
	defer patience.Stop()
	for {
		cl, err := c.Store.Claim(ctx, k, c.State.replica(), c.now(), leaseLife, seen...)
		switch {
		case err != nil:
			return false, nil, fromStore(err)
		case cl.Kept:
			if err := readStep(cl.Value, v); err != nil {
				return false, nil, fromStore(err)
			}
			return true, nil, nil
		case cl.Ours:
			mine = &claimed{c: c, key: k, seen: cl.Seen}
			ctx, mine.stop = context.WithCancel(ctx)
			go mine.prolong(ctx)
			return false, mine, nil
		}
		again := time.NewTimer(joinPoll)
		select {
		case <-again.C:
		case <-patience.C:
			again.Stop()
			return false, nil, unavailable(errElsewhere, busyRetry)
		case <-ctx.Done():
			again.Stop()
			return false, nil, unavailable(errElsewhere, busyRetry)
		}
	}
}

// prolong keeps the claim alive for as long as its step takes. Should the store
// be away the lease may end meanwhile: then another replica does the step too,
// as if this one had died.
func (m *claimed) prolong(ctx context.Context) {
	t := time.NewTicker(leaseLife / 4)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			_ = m.c.Store.Prolong(ctx, m.key, m.c.State.replica(), leaseLife)
		case <-ctx.Done():
			return
		}
	}
}

// end lets go of a step that is done: err is how it went. The result of one that
// went well is kept by now, and the claim has gone with that. Where the store is
// away, or after a panic, the lease ends by itself.
func (m *claimed) end(ctx context.Context, err error) {
	if m == nil {
		return
	}
	m.stop()
	var e *Error
	if err == nil || errors.As(err, &e) && e.Code == problem.StoreUnavailable {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
	defer cancel()
	_ = m.c.Store.Release(ctx, m.key, m.c.State.replica())
}

// once does a step that nobody else does at the same time, on whichever replica,
// or finds its result. do keeps it, with the time when the code was first seen.
// further are the codes of later steps, which have been seen by now, too.
func once[T any](ctx context.Context, c *Chain, k Key, do func(seen time.Time) (T, error), further ...Key) (result T, err error) {
	found, mine, err := c.claim(ctx, k, &result, further...)
	if found || err != nil {
		return result, err
	}
	defer func() { mine.end(ctx, err) }()
	return do(mine.seen)
}

func readStep(value []byte, v any) error {
	if err := json.Unmarshal(value, v); err != nil {
		return fmt.Errorf("reading a kept step: %w", err)
	}
	return nil
}
