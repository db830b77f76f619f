package login

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
)

const (
	// maxCalls is how many calls of one kind may be under way at one WeChat.
	maxCalls = 128
	// maxShare is the number of slots that each client has. As many more are for clients that have
	// used up theirs, so one client alone gets at most half of all.
	maxShare = maxCalls / 4
	// maxQueue bounds each of a login's two waits: for a slot of its client's share, and then for
	// a slot among all calls.
	maxQueue = 2 * time.Second
	// shareRetry is how long a client that has all of its slots is asked to wait. No period
	// of login_rate is shorter.
	shareRetry = time.Second
)

// errBusy and errShare mean that a call was not made, so no code was spent.
var (
	errBusy  = errors.New("too many calls to WeChat are under way")
	errShare = errors.New("too many calls to WeChat are under way for this client")
)

// concurrency limits how many calls are under way at once.
type concurrency chan struct{}

// acquire waits for a slot. If it returns no error, release must follow.
func (c concurrency) acquire(ctx context.Context) *Error {
	wait := time.NewTimer(maxQueue)
	defer wait.Stop()
	select {
	case c <- struct{}{}:
		return nil
	case <-wait.C:
		return unavailable(errBusy, busyRetry)
	case <-ctx.Done():
		return unavailable(ctx.Err(), busyRetry)
	}
}

func (c concurrency) tryAcquire() bool {
	select {
	case c <- struct{}{}:
		return true
	default:
		return false
	}
}

func (c concurrency) release() { <-c }

// shares limits how many calls of each client are under way, or wait for a slot. Without
// it, one client could take all slots while WeChat is slow: login_rate bounds its refused
// logins, but its good ones make room for more, and so does each session that it has. The
// zero value is ready to use.
type shares struct {
	mu    sync.Mutex
	use   map[string]*share
	spare concurrency // beyond the shares
}

// share holds the slots of one client.
type share struct {
	slots concurrency
	users int // the logins that have a slot or wait for one
}

// within makes a call when the client named by holder has a free slot. If it has none for
// a while, that is no fault of WeChat: the answer is that of a limit. The name is empty
// where clients are not known, and there is no limit then.
func (ss *shares) within(ctx context.Context, holder string, call func() error) error {
	if holder == "" {
		return call()
	}
	s := ss.enter(holder)
	defer ss.leave(holder, s)
	slots := s.slots
	if !slots.tryAcquire() {
		if ss.spare.tryAcquire() {
			slots = ss.spare
		} else if e := slots.acquire(ctx); e != nil {
			if errors.Is(e, errBusy) {
				e = refuse(problem.RateLimited, errShare)
				e.RetryAfter = shareRetry
			}
			return e
		}
	}
	defer slots.release()
	return call()
}

func (ss *shares) enter(holder string) *share {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	s := ss.use[holder]
	if s == nil {
		if ss.use == nil {
			ss.use, ss.spare = make(map[string]*share), make(concurrency, maxShare)
		}
		s = &share{slots: make(concurrency, maxShare)}
		ss.use[holder] = s
	}
	s.users++
	return s
}

func (ss *shares) leave(holder string, s *share) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(ss.use, holder)
	}
}
