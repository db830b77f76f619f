package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/api"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

const (
	// openTimeout bounds the opening of a store at start.
	openTimeout = 10 * time.Second
	// retryEvery is how often an unreachable store is tried again.
	retryEvery = time.Second
	// ringEvery is how often replicas read the key ring.
	ringEvery = time.Minute
	// staleAfter is the age at which the revocation feed is logged as stale.
	staleAfter = 10 * time.Second
)

// Background opens what the directives of one configuration use and keeps it fresh:
// the revocation feed and the key rings. It has no settings and no syntax of its
// own; the directives reach it by name.
type Background struct {
	log     *zap.Logger
	metrics *api.Metrics
	mu      sync.Mutex
	sites   []*site
	rings   map[ringKey]*token.RingSettings
	warned  map[*caddyhttp.Server]bool // about their trusted proxies
	cancel  context.CancelFunc
	loops   sync.WaitGroup
}

// CaddyModule returns the Caddy module information.
func (*Background) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "wx_auth", New: func() caddy.Module { return new(Background) }}
}

// Provision sets up the app. It only reads.
func (a *Background) Provision(ctx caddy.Context) error {
	a.log = ctx.Logger()
	var err error
	a.metrics, err = api.NewMetrics(ctx.GetMetricsRegistry(), a.feedAge)
	return err
}

// feedAge is the age of the oldest revocation feed in use.
func (a *Background) feedAge(now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	var age time.Duration
	for _, s := range a.sites {
		age = max(age, s.shared.feed.Age(now))
	}
	return age
}

// add registers a directive with the app, while the configuration is provisioned. Sites
// that share a key ring share its settings: a retired key verifies for as long as the
// longest-lived token of any of them. Sites that share a store must agree on its keys, and
// on whose ids it holds.
func (a *Background) add(s *site) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, other := range a.sites {
		if other.shared == s.shared {
			if err := sameStore(other.set, s.set); err != nil {
				return err
			}
			if err := sameNames("the store "+s.shared.db.String(), other.directoryName, s.directoryName, other.names, s.names); err != nil {
				return err
			}
		}
	}
	a.sites = append(a.sites, s)
	s.identified = func(identity string) error { return a.identified(s, identity) }
	if s.ring == nil {
		return nil
	}
	own := s.set.Token.ring()
	all := a.rings[s.ringKey]
	if all == nil {
		all = &own
		if a.rings == nil {
			a.rings = make(map[ringKey]*token.RingSettings)
		}
		a.rings[s.ringKey] = all
	}
	shareRing(all, own)
	s.ringSet = all
	return nil
}

// Start opens the stores. What only the operator can fix fails the configuration, and the
// former one stays; a store that does not answer, or takes no write, is tried again until
// it does. A store's names are recorded when nothing else is wrong.
func (a *Background) Start() error {
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	a.warnOfCluster()
	a.warnOfSharing()
	// Side by side: stores that do not answer must not hold a reload up in turn.
	opened, users := make([]error, len(a.sites)), make([]error, len(a.sites))
	a.sideBySide(func(i int, s *site) { opened[i] = s.prepareFor(ctx, openTimeout) },
		func(i int, s *site) { users[i] = s.openUsers(ctx, openTimeout) })
	err := a.refuse(opened, users)
	if err == nil {
		a.sideBySide(func(i int, s *site) {
			if opened[i] == nil {
				opened[i] = s.recordFor(ctx, openTimeout)
			}
		})
		err = a.refuse(opened, nil)
	}
	if err != nil {
		cancel()
		return fmt.Errorf("wx_auth: %w", err)
	}
	feeds, rings := make(map[*shared]bool), make(map[ringKey]bool)
	for i, s := range a.sites {
		s.triedToOpen()
		if users[i] != nil {
			a.log.Error("the directory of users does not answer; logins and refreshes wait for it", zap.Error(users[i]))
		}
		if opened[i] != nil {
			a.logAway(s, opened[i])
			a.loops.Go(func() { a.keepOpening(ctx, s) })
		}
		firstOfStore := !feeds[s.shared]
		feeds[s.shared] = true
		if firstOfStore && opened[i] == nil {
			// Before the reload is reported done: the operator's next step may be rekey.
			a.announceOnce(ctx, s)
		}
		firstOfRing := s.ring != nil && !rings[s.ringKey]
		if firstOfRing {
			rings[s.ringKey] = true
		}
		a.loops.Go(func() { a.keepFresh(ctx, s, firstOfStore, firstOfRing) })
	}
	return nil
}

// sideBySide does each of these for each site, all at once, and waits for them.
func (a *Background) sideBySide(do ...func(int, *site)) {
	var all sync.WaitGroup
	for i, s := range a.sites {
		for _, f := range do {
			all.Go(func() { f(i, s) })
		}
	}
	all.Wait()
}

