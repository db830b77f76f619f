package storestate

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
)

// readyTimeout is how long a request waits for a store that is not open yet.
const readyTimeout = 2 * time.Second

// Site holds the functions and settings by which one site uses its store.
type Site[T any] struct {
	State *State
	Store *store.Store // with the site's keys
	Names store.Names
	// Find is a hash of the settings by which users are found in an external directory. It may be
	// empty.
	Find string
	// Identified receives the identity of the open store. It refuses a store that
	// another site uses under another address for other users.
	Identified func(identity string) error
	// LoadRing reads the key ring, and KeysLoaded reports whether there are keys to sign
	// with.
	LoadRing   func(context.Context) error
	KeysLoaded func() bool
	// Assemble builds what needs the keys of the open store.
	Assemble func(*store.Keys) (*T, error)
	// Explain adds the remedy to an error.
	Explain func(error) error
	// FindChanged is called if Find differs from the value recorded at the last load.
	FindChanged func()
	Log         *zap.Logger
}

// Opener opens the store of one site. It does so in two steps, because the rest of a
// configuration may be refused between them: [Opener.Prepare] reads and compares, and
// [Opener.Record] writes the names and lets requests in.
type Opener[T any] struct {
	site Site[T]

	turn     chan struct{}         // a lock that can be waited for with a context
	prepared *store.Keys           // guarded by turn: the keys in use, once the store is open
	tried    chan struct{}         // closed when the first attempt has ended
	away     atomic.Bool           // the store did not answer when a request needed it
	open     atomic.Pointer[T]     // nil: no token is accepted
	recorded atomic.Bool           // the store has recorded this site's names: logins are accepted
	fault    atomic.Pointer[error] // an error that only the operator can fix
}

// NewOpener returns an opener that has done nothing yet.
func NewOpener[T any](s Site[T]) *Opener[T] {
	return &Opener[T]{site: s, turn: make(chan struct{}, 1), tried: make(chan struct{})}
}

// Opened returns the result of Assemble, or nil while the store is not open.
func (o *Opener[T]) Opened() *T { return o.open.Load() }

// IsOpen reports whether the store is open.
func (o *Opener[T]) IsOpen() bool { return o.open.Load() != nil }

// Recorded reports whether the store is known to be this site's. Until then it may hold
// the users of another directory, so logins are refused.
func (o *Opener[T]) Recorded() bool { return o.recorded.Load() }

// Misconfigured reports whether only the operator can fix what keeps the store closed.
func (o *Opener[T]) Misconfigured() bool { return o.fault.Load() != nil }

// Ready returns the result of Assemble. Caddy starts its apps in no fixed order, so a request may
// arrive before the store is open, and waits for it here. Ready returns nil if that takes too long
// or fails. After a timeout no later request waits, because each of them, even one to a public
// path, would take as long.
func (o *Opener[T]) Ready(ctx context.Context) *T {
	if t := o.open.Load(); t != nil || o.away.Load() {
		return t
	}
	timeout := time.NewTimer(readyTimeout)
	defer timeout.Stop()
	select {
	case <-o.tried:
	case <-timeout.C:
		o.away.Store(true)
	case <-ctx.Done():
	}
	return o.open.Load()
}

// Resume continues with what an earlier configuration with the same store and keys has opened, so
// that tokens stay valid while the database is down. It does not access the database. It returns an
// error if the directory or an app's WeChat host is not the one that the store has recorded.
func (o *Opener[T]) Resume(ctx context.Context) error {
	s := o.site
	known, err := s.State.names.fit(s.Names)
	if err != nil {
		return fmt.Errorf("opening the store: %s: %w", s.State.DB, s.Explain(err))
	}
	if !s.State.Feed.Loaded() || !s.KeysLoaded() || !s.Store.Resume() {
		return nil
	}
	keys, err := s.Store.Secrets(ctx)
	if err != nil {
		return nil
	}
	t, err := s.Assemble(keys)
	if err != nil {
		return err
	}
	o.open.Store(t)
	o.recorded.Store(known)
	return nil
}

