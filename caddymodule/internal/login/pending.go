package login

import (
	"context"
	"sync"
	"time"
)

// pending holds results that the store could not take; see steps.go. It is kept over reloads.
// The zero value is ready to use.
type pending struct {
	mu         sync.Mutex
	byStep     map[Key]*pendingResult
	delivering bool
}

type pendingResult struct {
	value   []byte
	expires time.Time

	// mu is held while the store is asked to take the result, so that the store does not get
	// the result twice. A login may have replaced it before the second time.
	mu    sync.Mutex
	taken bool
}

// put adds a result. It reports whether deliver must be started for it.
func (p *pending) put(k Key, value []byte, now, expires time.Time) (start bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byStep == nil {
		p.byStep = make(map[Key]*pendingResult)
	}
	for old, r := range p.byStep {
		if now.After(r.expires) || len(p.byStep) >= maxPending {
			delete(p.byStep, old)
		}
	}
	p.byStep[k] = &pendingResult{value: value, expires: expires}
	start = !p.delivering
	p.delivering = true
	return start
}

func (p *pending) get(k Key, now time.Time) *pendingResult {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.byStep[k]; r != nil && !now.After(r.expires) {
		return r
	}
	return nil
}

// drop forgets r, unless another result has replaced it.
func (p *pending) drop(k Key, r *pendingResult) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byStep[k] == r {
		delete(p.byStep, k)
	}
}

// rest returns the results that have not expired. If there are none, delivering stops.
func (p *pending) rest(now time.Time) map[Key]*pendingResult {
	p.mu.Lock()
	defer p.mu.Unlock()
	rest := make(map[Key]*pendingResult, len(p.byStep))
	for k, r := range p.byStep {
		if now.After(r.expires) {
			delete(p.byStep, k)
			continue
		}
		rest[k] = r
	}
	p.delivering = len(rest) > 0
	return rest
}

// stopped records that nothing delivers the results any more. The next put reports that deliver
// must be started.
func (p *pending) stopped() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delivering = false
}

// deliverLater keeps a result in memory until the store can take it.
func (c *Chain) deliverLater(k Key, value []byte, now, expires time.Time) {
	if !c.State.pending.put(k, value, now, expires) {
		return
	}
	release := c.Hold()
	go func() {
		defer release()
		defer func() {
			if p := recover(); p != nil { // no server recovers a panic in this goroutine
				c.State.pending.stopped()
				if c.OnPanic != nil {
					c.OnPanic(p)
				}
			}
		}()
		c.deliver()
	}()
}

// deliver gives the pending results to the store as soon as the store is back, because the
// client may reach another replica next.
func (c *Chain) deliver() {
	for {
		time.Sleep(pendingPoll)
		rest := c.State.pending.rest(c.now())
		if len(rest) == 0 {
			return
		}
		for k, r := range rest {
			ctx, cancel := context.WithTimeout(context.Background(), keepTimeout)
			err := c.give(ctx, k, r)
			cancel()
			if err != nil {
				break // the store is still down
			}
		}
	}
}

// flush returns a pending result once the store has taken it, or nil if none is
// pending.
func (c *Chain) flush(ctx context.Context, k Key) ([]byte, error) {
	r := c.State.pending.get(k, c.now())
	if r == nil {
		return nil, nil
	}
	if err := c.give(ctx, k, r); err != nil {
		return nil, fromStore(err)
	}
	return r.value, nil
}

func (c *Chain) give(ctx context.Context, k Key, r *pendingResult) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.taken {
		if err := c.Store.Keep(ctx, k, r.value, r.expires); err != nil {
			return err
		}
		r.taken = true
	}
	c.State.pending.drop(k, r)
	return nil
}