// refuse returns the first error that fails the configuration.
func (a *Background) refuse(opened, users []error) error {
	for i := range a.sites {
		if users != nil && errors.Is(users[i], user.ErrMisconfigured) {
			return users[i]
		}
		if opened[i] != nil && !errors.Is(opened[i], store.ErrUnavailable) {
			return opened[i]
		}
	}
	return nil
}

// logAway logs why a store is not open, and what works meanwhile.
func (a *Background) logAway(s *site, err error) {
	message := "the store does not answer; logins and tokens wait for it"
	switch {
	case s.open.Load() != nil:
		message = "the store does not answer; tokens are accepted by what the former configuration had opened, and logins wait"
	case errors.Is(err, store.ErrReadOnly):
		message = "the store cannot be written; logins and tokens wait until it can"
	}
	a.log.Error(message, zap.Error(err), zap.String("remedy", adviceOf(err, "check that the database runs and can be reached; it is tried again every second")))
}

// warnOfCluster warns of SQLite where there may be several replicas: each would have its
// own users and keys.
func (a *Background) warnOfCluster() {
	if os.Getenv("KUBERNETES_SERVICE_HOST") == "" {
		return
	}
	for _, s := range a.sites {
		if path, ok := strings.CutPrefix(s.set.Store.URL, "sqlite:"); ok {
			a.log.Warn("this looks like a Kubernetes cluster, and users and keys are in an SQLite file of this pod alone",
				zap.String("file", path),
				zap.String("remedy", "with several replicas, or without a persistent volume, use: store postgres://… or store mysql://…; with one replica and a volume this is fine"))
			return
		}
	}
}

// Stop ends what Start began. The store stays open as long as anybody uses it.
func (a *Background) Stop() error {
	if a.cancel != nil {
		a.cancel()
	}
	a.loops.Wait()
	return nil
}

// keepOpening opens a site whose store was away when the configuration was loaded.
func (a *Background) keepOpening(ctx context.Context, s *site) {
	said := ""
	for clock.Sleep(ctx, retryEvery) {
		err := s.openFor(ctx, openTimeout)
		if err == nil {
			a.log.Info("the store answers", zap.String("store", s.shared.db.String()))
			return
		}
		// It may answer by now, and be of no use: a wrong key, an unusable schema,
		// another directory's users.
		if !errors.Is(err, store.ErrUnavailable) && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			a.log.Error("the store cannot be used; logins and tokens wait until that is fixed", zap.Error(err),
				zap.String("remedy", adviceOf(err, "see the error")))
		}
	}
}

// keepFresh reads the feed and the key ring again and again, once the store is open.
func (a *Background) keepFresh(ctx context.Context, s *site, feed, ring bool) {
	select {
	case <-s.shared.isOpen:
	case <-ctx.Done():
		return
	}
	var wg sync.WaitGroup
	if feed {
		wg.Go(func() { s.shared.feed.Run(ctx, s.store, time.Now, a.reporter(s)) })
		wg.Go(func() { a.housekeep(ctx, s) })
		wg.Go(func() { a.announce(ctx, s) })
	}
	if ring {
		wg.Go(func() {
			for clock.Sleep(ctx, ringEvery) {
				if err := s.loadRing(ctx); err != nil && ctx.Err() == nil {
					a.log.Error("reading the key ring", append(api.Remedy(err), zap.Error(err))...)
				}
			}
		})
	}
	wg.Wait()
}

// reporter logs when the feed grows old and when it is fresh again, and the same of
// the clock.
func (a *Background) reporter(s *site) func(error) {
	stale, reportClock := false, a.clockReporter(s)
	return func(err error) {
		reportClock()
		age := s.shared.feed.Age(time.Now())
		switch {
		case err != nil && !stale && age > staleAfter:
			stale = true
			a.log.Error("revocations from other replicas cannot be read; tokens keep working until they expire",
				zap.Duration("age", age), zap.Error(err))
		case err == nil && stale:
			stale = false
			a.log.Info("revocations are read again")
		}
	}
}

// purgeEvery is how often expired rows are looked for, purgeBatch how many go
// in one transaction.
const (
	purgeEvery = time.Minute
	purgeBatch = 500
)

// housekeep deletes what has expired, in small batches, as long as this process has
// the housekeeping role. With a wrong clock it gives the role up.
func (a *Background) housekeep(ctx context.Context, s *site) {
	left := false
	for clock.Sleep(ctx, purgeEvery) {
		if s.shared.clock.State().Off {
			if !left {
				left = s.store.LeaveHousekeeping(ctx, s.shared.name) == nil
			}
			continue
		}
		left = false
		for !s.shared.clock.State().Off {
			n, ours, err := s.store.Housekeep(ctx, s.shared.name, purgeBatch)
			if err != nil && ctx.Err() == nil {
				a.log.Warn("deleting expired rows", zap.Error(err))
			}
			if err != nil || !ours || n < purgeBatch {
				break
			}
		}
	}
}

// Interface guards
var (
	_ caddy.App         = (*Background)(nil)
	_ caddy.Provisioner = (*Background)(nil)
)