// Open prepares and records, each within limit, for a configuration that runs.
func (o *Opener[T]) Open(ctx context.Context, limit time.Duration) error {
	if err := o.Prepare(ctx, limit); err != nil {
		return err
	}
	return o.Record(ctx, limit)
}

// Prepare opens the store and compares its names, within limit. It records nothing,
// because another part of the configuration may still be refused.
func (o *Opener[T]) Prepare(ctx context.Context, limit time.Duration) error {
	return o.step(ctx, limit, func(ctx context.Context) error {
		if o.prepared != nil {
			return nil
		}
		s := o.site
		if err := s.Store.Reopen(ctx); err != nil {
			return err
		}
		keys, err := s.Store.Secrets(ctx)
		if err != nil {
			return err
		}
		if err := s.Store.CheckNames(ctx, s.Names); err != nil {
			return err
		}
		identity, err := s.Store.Identity(ctx)
		if err != nil {
			return err
		}
		if err := s.Identified(identity); err != nil {
			return err
		}
		if err := s.LoadRing(ctx); err != nil {
			return err
		}
		if err := o.loadRevoked(ctx); err != nil {
			return err
		}
		o.prepared = keys
		return nil
	})
}

// loadRevoked reads the revocations. All ended sessions must be known before the first token is
// accepted.
func (o *Opener[T]) loadRevoked(ctx context.Context) error {
	feed := o.site.State.Feed
	if feed.Loaded() {
		return nil
	}
	err := feed.Poll(ctx, o.site.Store, time.Now())
	if err != nil && ctx.Err() != nil { // perhaps while it waited for another poll
		err = fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return err
}

// Record records the names of the open store, within limit, and lets requests in.
func (o *Opener[T]) Record(ctx context.Context, limit time.Duration) error {
	return o.step(ctx, limit, func(ctx context.Context) error {
		s := o.site
		changed, err := s.Store.RecordNames(ctx, s.Names, s.Find)
		if err != nil {
			return err
		}
		t, err := s.Assemble(o.prepared)
		if err != nil {
			return err
		}
		s.State.names.learn(s.Names)
		o.open.Store(t)
		o.recorded.Store(true)
		if changed {
			s.FindChanged()
		}
		if s.State.opened() {
			o.logOpened(ctx)
		}
		return nil
	})
}

// step runs one step of opening and keeps its result. Only one caller at a time may run
// a step.
func (o *Opener[T]) step(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case o.turn <- struct{}{}:
		defer func() { <-o.turn }()
	case <-ctx.Done():
		return fmt.Errorf("opening the store: %w: %w", store.ErrUnavailable, ctx.Err())
	}
	err := do(ctx)
	if err != nil {
		o.prepared = nil
		err = o.site.Explain(err)
	}
	switch {
	case err == nil:
		o.fault.Store(nil)
	case !errors.Is(err, store.ErrUnavailable) && ctx.Err() == nil:
		o.open.Store(nil)
		o.recorded.Store(false)
		o.fault.Store(&err)
	}
	return err
}

// Tried releases the requests that wait for the first attempt.
func (o *Opener[T]) Tried() {
	select {
	case <-o.tried:
	default:
		close(o.tried)
	}
}

// logOpened logs which store was opened, because a mistyped path, or another HOME, opens an empty
// store.
func (o *Opener[T]) logOpened(ctx context.Context) {
	s := o.site
	v, err := s.Store.Survey(ctx)
	if err != nil {
		s.Log.Info("store opened; counting its users failed", zap.String("store", s.State.DB.String()), zap.Error(err))
		return
	}
	s.Log.Info("store opened", zap.String("store", s.State.DB.String()), zap.String("table_prefix", s.State.prefix), zap.Bool("created", v.Created),
		zap.Int("schema", v.Schema), zap.String("directory", s.Names.Directory),
		zap.Int("users", v.Users), zap.Int("openids", v.OpenIDs), zap.Int("counted_to", store.SurveyLimit))
}
