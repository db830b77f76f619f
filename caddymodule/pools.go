package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/api"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/metrics"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/outage"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/storestate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// These pools hold what must exist once per process and survive reloads. Pooled objects hold
// state, never settings: callers pass secrets, durations and loggers from the current
// configuration with each call.
var (
	storePool  = caddy.NewUsagePool() // storeKey  -> *storeState
	ringPool   = caddy.NewUsagePool() // ringKey   -> pooled[*token.Ring]
	cachePool  = caddy.NewUsagePool() // string    -> pooled[*token.Cache]
	wechatPool = caddy.NewUsagePool() // string    -> *wechatState
)

// processMetrics live as long as the process. They are registered with the registry of each
// configuration.
var processMetrics = metrics.New()

// cacheEntries bounds the verified-token cache of one policy, to less than 30 MiB. A
// hundred thousand tokens fit, though they spread unevenly over its shards.
const cacheEntries = 104_000

// storeKey names a store: the same address and prefix mean the same users and sessions.
type storeKey struct{ url, prefix string }

// storeState is the per-process state of one store.
type storeState struct {
	*storestate.State
	login login.State
	api   api.State

	outage  outage.Outage
	unwrite atomic.Bool // a write has failed, and none has worked since
	lost    atomic.Bool // the file was deleted or replaced when something failed last
	unread  []func()    // functions that remove the store's metrics
}

// Destruct closes the store. The pool calls it when the last configuration, and the last login
// in progress, has released the store.
func (s *storeState) Destruct() error {
	for _, remove := range s.unread {
		remove()
	}
	return s.Close()
}

