package login

import (
	"context"
	"errors"
	"time"
)

const (
	// maxCalls is how many calls of one kind may be under way at one WeChat.
	maxCalls = 128
	// maxQueue is how long a login waits for its turn.
	maxQueue = 2 * time.Second
)

// errBusy says that a call was not made, so that no code was spent.
var errBusy = errors.New("too many calls to WeChat are under way")

// concurrency limits how many calls are under way at once.
type concurrency chan struct{}

// acquire waits for a turn; release must follow unless there is an error.
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

func (c concurrency) release() { <-c }
