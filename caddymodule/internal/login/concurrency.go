package login

import (
	"context"
	"errors"
	"time"
)

const (
	// maxCalls is how many calls of one kind may be under way at one WeChat.
	maxCalls = 128
	// maxQueue is how long a login waits for a free slot.
	maxQueue = 2 * time.Second
)

// errBusy means that a call was not made, so no code was spent.
var errBusy = errors.New("too many calls to WeChat are under way")

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

func (c concurrency) release() { <-c }
