package login

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// A login has two steps: WeChat exchanges the login code, then the phone code. This
// file does a step, and guarantees:
//
//   - A result is kept in the store, encrypted, for five minutes. It is kept before anything
//     else can fail, so that a phone code, which is paid for, is used however the login
//     ends. A result that the store cannot take is pending: it stays in memory and is
//     delivered as soon as the store is back, whether or not anybody asks for it. A crash
//     of the database may undo the result of a login code, which costs nothing, until
//     the next write. It does not undo that of a phone code.
//   - Only one exchange of a code is under way at a time. Within this process the step is
//     locked. Between replicas it is leased, for 4 s by the database's clock, and the lease
//     is renewed each second. Another replica polls every 100 ms for the result or the
//     lease, for up to 5 s; then it answers 503 with `renew: []`. Because it waits longer
//     than a lease lasts, a replica that died costs the client that wait but no code.
//   - No step is done twice: taking a lease and looking for the result is one operation of
//     the store, and so is keeping the result and ending the lease. If a lease expires all
//     the same because the store was down, WeChat calls the code used at the second
//     exchange, which then looks once more for the result of the first one.
//
// One window remains: from the moment when WeChat takes a phone code until its answer
// is committed. If a process is killed in it, the code is lost, and the client is asked
// to renew it.
const (
	// keepFor is how long a result is kept: as long as WeChat's codes are valid.
	keepFor = 5 * time.Minute
	// keepTimeout bounds how long the store may take to keep a result. It begins when
	// the result exists, whatever is left of the login's own time.
	keepTimeout = 5 * time.Second
	// leaseLife is how long a replica that died blocks a step. It is shorter than
	// maxWait, so that a login that waits for a dead replica outlasts the lease.
	leaseLife = 4 * time.Second
	// maxWait bounds how long a login waits for another replica at the same step.
	maxWait = 5 * time.Second
	// leasePoll is the interval at which it looks.
	leasePoll = 100 * time.Millisecond
	// maxPending bounds the results that are pending while the store is down.
	maxPending = 4096
	// pendingPoll is the interval at which the store is tried with them.
	pendingPoll = 500 * time.Millisecond
)

// errOtherReplica means that another replica is still working on the step, so no code was
// spent.
var errOtherReplica = errors.New("another replica is at the same step of this login")

// Step holds what the store knows about a step that a replica is about to do.
type Step struct {
	// Value is the step's result, if it is Kept. Then there is nothing to do.
	Value []byte
	Kept  bool
	// Leased means that this replica must do the step, until the lease ends. If it is
	// neither kept nor leased, another replica is doing it.
	Leased bool
	// Seen is the time at which the step's code was first seen, by the database's
	// clock. It is stored in the result. Zero means that it is unknown, or that the
	// step is kept.
	Seen time.Time
}

// steps are the two steps of one login.
type steps struct {
	c           *Chain
	code, phone Key  // phone is zero at a silent login
	ahead       Step // the phone step, as it was when the login code was leased
	locked      []Key

	mu     sync.Mutex
	leased []Key // guarded by mu, as is renew
	renew  *time.Timer
}

func (c *Chain) steps(r Request) *steps {
	s := &steps{c: c, code: loginStep(r)}
	if r.PhoneCode != "" {
		s.phone = phoneStep(r)
	}
	return s
}

// do does a step, or finds its result. exchange gets the time at which the code was
// first seen, and calls WeChat. It has time of its own: the answer to a code that was
// sent must not be lost because the login's time is up. For a new result, next returns
// the account about which the login will ask the store, so that keeping the one and
// reading the other is one round trip. Nil: no account is known yet.
func do[T any](ctx context.Context, s *steps, k Key, next func(T) Account, exchange func(ctx context.Context, seen time.Time) (T, error)) (result T, err error) {
	st, err := s.lease(ctx, k)
	if err != nil {
		return result, err
	}
	if st.Kept {
		return result, decode(st.Value, &result)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxLogin)
	defer cancel()
	if result, err = exchange(ctx, st.Seen); err != nil {
		var again T
		if s.c.keptMeanwhile(ctx, err, k, &again) {
			return again, nil
		}
		s.c.noteLost(k, err)
		return result, err
	}
	var accounts []Account
	if next != nil {
		accounts = append(accounts, next(result))
	}
	return result, s.keep(ctx, k, result, accounts...)
}

// lease returns the step's result or leases the step. It waits while another replica is
// doing it. With the login code's step it also asks for the phone code's, which
// follows.
func (s *steps) lease(ctx context.Context, k Key) (Step, error) {
	c := s.c
	if err := s.lock(ctx, k); err != nil {
		return Step{}, err
	}
	if value, err := c.flush(ctx, k); value != nil || err != nil {
		return Step{Value: value, Kept: true}, err
	}
	if k == s.phone && (s.ahead.Kept || s.ahead.Leased) {
		return s.ahead, nil
	}
	ask := []Key{k}
	if k == s.code && s.phone != (Key{}) && c.State.locks.try(s.phone) {
		s.locked, ask = append(s.locked, s.phone), append(ask, s.phone)
	}
	patience := time.NewTimer(maxWait)
	defer patience.Stop()
	for {
		found, err := c.Store.Lease(ctx, c.State.replica(), c.now(), leaseLife, ask...)
		if err != nil {
			return Step{}, fromStore(err)
		}
		for i, st := range found {
			if st.Leased {
				s.took(ask[i])
			}
		}
		if len(found) == 2 {
			s.ahead = found[1]
		}
		if found[0].Kept || found[0].Leased {
			return found[0], nil
		}
		ask = ask[:1] // a lease of the phone step that is not renewed yet is left to others
		again := time.NewTimer(leasePoll)
		select {
		case <-again.C:
			continue
		case <-patience.C:
		case <-ctx.Done():
		}
		again.Stop()
		return Step{}, unavailable(errOtherReplica, busyRetry)
	}
}

