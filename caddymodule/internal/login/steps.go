package login

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

const (
	// keepFor is how long a step's result is kept: as long as WeChat's codes live.
	keepFor = 5 * time.Minute
	// replayFor is how long the same pair of codes is answered with the same session.
	replayFor = time.Minute
	// keepTimeout is how long the store may take to keep a result. It counts from
	// when there is one, whatever is left of the login's own time.
	keepTimeout = 5 * time.Second
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

// caller is the result of the first step: the WeChat account that sent the login
// code, or that the code has opened a session already.
type caller struct {
	OpenID  string `json:"openid,omitempty"`
	UnionID string `json:"unionid,omitempty"`
	// Seen is when the code was first seen, by the database's clock.
	Seen  time.Time `json:"seen,omitzero"`
	Spent bool      `json:"spent,omitempty"`
}

// spent is the caller that takes the place of one whose code has opened a session.
var spent = []byte(`{"spent":true}`)

// owned is the result of the phone step: the number, and the openid that it
// was exchanged for. It is of use with that openid only.
type owned struct {
	OpenID string     `json:"openid"`
	Phone  user.Phone `json:"phone"`
	// Seen is when the phone code was first seen, by the database's clock.
	Seen time.Time `json:"seen,omitzero"`
}

// earlier returns the earlier of two times, of which zero is unknown, and so is the
// result.
func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// replayed says which session a pair of codes has already opened, and what else its
// answer said: should the answer get lost, the next one says so too.
type replayed struct {
	SessionID string `json:"sid"`
	New       bool   `json:"new,omitempty"`
	Moved     bool   `json:"moved,omitempty"`
}

// opened tells which session both codes have opened within the last minute, if any.
func (c *Chain) opened(ctx context.Context, k Key) (again replayed, err error) {
	if _, err := c.kept(ctx, k, &again); err != nil {
		return replayed{}, fromStore(err)
	}
	return again, nil
}

// kept reads the step's result into v.
func (c *Chain) kept(ctx context.Context, k Key, v any) (bool, error) {
	if found, err := c.flush(ctx, k, v); found || err != nil {
		return found, err
	}
	value, ok, err := c.Store.Kept(ctx, k, c.now())
	if err != nil || !ok {
		return false, err
	}
	return true, readStep(value, v)
}

// keptMeanwhile is kept for a step that WeChat has just refused, because its code
// is used: whoever used it may have kept its result. (Another replica, whose claim
// ran out while the store was away.)
func (c *Chain) keptMeanwhile(ctx context.Context, refusal error, k Key, v any) bool {
	var e *Error
	if !errors.As(refusal, &e) || len(e.Renew) == 0 {
		return false
	}
	ok, err := c.kept(ctx, k, v)
	return ok && err == nil
}

// lostOnTheWay takes note of codes that were sent and not answered. Should WeChat
// call such a code used in a later login, it was us who used it: the client renews
// it, and has done nothing wrong.
func (c *Chain) lostOnTheWay(k Key, failure error) {
	var e *Error
	if !errors.As(failure, &e) {
		return
	}
	var we *wechat.Error
	now := c.now()
	switch {
	case errors.As(e.Cause, &we) && we.Unanswered:
		c.State.sent.put(k, nil, now, now.Add(keepFor))
	case e.Refused && c.State.sent.get(k, now) != nil:
		e.Refused = false
	}
}

// keep stores a step's result. Should the store be away the result is held in
// memory until it is back, and the error is returned.
func (c *Chain) keep(ctx context.Context, k Key, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	now := c.now()
	expires := now.Add(keepFor)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
	defer cancel()
	if err := c.Store.Keep(ctx, k, value, expires); err != nil {
		c.hold(k, value, now, expires)
		return fromStore(err)
	}
	return nil
}
