package login

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
)

// singleflight joins logins with the same codes: the first one runs, and those that come
// meanwhile wait for its outcome. x/sync's has no callers that can hang up each on its
// own, and its panic would end the process. The zero value is ready to use.
type singleflight struct {
	mu    sync.Mutex
	byKey map[Key]*flight
}

type flight struct {
	done   chan struct{}
	result Result
	err    error
}

// join runs do for the first caller with this key and gives its outcome to all that
// come meanwhile. do goes on when callers hang up: its context carries their values, not
// their end. hold is called before join returns, while the caller still holds what do
// works with, and its release when do is done.
func (f *singleflight) join(ctx context.Context, k Key, hold func() (release func()), do func(context.Context) (Result, error)) (Result, error) {
	f.mu.Lock()
	if f.byKey == nil {
		f.byKey = make(map[Key]*flight)
	}
	fl, joined := f.byKey[k]
	if !joined {
		fl = &flight{done: make(chan struct{})}
		f.byKey[k] = fl
		release := hold()
		go func() {
			defer release()
			f.run(context.WithoutCancel(ctx), k, fl, do)
		}()
	}
	f.mu.Unlock()

	select {
	case <-fl.done:
		return fl.result, fl.err
	case <-ctx.Done():
		return Result{}, context.Cause(ctx)
	}
}

func (f *singleflight) run(ctx context.Context, k Key, fl *flight, do func(context.Context) (Result, error)) {
	ctx, cancel := context.WithTimeout(ctx, maxLogin)
	defer func() {
		// A panic here would end the process, as no server recovers it.
		if p := recover(); p != nil {
			fl.err = panicked(p)
		}
		cancel()
		f.mu.Lock()
		delete(f.byKey, k)
		f.mu.Unlock()
		close(fl.done)
	}()
	fl.result, fl.err = do(ctx)
}

// Panic is the error of a login that panicked. The panic's message may hold what a client
// sent: only its type is reported.
type Panic struct {
	Kind  string
	Stack string
}

func (p *Panic) Error() string { return "panic in a login: " + p.Kind }

// panicked is for the function that recovers: its stack is still the panic's.
func panicked(p any) *Panic { return &Panic{Kind: fmt.Sprintf("%T", p), Stack: string(debug.Stack())} }
