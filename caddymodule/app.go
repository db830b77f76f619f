package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/metrics"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
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
)

// Background opens the stores of a configuration's directives, and keeps the revocation feeds
// and the key rings fresh. It has neither settings nor syntax: each directive gets it from
// Caddy by its app name.
type Background struct {
	log     *zap.Logger
	metrics *metrics.Metrics
	mu      sync.Mutex
	sites   []*site
	rings   map[ringKey]*token.RingSettings
	warned  map[*caddyhttp.Server]bool // servers whose trusted proxies have been warned about
	shared  map[string]bool            // identities of databases that were warned about
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
	a.metrics = processMetrics
	return a.metrics.Register(ctx.GetMetricsRegistry())
}

// add registers a directive with the app, while the configuration is provisioned. Sites that
// share a key ring share its settings: a retired key verifies for as long as the longest-lived
// token of any of them. Sites that share a store must agree on its encryption keys and on its
// names (the directory and the WeChat whose ids it holds).
func (a *Background) add(s *site) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, other := range a.sites {
		if other.state == s.state {
			if err := sameStore(other.set, s.set); err != nil {
				return err
			}
			if err := sameNames("the store "+s.state.DB.String(), other.directoryName, s.directoryName, other.names, s.names); err != nil {
				return err
			}
		}
	}
	a.sites = append(a.sites, s)
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

// Start opens the stores. An error that only the operator can fix fails the configuration, and
// the former one stays. A store that does not answer, or takes no write, is tried again until
// it does. The names of the stores are recorded only if nothing has failed the configuration.
func (a *Background) Start() error {
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	a.warnOfCluster()
	a.warnOfSharing()
	// Stores open concurrently: several that do not answer must not add up their timeouts and
	// delay a reload.
	opened, users := make([]error, len(a.sites)), make([]error, len(a.sites))
	a.sideBySide(func(i int, s *site) { opened[i] = s.Prepare(ctx, openTimeout) },
		func(i int, s *site) { users[i] = s.openUsers(ctx, openTimeout) })
	err := a.refuse(opened, users)
	if err == nil {
		a.sideBySide(func(i int, s *site) {
			if opened[i] == nil {
				opened[i] = s.Record(ctx, openTimeout)
			}
		})
		err = a.refuse(opened, nil)
	}
	if err != nil {
		cancel()
		return fmt.Errorf("wx_auth: %w", err)
	}
	a.runLoops(ctx, opened, users)
	return nil
}

// runLoops starts what runs in the background until the configuration ends: each store and each
// key ring has one loop, and so has each site whose store is not open. opened and users hold
// the errors of the stores and directories.
func (a *Background) runLoops(ctx context.Context, opened, users []error) {
	states, rings := make(map[*storeState]bool), make(map[ringKey]bool)
	for i, s := range a.sites {
		s.Tried()
		if users[i] != nil {
			a.log.Error("the directory of users does not answer; logins and refreshes wait for it", zap.Error(users[i]),
				remedy.DirectoryAway.Of(users[i], "check that the service or database of `users` runs and can be reached; it is asked at the next login"))
		}
		if opened[i] != nil {
			a.logAway(s, opened[i])
			a.loops.Go(func() { a.keepOpening(ctx, s) })
		}
		if !states[s.state] {
			states[s.state] = true
			if opened[i] == nil {
				// The keys are announced before the reload is reported as done: the operator's
				// next command may be rekey, which checks that every replica has them.
				s.state.Announce(ctx, s.store, a.log)
			}
			a.loops.Go(func() { s.state.Run(ctx, s.store, a.log) })
		}
		if s.ring != nil && !rings[s.ringKey] {
			rings[s.ringKey] = true
			a.loops.Go(func() { a.keepRing(ctx, s) })
		}
	}
}

// sideBySide calls each function for each site, all concurrently, and waits for them.
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
	case s.IsOpen():
		message = "the store does not answer; tokens are accepted by what the former configuration had opened, and logins wait"
	case errors.Is(err, store.ErrReadOnly):
		message = "the store cannot be written; logins and tokens wait until it can"
	}
	a.log.Error(message, zap.Error(err), remedy.StoreAway.Of(err, "check that the database runs and can be reached; it is tried again every second"))
}

