package login

import (
	"context"
	"sync"
	"time"
)

const (
	// maxHeld bounds the results held in memory while the store is away.
	maxHeld = 4096
	// heldPoll is how often the store is tried with them.
	heldPoll = 500 * time.Millisecond
)

// held keeps results in memory that the store could not take, so that a paid
// phone code is not lost while the store is away. It lives over reloads.
// The zero value is ready to use.
type held struct {
	mu         sync.Mutex
	byID       map[Key]*heldStep
	delivering bool
}

type heldStep struct {
	value   []byte
	expires time.Time

	// mu is held while the store is asked to take the result, so that it is not
	// given twice: the second time it may have been forgotten on purpose.
	mu    sync.Mutex
	taken bool
}

// put holds a result. It reports whether deliver must be started for it.
func (h *held) put(k Key, value []byte, now, expires time.Time) (start bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byID == nil {
		h.byID = make(map[Key]*heldStep)
	}
	for old, s := range h.byID {
		if now.After(s.expires) || len(h.byID) >= maxHeld {
			delete(h.byID, old)
		}
	}
	h.byID[k] = &heldStep{value: value, expires: expires}
	start = !h.delivering
	h.delivering = true
	return start
}

func (h *held) get(k Key, now time.Time) *heldStep {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.byID[k]; s != nil && !now.After(s.expires) {
		return s
	}
	return nil
}

// drop forgets s, unless another result has taken its place.
func (h *held) drop(k Key, s *heldStep) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byID[k] == s {
		delete(h.byID, k)
	}
}

// rest are those that are still good. With none, delivering is over.
func (h *held) rest(now time.Time) map[Key]*heldStep {
	h.mu.Lock()
	defer h.mu.Unlock()
	rest := make(map[Key]*heldStep, len(h.byID))
	for k, s := range h.byID {
		if now.After(s.expires) {
			delete(h.byID, k)
			continue
		}
		rest[k] = s
	}
	h.delivering = len(rest) > 0
	return rest
}

// hold keeps in memory what the store could not take, until it can.
func (c *Chain) hold(k Key, value []byte, now, expires time.Time) {
	if !c.State.held.put(k, value, now, expires) {
		return
	}
	release := c.Hold()
	go func() {
		defer release()
		c.deliver()
	}()
}

// deliver gives the store what it missed as soon as it is back: the client may
// come to another replica next.
func (c *Chain) deliver() {
	for {
		time.Sleep(heldPoll)
		rest := c.State.held.rest(c.now())
		if len(rest) == 0 {
			return
		}
		for k, s := range rest {
			ctx, cancel := context.WithTimeout(context.Background(), keepTimeout)
			err := c.give(ctx, k, s)
			cancel()
			if err != nil {
				break // still away
			}
		}
	}
}

// flush reads into v a result that the store missed, when it has taken it.
func (c *Chain) flush(ctx context.Context, k Key, v any) (found bool, err error) {
	s := c.State.held.get(k, c.now())
	if s == nil {
		return false, nil
	}
	if err := c.give(ctx, k, s); err != nil {
		return false, fromStore(err)
	}
	if err := readStep(s.value, v); err != nil {
		return false, fromStore(err)
	}
	return true, nil
}

func (c *Chain) give(ctx context.Context, k Key, s *heldStep) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.taken {
		if err := c.Store.Keep(ctx, k, s.value, s.expires); err != nil {
			return err
		}
		s.taken = true
	}
	c.State.held.drop(k, s)
	return nil
}
