package login

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
)

// singleflight joins logins with the same codes: the first one runs, and those that
// come meanwhile wait for its result. x/sync's singleflight is not used, because its
// callers cannot hang up separately, and a panic in it would end the process. The zero
// value is ready to use.
type singleflight struct {
	mu    sync.Mutex
	byKey map[Key]*flight
}

type flight struct {
	done   chan struct{}
	result Result
	err    error
}

// join runs do for the first caller with this key, and returns its result to all
// callers that come meanwhile. do goes on when callers hang up: its context carries the
// values of the first caller's context, but not its end. hold is called before join
// returns, while the caller still keeps open what do uses; its release is called when
// do is done.
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
		// No server would recover a panic here, and it would end the process.
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

// Panic is the error of a login that panicked. The message of the panic may contain
// what a client sent, so only its type is reported.
type Panic struct {
	Kind  string
	Stack string
}

func (p *Panic) Error() string { return "panic in a login: " + p.Kind }

// panicked must be called by the function that recovers: only there does the stack still show
// where the panic happened.
func panicked(p any) *Panic { return &Panic{Kind: fmt.Sprintf("%T", p), Stack: string(debug.Stack())} }
