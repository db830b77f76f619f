package login

import (
	"context"
	"fmt"
	"runtime/debug"
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
// their values, not their end. hold is called before join returns, while the
// caller still holds what do works with, and its release when do is done.
func (f *flights[T]) join(ctx context.Context, k Key, hold func() (release func()), do func(context.Context) (T, error)) (T, error) {
	f.mu.Lock()
	if f.byID == nil {
		f.byID = make(map[Key]*flight[T])
	}
	fl, joined := f.byID[k]
	if !joined {
		fl = &flight[T]{done: make(chan struct{})}
		f.byID[k] = fl
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
		return *new(T), context.Cause(ctx)
	}
}

func (f *flights[T]) run(ctx context.Context, k Key, fl *flight[T], do func(context.Context) (T, error)) {
	ctx, cancel := context.WithTimeout(ctx, maxLogin)
	defer func() {
		// A panic here would end the process, as no server recovers it.
		if p := recover(); p != nil {
			fl.err = panicked(p)
		}
		cancel()
		f.mu.Lock()
		delete(f.byID, k)
		f.mu.Unlock()
		close(fl.done)
	}()
	fl.result, fl.err = do(ctx)
}

// Panic is the error of a login that panicked. What the panic said may hold
// what a client sent: only its type is told.
type Panic struct {
	Kind  string
	Stack string
}

func (p *Panic) Error() string { return "panic in a login: " + p.Kind }

// panicked is for the function that recovers: its stack is still the panic's.
func panicked(p any) *Panic { return &Panic{Kind: fmt.Sprintf("%T", p), Stack: string(debug.Stack())} }
