package login

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

const (
	// keepFor is how long a step's result is kept: as long as WeChat's codes live.
	keepFor = 5 * time.Minute
	// replayFor is how long the same pair of codes is answered with the same session.
	replayFor = time.Minute
	// keepTimeout is how long the store may take to keep a result. It counts from
	// when there is one, whatever is left of the login's own time.
	keepTimeout = 5 * time.Second
	// maxHeld bounds the results held in memory while the store is away.
	maxHeld = 4096
)

// Key names a step or a login: a hash of the codes that made it. The parts are
// hashed with their lengths, so that no two different lists share a key,
// however they are cut.
type Key = [sha256.Size]byte

func keyOf(kind string, parts ...string) Key {
	h := sha256.New()
	var n [8]byte
	write := func(s string) {
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	write(kind)
	for _, p := range parts {
		write(p)
	}
	var k Key
	h.Sum(k[:0])
	return k
}

// caller is the result of the first step: who sent the login code.
type caller struct {
	OpenID  string `json:"openid"`
	UnionID string `json:"unionid,omitempty"`
}

// owned is the result of the phone step: the number, and the openid that it
// was exchanged for. It is of use with that openid only.
type owned struct {
	OpenID string     `json:"openid"`
	Phone  user.Phone `json:"phone"`
}

// replayed says which session a pair of codes has already opened.
type replayed struct {
	SessionID string `json:"sid"`
}

// held keeps results in memory that the store could not take, so that a paid
// phone code is not lost while the store is away. It lives over reloads.
// The zero value is ready to use.
type held struct {
	mu   sync.Mutex
	byID map[Key]heldStep
}

type heldStep struct {
	value   []byte
	expires time.Time
}

func (h *held) put(k Key, value []byte, now, expires time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byID == nil {
		h.byID = make(map[Key]heldStep)
	}
	for old, s := range h.byID {
		if now.After(s.expires) || len(h.byID) >= maxHeld {
			delete(h.byID, old)
		}
	}
	h.byID[k] = heldStep{value, expires}
}

func (h *held) get(k Key, now time.Time) (heldStep, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, ok := h.byID[k]
	return s, ok && !now.After(s.expires)
}

func (h *held) drop(k Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.byID, k)
}

// kept reads the step's result into v.
func (c *Chain) kept(ctx context.Context, k Key, v any) (bool, error) {
	now := c.now()
	var value []byte
	if s, ok := c.State.held.get(k, now); ok {
		// The store missed it: it belongs there, where every replica finds it.
		if err := c.Store.Keep(ctx, k, s.value, s.expires); err != nil {
			return false, err
		}
		c.State.held.drop(k)
		value = s.value
	} else {
		var err error
		if value, ok, err = c.Store.Kept(ctx, k, now); err != nil || !ok {
			return false, err
		}
	}
	if err := json.Unmarshal(value, v); err != nil {
		return false, fmt.Errorf("reading a kept step: %w", err)
	}
	return true, nil
}

// keptMeanwhile is kept for a step that WeChat has just refused, because its code
// is used: whoever used it may have kept its result.
func (c *Chain) keptMeanwhile(ctx context.Context, refusal error, k Key, v any) (bool, error) {
	var e *Error
	if !errors.As(refusal, &e) || len(e.Renew) == 0 {
		return false, nil
	}
	return c.kept(ctx, k, v)
}

// keep stores a step's result. Should the store be away the result is held in
// memory for this process to find, and the error is returned.
func (c *Chain) keep(ctx context.Context, k Key, v any, d time.Duration) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	now := c.now()
	expires := now.Add(d)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
	defer cancel()
	if err := c.Store.Keep(ctx, k, value, expires); err != nil {
		c.State.held.put(k, value, now, expires)
		return err
	}
	c.State.held.drop(k)
	return nil
}

// forget erases a step's result.
func (c *Chain) forget(ctx context.Context, k Key) error {
	c.State.held.drop(k)
	return c.Store.Forget(ctx, k)
}
