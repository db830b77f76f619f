package storestate

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
)

const (
	// staleAfter is the age at which the revocation feed is logged as stale.
	staleAfter = 10 * time.Second

	// purgeEvery is the interval between searches for expired rows. purgeBatch is the number of
	// rows that one transaction deletes.
	purgeFirst = 5 * time.Second // after the start
	purgeEvery = time.Minute
	purgeBatch = 500

	// announceEvery is the interval at which a replica records in the store that it
	// runs and which encryption keys it has. `caddy wx-auth rekey` reads these records.
	// The interval is several times shorter than store.ReplicaUp, so one failure does
	// no harm.
	announceEvery = 25 * time.Second
)

// Run reads the revocation feed, does the housekeeping and announces this replica, until
// ctx ends. It waits for the store to be opened. st is the store with the keys of one of
// its sites.
func (s *State) Run(ctx context.Context, st *store.Store, log *zap.Logger) {
	if !s.Wait(ctx) {
		return
	}
	var loops sync.WaitGroup
	loops.Go(func() { s.Feed.Run(ctx, st, time.Now, s.reporter(log)) })
	loops.Go(func() { s.housekeep(ctx, st, log) })
	loops.Go(func() {
		for ok := true; ok; ok = clock.Sleep(ctx, announceEvery) {
			s.Announce(ctx, st, log)
		}
	})
	loops.Wait()
}

// Wait waits until the store is open. It returns false if ctx ended first.
func (s *State) Wait(ctx context.Context) bool {
	select {
	case <-s.isOpen:
		return true
	case <-ctx.Done():
		return false
	}
}

// Announce records this replica once. It logs a failure at debug level only, because an
// unavailable store is logged elsewhere.
func (s *State) Announce(ctx context.Context, st *store.Store, log *zap.Logger) {
	if err := st.Announce(ctx, s.replica); err != nil && ctx.Err() == nil {
		log.Debug("announcing this replica", zap.Error(err))
	}
}

// reporter returns a function to call after each read of the feed. It logs when the feed becomes
// stale and when it is fresh again, and the same for the clock.
func (s *State) reporter(log *zap.Logger) func(error) {
	stale, reportClock := false, s.clockReporter(log)
	return func(err error) {
		reportClock()
		age := s.Feed.Age(time.Now())
		switch {
		case err != nil && !stale && age > staleAfter:
			stale = true
			log.Error("revocations from other replicas cannot be read; tokens keep working until they expire",
				zap.Duration("age", age), zap.String("store", s.DB.String()), zap.Error(err),
				remedy.StoreAway.Of(err, "see the error; a session that another replica ends stays good here until its token expires, so bring the database back soon"))
		case err == nil && stale:
			stale = false
			log.Info("revocations are read again")
		}
	}
}

// clockReporter returns a function that logs when this process's clock becomes wrong and when it is
// right again. In between, the replica deletes nothing and forgets no revocation.
func (s *State) clockReporter(log *zap.Logger) func() {
	off := false
	return func() {
		state := s.Clock.State()
		switch {
		case state.Off && !off:
			log.Error("the clock of this process is wrong: it does no housekeeping and forgets no revocation until that is over; logins and tokens go on",
				append(clockFields(state), zap.String("store", s.DB.String()))...)
		case !state.Off && off:
			log.Info("the clock of this process is right again", zap.String("store", s.DB.String()))
		}
		off = state.Off
	}
}

func clockFields(state clock.State) []zap.Field {
	cause, text := "it differs from the database's clock",
		"synchronize the clocks of this machine and of the database's with NTP (chronyc tracking, timedatectl)"
	if state.Jumped {
		cause, text = "it has jumped",
			"synchronize the clock of this machine with NTP; a clock that stays where it is and agrees with the database's is trusted again after an hour"
	}
	return []zap.Field{
		zap.String("cause", cause), zap.Duration("ahead", state.Ahead.Round(time.Second)), remedy.ClockWrong.Field(text),
	}
}

// housekeep deletes expired rows in small batches while this process has the
// housekeeping role. It gives the role up if its clock is wrong.
func (s *State) housekeep(ctx context.Context, st *store.Store, log *zap.Logger) {
	left := false
	for wait := purgeFirst; clock.Sleep(ctx, wait); {
		wait = purgeEvery
		if s.Clock.State().Off {
			s.live.Store(-1)
			if !left {
				left = st.LeaveHousekeeping(ctx, s.replica) == nil
			}
			continue
		}
		left = false
		s.count(ctx, st, log, s.purge(ctx, st, log))
	}
}

// purge deletes expired rows in batches, until none is left or the clock is wrong. It does
// nothing, and returns false, if another replica has the housekeeping role.
func (s *State) purge(ctx context.Context, st *store.Store, log *zap.Logger) (ours bool) {
	for !s.Clock.State().Off {
		n, leads, err := st.Housekeep(ctx, s.replica, purgeBatch)
		ours = leads
		if err != nil && ctx.Err() == nil {
			// An outage of the store is logged elsewhere.
			level := zap.WarnLevel
			if errors.Is(err, store.ErrUnavailable) {
				level = zap.DebugLevel
			}
			log.Log(level, "deleting expired rows", zap.Error(err), remedy.StoreUnusable.Of(err, "see the error; it is tried again every minute"))
		}
		if err != nil || !ours || n < purgeBatch {
			break
		}
	}
	return ours
}

// count counts the live sessions, if this replica has the housekeeping role.
func (s *State) count(ctx context.Context, st *store.Store, log *zap.Logger, ours bool) {
	if !ours {
		s.live.Store(-1)
		return
	}
	n, err := st.CountSessions(ctx)
	if err != nil {
		log.Debug("counting the sessions", zap.Error(err))
		return
	}
	s.live.Store(int64(n))
}
