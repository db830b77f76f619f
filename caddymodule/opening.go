package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/api"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
)

// readyTimeout is how long a request waits for a store that is not open yet.
const readyTimeout = 2 * time.Second

// Ready returns what is made with the store's keys. Caddy starts its apps in no fixed order, so a
// request may come before the store is open, and waits for that. It returns nil if that
// takes too long or fails; from then on no request waits, not even a public one.
func (s *site) Ready(ctx context.Context) *api.Opened {
	if l := s.open.Load(); l != nil || s.away.Load() {
		return l
	}
	timeout := time.NewTimer(readyTimeout)
	defer timeout.Stop()
	select {
	case <-s.tried:
	case <-timeout.C:
		s.away.Store(true)
	case <-ctx.Done():
	}
	return s.open.Load()
}

// IsOpen implements [api.Opening].
func (s *site) IsOpen() bool { return s.open.Load() != nil }

// Recorded implements [api.Opening].
func (s *site) Recorded() bool { return s.recorded.Load() }

// Misconfigured implements [api.Opening].
func (s *site) Misconfigured() bool { return s.fault.Load() != nil }

// resume goes on with what an earlier configuration with the same store and keys has
// opened, so that its tokens stay good while the database is away. It asks nothing. The
// error refuses a directory or a WeChat that is not the store's.
func (s *site) resume() error {
	known, err := s.shared.names.fit(s.names)
	if err != nil {
		return fmt.Errorf("opening the store: %s: %w", s.shared.db, withRemedy(err, s.directoryName))
	}
	if !s.shared.feed.Loaded() || s.tokens.Keys() == nil || !s.store.Resume() {
		return nil
	}
	keys, err := s.store.Secrets(s.ctx)
	if err != nil {
		return nil
	}
	l, err := s.assemble(keys)
	if err != nil {
		return err
	}
	s.open.Store(l)
	s.recorded.Store(known)
	return nil
}

// openFor opens what is not open yet, within a time, for a configuration that runs.
func (s *site) openFor(ctx context.Context, limit time.Duration) error {
	if err := s.prepareFor(ctx, limit); err != nil {
		return err
	}
	return s.recordFor(ctx, limit)
}

// prepareFor opens the store and compares its names, within a time. It records nothing:
// another part of the configuration may yet be refused.
func (s *site) prepareFor(ctx context.Context, limit time.Duration) error {
	return s.opened(ctx, limit, func(ctx context.Context) (err error) {
		if s.prepared != nil {
			return nil
		}
		if err := s.store.Reopen(ctx); err != nil {
			return err
		}
		keys, err := s.store.Secrets(ctx)
		if err != nil {
			return err
		}
		if err := s.store.CheckNames(ctx, s.names); err != nil {
			return err
		}
		identity, err := s.store.Identity(ctx)
		if err != nil {
			return err
		}
		if err := s.identified(identity); err != nil {
			return err
		}
		if err := s.loadRing(ctx); err != nil {
			return err
		}
		if err := s.loadRevoked(ctx); err != nil {
			return err
		}
		s.prepared = keys
		return nil
	})
}

// recordFor records the names of the store, which is open, within a time, and lets
// requests in.
func (s *site) recordFor(ctx context.Context, limit time.Duration) error {
	return s.opened(ctx, limit, func(ctx context.Context) error {
		changed, err := s.store.RecordNames(ctx, s.names, s.directoryName.find)
		if err != nil {
			return err
		}
		l, err := s.assemble(s.prepared)
		if err != nil {
			return err
		}
		s.shared.names.learn(s.names)
		s.open.Store(l)
		s.recorded.Store(true)
		if changed {
			what := "the find query of `users sql` has changed since the last load, or the user or the parameters of its URL"
			if strings.HasPrefix(s.names.Directory, "webhook:") {
				what = "the user or the parameters of the URL of `users webhook` have changed since the last load"
			}
			s.log.Warn(what+"; if other people are found now, or the same ones with other ids, sessions and openids in the store belong to the wrong users",
				zap.String("remedy", "if the ids are the same people's, write a name, such as `realm people`, in the block of users: then this is not compared; "+
					"else give this site a store of its own"))
		}
		if s.shared.opened() {
			s.logOpened(ctx)
		}
		return nil
	})
}

// opened runs one step of opening, one caller at a time, and keeps what it came to.
func (s *site) opened(ctx context.Context, limit time.Duration, step func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		return fmt.Errorf("opening the store: %w: %w", store.ErrUnavailable, ctx.Err())
	}
	err := step(ctx)
	if err != nil {
		s.prepared = nil
		err = withRemedy(err, s.directoryName)
	}
	switch {
	case err == nil:
		s.fault.Store(nil)
	case !errors.Is(err, store.ErrUnavailable) && ctx.Err() == nil:
		s.open.Store(nil)
		s.recorded.Store(false)
		s.fault.Store(&err)
	}
	return err
}

// triedToOpen lets requests go on that wait for the first try.
func (s *site) triedToOpen() {
	select {
	case <-s.tried:
	default:
		close(s.tried)
	}
}

// logOpened logs which store this is: a path that was mistyped, or another HOME, leads to
// an empty one.
func (s *site) logOpened(ctx context.Context) {
	v, err := s.store.Survey(ctx)
	if err != nil {
		s.log.Warn("looking at the store", zap.Error(err))
		return
	}
	s.log.Info("store opened", zap.String("store", s.shared.db.String()), zap.String("table_prefix", s.sharedKey.prefix), zap.Bool("created", v.Created),
		zap.Int("schema", v.Schema), zap.String("directory", s.names.Directory),
		zap.Int("users", v.Users), zap.Int("openids", v.OpenIDs), zap.Int("counted_to", store.SurveyLimit))
}

// openUsers asks a directory that lives elsewhere whether it will work.
func (s *site) openUsers(ctx context.Context, limit time.Duration) error {
	o, ok := s.users.(UsersOpener)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return o.Open(ctx)
}
