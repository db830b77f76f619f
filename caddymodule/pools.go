package caddymodule

import (
	"crypto/rand"
	"fmt"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/api"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// What must be one per process lives in these pools and survives reloads. It
// holds state, never settings: secrets, times and loggers come with each call
// from the configuration in force.
var (
	sharedPool = caddy.NewUsagePool() // sharedKey -> *shared
	ringPool   = caddy.NewUsagePool() // ringKey   -> pooled[*token.Ring]
	cachePool  = caddy.NewUsagePool() // string    -> pooled[*token.Cache]
	wechatPool = caddy.NewUsagePool() // string    -> *wechatShared
)

// cacheEntries bounds the verified-token cache of one policy, to less than 30 MiB. A
// hundred thousand tokens fit, though they spread unevenly over its shards.
const cacheEntries = 104_000

// sharedKey names a store: who has the same address and prefix has the same
// users and sessions.
type sharedKey struct{ url, prefix string }

// shared is what all who use one store share.
type shared struct {
	name    string // of this process, among those who use the store
	clock   *clock.Clock
	db      *store.DB
	revoked *session.Revoked
	feed    *session.Feed
	chain   login.State

	api    api.State
	names  knownNames
	isOpen chan struct{} // closed when the store is open for the first time
	once   sync.Once
}

// opened says that the store is open, and reports whether that is news.
func (s *shared) opened() (first bool) {
	s.once.Do(func() {
		first = true
		close(s.isOpen)
	})
	return first
}

// Destruct closes the store when the last configuration, and the last login in
// flight, has let go of it. Connections that were opened under its tokens end:
// nobody would learn of a logout any more.
func (s *shared) Destruct() error {
	s.revoked.Close()
	return s.db.Close()
}

// holdShared returns the shared state for k; whoever holds it must let it go
// with sharedPool.Delete(k).
func holdShared(k sharedKey) (*shared, error) {
	v, _, err := sharedPool.LoadOrNew(k, func() (caddy.Destructor, error) {
		clock := clock.New()
		db, err := store.New(k.url, store.Options{Prefix: k.prefix, Clock: clock})
		if err != nil {
			return nil, err
		}
		revoked := session.NewRevoked()
		revoked.Clock = clock
		return &shared{
			name: rand.Text(), clock: clock, db: db, revoked: revoked, feed: session.NewFeed(revoked), isOpen: make(chan struct{}),
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*shared), nil
}

// ringKey names a ring of generated keys.
type ringKey struct {
	store sharedKey
	alg   token.Algorithm
}

// pooled lets a value that needs no cleaning up live in a pool.
type pooled[T any] struct{ value T }

// Destruct does nothing.
func (pooled[T]) Destruct() error { return nil }

func holdRing(k ringKey) *token.Ring {
	return hold(ringPool, k, token.NewRing)
}

func holdCache(p token.Policy, store sharedKey, keys string) (string, *token.Cache) {
	k := fmt.Sprintf("%q", append([]string{store.url, store.prefix, keys, p.Issuer, p.Type, p.Leeway.String(),
		strings.Join(p.Audience, "\x00")}, p.Apps...))
	return k, hold(cachePool, k, func() *token.Cache { return token.NewCache(cacheEntries) })
}

func hold[T any](pool *caddy.UsagePool, k any, construct func() T) T {
	v, _, _ := pool.LoadOrNew(k, func() (caddy.Destructor, error) { // which cannot fail
		return pooled[T]{construct()}, nil
	})
	return v.(pooled[T]).value
}

// wechatShared is what all share who speak to the same WeChat in the same way:
// the connections and the access tokens.
type wechatShared struct {
	transport *wechat.Transport
	tokens    wechat.TokenSource
}

// Destruct closes the connections that are kept open.
func (s *wechatShared) Destruct() error {
	s.transport.Close()
	return nil
}

func holdWeChat(set wechatSettings, store sharedKey) (string, *wechatShared) {
	k := fmt.Sprintf("%q %q", []string{set.AccessToken, set.External, store.url, store.prefix}, set.names()) // maps print sorted
	v, _, _ := wechatPool.LoadOrNew(k, func() (caddy.Destructor, error) {                                    // which cannot fail
		return &wechatShared{transport: wechat.NewTransport(), tokens: set.tokens()}, nil
	})
	return k, v.(*wechatShared)
}