// warnOfCluster warns of SQLite in a place that looks like a Kubernetes cluster: with several
// replicas, each would have users and keys of its own.
func (a *Background) warnOfCluster() {
	if os.Getenv("KUBERNETES_SERVICE_HOST") == "" {
		return
	}
	for _, s := range a.sites {
		if path, ok := strings.CutPrefix(s.set.Store.URL, "sqlite:"); ok {
			a.log.Warn("this looks like a Kubernetes cluster, and users and keys are in an SQLite file of this pod alone",
				zap.String("file", path),
				remedy.StoreOfPod.Field("with several replicas, or without a persistent volume, use: store postgres://… or store mysql://…; with one replica and a volume this is fine"))
			return
		}
	}
}

// Stop ends what Start began. A store stays open as long as another configuration, or a
// login under way, uses it.
func (a *Background) Stop() error {
	if a.cancel != nil {
		a.cancel()
	}
	a.loops.Wait()
	return nil
}

// keepOpening opens a site whose store did not answer when the configuration was loaded.
func (a *Background) keepOpening(ctx context.Context, s *site) {
	logged := ""
	for clock.Sleep(ctx, retryEvery) {
		err := s.Open(ctx, openTimeout)
		if err == nil {
			a.log.Info("the store answers", zap.String("store", s.state.DB.String()))
			return
		}
		// The store may answer by now and still be unusable: its key or schema may be wrong,
		// or its users may belong to another directory.
		if !errors.Is(err, store.ErrUnavailable) && ctx.Err() == nil && err.Error() != logged {
			logged = err.Error()
			a.log.Error("the store cannot be used; logins and tokens wait until that is fixed", zap.Error(err),
				remedy.StoreUnusable.Of(err, "see the error"))
		}
	}
}

// keepRing reads the key ring of a site every minute, once its store is open.
func (a *Background) keepRing(ctx context.Context, s *site) {
	for ok := s.state.Wait(ctx); ok && clock.Sleep(ctx, ringEvery); {
		if err := s.loadRing(ctx); err != nil && ctx.Err() == nil {
			logRing(a.log, err)
		}
	}
}

// logRing logs why a key ring could not be read. An outage of the store has its own lines.
func logRing(log *zap.Logger, err error) {
	level := zap.ErrorLevel
	if errors.Is(err, store.ErrUnavailable) {
		level = zap.InfoLevel
	}
	log.Log(level, "reading the key ring", zap.Error(err), remedy.KeyMissing.Of(err, "see the error; it is read again every minute, and the keys that are known go on"))
}

// trustsProxies reports whether a server has trusted proxies. When our handler is provisioned,
// Caddy has loaded them into an unexported field and dropped the raw configuration, so the
// field is read by reflection. A test with the built binary fails if a later Caddy renames it.
func trustsProxies(s *caddyhttp.Server) bool {
	f := reflect.ValueOf(s).Elem().FieldByName("trustedProxies")
	return s.TrustedProxiesRaw != nil || f.IsValid() && f.Kind() == reflect.Interface && !f.IsNil()
}

// warnNotStrict warns of a server that trusts proxies without trusted_proxies_strict. Caddy
// then takes the first address in X-Forwarded-For for the client's, and a client can write
// that address itself.
func (a *Background) warnNotStrict(s *caddyhttp.Server) {
	if s == nil || s.TrustedProxiesStrict > 0 || !s.TrustedProxiesUnix && !trustsProxies(s) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.warned[s] {
		return
	}
	if a.warned == nil {
		a.warned = make(map[*caddyhttp.Server]bool)
	}
	a.warned[s] = true
	a.log.Warn("the server has trusted_proxies without trusted_proxies_strict: Caddy then takes the first address in X-Forwarded-For for the client's, which the client may have written; "+
		"login_rate and the limit of wrong service keys can be passed by, and others be locked out",
		zap.String("server", s.Name()), remedy.ClientUnknown.Field("add trusted_proxies_strict in servers { } of the global options"))
}

// Interface guards
var (
	_ caddy.App         = (*Background)(nil)
	_ caddy.Provisioner = (*Background)(nil)
)
