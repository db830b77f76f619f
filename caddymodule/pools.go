package caddymodule

import (
	"context"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/api"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/storestate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// These pools hold what must exist once per process and survive reloads. Pooled objects hold
// state, never settings: secrets, times and loggers come with each call from the
// configuration in force.
var (
	storePool  = caddy.NewUsagePool() // storeKey  -> *storeState
	ringPool   = caddy.NewUsagePool() // ringKey   -> pooled[*token.Ring]
	cachePool  = caddy.NewUsagePool() // string    -> pooled[*token.Cache]
	wechatPool = caddy.NewUsagePool() // string    -> *wechatState
)

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
}

// Destruct closes the store when the last configuration, and the last login under way, has
// released it.
func (s *storeState) Destruct() error { return s.Close() }

// acquireStore returns the state of a store. Callers release it with storePool.Delete(k).
func acquireStore(k storeKey) (*storeState, error) {
	v, _, err := storePool.LoadOrNew(k, func() (caddy.Destructor, error) {
		state, err := storestate.New(k.url, k.prefix)
		return &storeState{State: state}, err
	})
	if err != nil {
		return nil, err
	}
	return v.(*storeState), nil
}

// ringKey names a ring of generated keys.
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

func acquireCache(p token.Policy, store storeKey, keys string) (string, *token.Cache) {
	k := fmt.Sprintf("%q", append([]string{store.url, store.prefix, keys, p.Issuer, p.Type, p.Leeway.String(),
		strings.Join(p.Audience, "\x00")}, p.Apps...))
	return k, acquire(cachePool, k, func() *token.Cache { return token.NewCache(cacheEntries) })
}

func acquire[T any](pool *caddy.UsagePool, k any, construct func() T) T {
	v, _, _ := pool.LoadOrNew(k, func() (caddy.Destructor, error) { // which cannot fail
		return pooled[T]{construct()}, nil
	})
	return v.(pooled[T]).value
}

// wechatState holds the connections and the access tokens of sites that call the same WeChat
// in the same way.
type wechatState struct {
	transport *wechat.Transport
	tokens    wechat.TokenSource
}

// Destruct closes the idle connections.
func (s *wechatState) Destruct() error {
	s.transport.Close()
	return nil
}

func acquireWeChat(set wechatSettings, store storeKey) (string, *wechatState) {
	k := fmt.Sprintf("%q %q", []string{set.AccessToken, set.External, store.url, store.prefix}, set.names()) // maps print sorted
	v, _, _ := wechatPool.LoadOrNew(k, func() (caddy.Destructor, error) {                                    // which cannot fail
		return &wechatState{transport: wechat.NewTransport(), tokens: set.tokens()}, nil
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