// lock keeps other logins of this process away from the step until end.
func (s *steps) lock(ctx context.Context, k Key) error {
	for _, locked := range s.locked {
		if locked == k {
			return nil
		}
	}
	err := s.c.State.locks.lock(ctx, k)
	if err == nil {
		s.locked = append(s.locked, k)
	}
	return err
}

// took renews a lease from now on for as long as its step takes.
func (s *steps) took(k Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leased = append(s.leased, k)
	if s.renew == nil {
		s.renew = time.AfterFunc(leaseLife/4, s.renewAll)
	}
}

// renewAll renews the leases. If the store is down they may expire meanwhile, and
// another replica does the step too, as if this one had died.
func (s *steps) renewAll() {
	s.mu.Lock()
	leased := append([]Key(nil), s.leased...)
	s.mu.Unlock()
	if len(leased) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), leaseLife/4)
		_ = s.c.Store.Renew(ctx, s.c.State.replica(), leaseLife, leased...)
		cancel()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.renew != nil {
		s.renew.Reset(leaseLife / 4)
	}
}

// done forgets leases that have ended with their results.
func (s *steps) done(k Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, leased := range s.leased {
		if leased == k {
			s.leased = append(s.leased[:i], s.leased[i+1:]...)
			return
		}
	}
}

// end releases the steps; err is how they went. A step that failed is free for the next
// attempt at once; if the store is down, its lease expires by itself.
func (s *steps) end(ctx context.Context, err error) {
	s.mu.Lock()
	leased := s.leased
	if s.leased = nil; s.renew != nil {
		s.renew.Stop()
		s.renew = nil
	}
	s.mu.Unlock()
	var e *Error
	if away := errors.As(err, &e) && e.Code == problem.StoreUnavailable; len(leased) > 0 && !away {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
		_ = s.c.Store.Release(ctx, s.c.State.replica(), leased...)
		cancel()
	}
	for _, k := range s.locked {
		s.c.State.locks.unlock(k)
	}
}

// keep stores a step's result, and so ends its lease. If the store is down, the result
// becomes pending, and the error is returned.
func (s *steps) keep(ctx context.Context, k Key, v any, next ...Account) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	now := s.c.now()
	expires := now.Add(keepFor)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
	defer cancel()
	put := s.c.Store.Keep
	if k == s.code {
		put = s.c.Store.KeepLight // a login code costs nothing
	}
	if err := put(ctx, k, value, expires, next...); err != nil {
		s.c.deliverLater(k, value, now, expires)
		return fromStore(err)
	}
	s.done(k)
	return nil
}

// kept reads a result into v.
func (c *Chain) kept(ctx context.Context, k Key, v any) (bool, error) {
	value, err := c.flush(ctx, k)
	if err != nil {
		return false, err
	}
	if value == nil {
		var ok bool
		if value, ok, err = c.Store.Kept(ctx, k, c.now()); err != nil || !ok {
			return false, err
		}
	}
	return true, decode(value, v)
}

// keptMeanwhile is called for a step that WeChat has just refused because its code is
// used. It reports whether another replica, whose lease has expired, has kept the
// step's result.
func (c *Chain) keptMeanwhile(ctx context.Context, refusal error, k Key, v any) bool {
	var e *Error
	if !errors.As(refusal, &e) || len(e.Renew) == 0 {
		return false
	}
	ok, err := c.kept(ctx, k, v)
	return ok && err == nil
}

// noteLost records a code that was sent and not answered. If WeChat calls such a code
// used in a later login, this gateway has used it: the client must renew the code, but
// has done nothing wrong.
func (c *Chain) noteLost(k Key, failure error) {
	var e *Error
	if !errors.As(failure, &e) {
		return
	}
	var we *wechat.Error
	now := c.now()
	switch {
	case errors.As(e.Cause, &we) && we.Unanswered:
		c.State.sent.add(k, now, now.Add(keepFor))
	case e.Refused && c.State.sent.has(k, now):
		e.Refused = false
	}
}

func decode(value []byte, v any) error {
	if err := json.Unmarshal(value, v); err != nil {
		return fromStore(fmt.Errorf("reading a step's result: %w", err))
	}
	return nil
}

// replica returns a name for this process among those that share the store. Leases
// belong to the process: a step that failed is free for its next attempt even if its
// lease could not be released.
func (s *State) replica() string {
	s.naming.Do(func() { s.name = rand.Text() })
	return s.name
}
