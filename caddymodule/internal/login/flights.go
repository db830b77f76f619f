package login

import (
	"context"
	"fmt"
	"sync"
)

// flights joins what is in flight: who asks for the same thing while it is
// under way waits for its outcome instead of starting it a second time. The
// zero value is ready to use.
type flights[T any] struct {
	mu   sync.Mutex
	byID map[Key]*flight[T]
}

type flight[T any] struct {
	done   chan struct{}
	result T
	err    error
}

// join runs do for the first caller with this key and gives its outcome to all
// who come meanwhile. do goes on when callers hang up: its context carries
// their values, not their end.
func (f *flights[T]) join(ctx context.Context, k Key, do func(context.Context) (T, error)) (T, error) {
	f.mu.Lock()
	if f.byID == nil {
		f.byID = make(map[Key]*flight[T])
	}
	fl, joined := f.byID[k]
	if !joined {
		fl = &flight[T]{done: make(chan struct{})}
		f.byID[k] = fl
		go f.run(context.WithoutCancel(ctx), k, fl, do)
	}
	f.mu.Unlock()

	select {
	case <-fl.done:
		return fl.result, fl.err
	case <-ctx.Done():
		return *new(T), context.Cause(ctx)
	}
}

func (f *flights[T]) run(ctx context.Context, k Key, fl *flight[T], do func(context.Context) (T, error)) {
	ctx, cancel := context.WithTimeout(ctx, maxLogin)
	defer func() {
		// A panic here would end the process, as no server recovers it. What it
		// says may hold what a client sent: only its type is told.
		if p := recover(); p != nil {
			fl.err = fmt.Errorf("panic in a login: %T", p)
		}
		cancel()
		f.mu.Lock()
		delete(f.byID, k)
		f.mu.Unlock()
		close(fl.done)
	}()
	fl.result, fl.err = do(ctx)
}