// acquireStore returns the state of a store. Callers release it with storePool.Delete(k).
func acquireStore(k storeKey) (*storeState, error) {
	v, _, err := storePool.LoadOrNew(k, func() (caddy.Destructor, error) {
		state, err := storestate.New(k.url, k.prefix)
		if err != nil {
			return nil, err
		}
		s := &storeState{State: state}
		s.measure(processMetrics)
		return s, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*storeState), nil
}

// measure adds the store's metrics. Outages are logged by Caddy's current logger, because the
// store outlives the configuration.
func (s *storeState) measure(m *metrics.Metrics) {
	label := s.DB.Label()
	m.Stores(label, store.Operations())
	s.DB.Observe(func(o sqldb.Operation) {
		m.Operation(label, o.Name, o.Outcome(), o.Took, o.Again)
		if s.WasOpened() && o.Name != store.CountOperation {
			s.note(o)
		}
	})
	s.unread = append(s.unread,
		m.Read(metrics.FeedAge, func(yield func(float64, ...string)) { yield(s.FeedAge(time.Now()).Seconds(), label) }),
		m.Read(metrics.Sessions, func(yield func(float64, ...string)) {
			if n, known := s.Live(); known {
				yield(float64(n), label)
			}
		}),
		m.Read(metrics.BreakerOpen, func(yield func(float64, ...string)) {
			s.login.EachBreaker(func(name string, call wechat.Call, open bool) {
				value := 0.0
				if open {
					value = 1
				}
				yield(value, cmp.Or(name, wechat.Own), string(call))
			})
		}))
}

// note logs when the store begins to fail, and when it works again. A server or file that has
// become read-only still answers reads, so after a failed write only a successful write ends
// the outage. So it is with a damaged file. A replaced file accepts writes, and all of them will
// be lost, so only the right file ends that outage.
func (s *storeState) note(o sqldb.Operation) {
	switch {
	case o.Outcome() == "unavailable":
		if o.Write || errors.Is(o.Err, store.ErrDamaged) {
			s.unwrite.Store(true)
		}
		s.lost.Store(errors.Is(o.Err, store.ErrLost))
		s.outage.Failed(func(since time.Time) {
			ourLog().Error("the store: failing since "+since.UTC().Format(time.RFC3339), zap.String("store", s.DB.String()), zap.Error(o.Err),
				remedy.StoreAway.Of(withRemedy(o.Err, directoryName{}), "check that the database runs, can be reached and has space; tokens keep working, and logins and refreshes will when it is back"))
		})
	case o.Err == nil && (o.Write || !s.unwrite.Load()) && !(s.lost.Load() && s.DB.InPlace() != nil):
		s.unwrite.Store(false)
		s.outage.Worked(func(after time.Duration) {
			ourLog().Info("the store: back again", zap.String("store", s.DB.String()), zap.Duration("after", after))
		})
	}
}

// ourLog returns a logger for objects that outlive a configuration.
func ourLog() *zap.Logger { return caddy.Log().Named("http.handlers.wx_auth") }

// ringKey identifies a ring of generated keys.
type ringKey struct {
	store storeKey
	alg   token.Algorithm
}

// pooled is a value in a pool that needs no cleaning up.
type pooled[T any] struct{ value T }

// Destruct does nothing.
func (pooled[T]) Destruct() error { return nil }

func acquireRing(k ringKey) *token.Ring {
	return acquire(ringPool, k, token.NewRing)
}

// acquireCache returns the verified-token cache of a policy, and its key in the pool. test
// identifies the test login, because another test login accepts other tokens.
func acquireCache(p token.Policy, store storeKey, keys, test string) (string, *token.Cache) {
	k := fmt.Sprintf("%q", append([]string{store.url, store.prefix, keys, test, p.Issuer, p.Type, p.Leeway.String(),
		strings.Join(p.Audience, "\x00")}, p.Apps...))
	v, _, _ := cachePool.LoadOrNew(k, func() (caddy.Destructor, error) { // the constructor returns no error
		c := token.NewCache(cacheEntries)
		c.Hits, c.Misses = processMetrics.Hits, processMetrics.Misses
		return measuredCache{c, processMetrics.Read(metrics.CacheEntries, func(yield func(float64, ...string)) { yield(float64(c.Len())) })}, nil
	})
	return k, v.(measuredCache).Cache
}

// measuredCache is a cache in the pool.
type measuredCache struct {
	*token.Cache
	unread func()
}

// Destruct removes the cache from the metrics.
func (c measuredCache) Destruct() error {
	c.unread()
	return nil
}

func acquire[T any](pool *caddy.UsagePool, k any, construct func() T) T {
	v, _, _ := pool.LoadOrNew(k, func() (caddy.Destructor, error) { // the constructor returns no error
		return pooled[T]{construct()}, nil
	})
	return v.(pooled[T]).value
}

// wechatState holds the connections and the access tokens of sites that call the same WeChat
// in the same way.
type wechatState struct {
	transport *wechat.Transport
	tokens    wechat.TokenSource

	names   map[string]string // names of WeChats by appid; "": for all other apps
	unread  func()
	mu      sync.Mutex
	outages map[[2]string]*outage.Outage // by WeChat and call
}

// nameOf returns the name of an app's WeChat.
func (s *wechatState) nameOf(appid string) string {
	if name, ok := s.names[appid]; ok {
		return name
	}
	return s.names[""]
}

// Called implements [wechat.Observer].
func (s *wechatState) Called(appid string, call wechat.Call, err *wechat.Error, took time.Duration) {
	name := s.nameOf(appid)
	processMetrics.Call(name, appid, call, kindOf(err), took)
	s.mu.Lock()
	k := [2]string{name, string(call)}
	o := s.outages[k]
	if o == nil {
		o = new(outage.Outage)
		s.outages[k] = o
	}
	s.mu.Unlock()
	about := func(fields ...zap.Field) []zap.Field {
		return append([]zap.Field{zap.String("wechat", name), zap.String("call", string(call))}, fields...)
	}
	switch {
	case err == nil || !err.Kind.WeChat() && err.Code != 0:
		o.Worked(func(after time.Duration) {
			ourLog().Info("WeChat call "+string(call)+": back again", about(zap.Duration("after", after))...)
		})
	case err.Kind.WeChat() && err.Unwrap() == nil:
		o.Failed(func(since time.Time) {
			ourLog().Warn("WeChat call "+string(call)+": failing since "+since.UTC().Format(time.RFC3339),
				about(zap.String("appid", appid), zap.NamedError("cause", err), api.WeChatRemedy(err, "WeChat is at fault; logins go on by themselves when it is back"))...)
		})
	}
}

// Fetched implements [wechat.Observer].
func (s *wechatState) Fetched(appid string, err *wechat.Error) {
	processMetrics.Fetch(s.nameOf(appid), appid, kindOf(err))
}

func kindOf(err *wechat.Error) wechat.Kind {
	if err == nil {
		return 0
	}
	return err.Kind
}

// tokenAges yields the age of each app's access token.
func (s *wechatState) tokenAges(yield func(float64, ...string)) {
	if t, ok := s.tokens.(interface {
		EachFetched(func(string, time.Time))
	}); ok {
		t.EachFetched(func(appid string, fetched time.Time) {
			yield(time.Since(fetched).Seconds(), s.nameOf(appid), appid)
		})
	}
}

// Destruct closes the idle connections.
func (s *wechatState) Destruct() error {
	s.unread()
	s.transport.Close()
	return nil
}

func acquireWeChat(set wechatSettings, store storeKey) (string, *wechatState) {
	k := fmt.Sprintf("%q %q", []string{set.AccessToken, set.External, store.url, store.prefix}, set.names()) // maps print sorted
	v, _, _ := wechatPool.LoadOrNew(k, func() (caddy.Destructor, error) {                                    // the constructor returns no error
		s := &wechatState{transport: wechat.NewTransport(), tokens: set.tokens(), names: set.names(), outages: make(map[[2]string]*outage.Outage)}
		s.unread = processMetrics.Read(metrics.AccessTokenAge, s.tokenAges)
		return s, nil
	})
	return k, v.(*wechatState)
}

// sharedTokens shares classic access tokens with other replicas through the store, which does
// not know WeChat's types.
type sharedTokens struct{ *store.Store }

// LoadToken implements [wechat.SharedTokens].
func (s sharedTokens) LoadToken(ctx context.Context, appid string) (wechat.AccessToken, bool, error) {
	value, fetched, expires, ok, err := s.Store.LoadToken(ctx, appid)
	return wechat.AccessToken{Token: value, Fetched: fetched, Expires: expires}, ok, err
}

// StoreToken implements [wechat.SharedTokens].
func (s sharedTokens) StoreToken(ctx context.Context, appid string, t wechat.AccessToken) error {
	return s.Store.StoreToken(ctx, appid, t.Token, t.Fetched, t.Expires)
}
