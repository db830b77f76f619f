package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/api"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/gate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// site is one directive at work: the settings of its configuration and what it
// shares with others by way of the pools.
type site struct {
	set    settings
	log    *zap.Logger
	ctx    caddy.Context
	events *caddyevents.App
	api    api.Server

	sharedKey sharedKey
	shared    *shared
	store     *store.Store
	users     user.Directory // as it was loaded; nil: the store's own
	directory account.Directory
	ringKey   ringKey
	ring      *token.Ring // nil where the key is configured
	cacheKey  string
	cache     *token.Cache
	wechatKey string
	wechat    *wechatShared
	gate      *gate.Gate
	tokens    token.Tokens

	ringSet *token.RingSettings // of all who share the ring; not changed after provisioning
	away    atomic.Bool         // the store did not answer when a request needed it

	directoryName directoryName
	names         store.Names
	noStoreLine   bool // the store is the default one, as no line names any
	// identified is called with the identity of the store once that is open. It refuses a
	// store that another site has under another spelling, and for other people's ids.
	identified func(identity string) error
	identity   string // guarded by the app

	opening  chan struct{}              // holds one element while somebody opens
	prepared *store.Keys                // guarded by opening: the store's, once it is open
	tried    chan struct{}              // closed when the first try to open has ended
	open     atomic.Pointer[api.Opened] // nil: no token is accepted
	recorded atomic.Bool                // the store's names are ours: logins may come
	fault    atomic.Pointer[error]      // only the operator can fix it
}

// newSite takes hold of what a directive needs. users is a directory that lives
// elsewhere, or nil. It does no I/O.
func newSite(ctx caddy.Context, log *zap.Logger, set settings, users user.Directory) (*site, error) {
	s := &site{
		set: set, log: log, ctx: ctx, users: users,
		sharedKey: sharedKey{set.Store.URL, set.Store.TablePrefix},
		opening:   make(chan struct{}, 1), tried: make(chan struct{}),
	}
	var err error
	if s.gate, err = gate.New(set.Gate, &s.tokens); err != nil {
		return nil, err
	}
	if s.shared, err = holdShared(s.sharedKey); err != nil {
		return nil, err
	}
	s.store = s.shared.db.With(set.EncryptionKeys)
	if !set.Store.Migrate {
		s.store = s.shared.db.WithTables(set.EncryptionKeys)
	}
	s.directory = s.store.Users(set.Register, s.set.Session).Countries(set.Countries)
	if users != nil {
		s.directory = s.store.Elsewhere(user.Checked(users), s.set.Session)
	}
	if set.Token.Static == nil {
		s.ringKey = ringKey{s.sharedKey, set.Token.Algorithm}
		s.ring = holdRing(s.ringKey)
	}
	s.tokens = token.Tokens{
		Static: set.Token.Static, Ring: s.ring, Verifier: s.verifier, Ended: s.shared.revoked.Contains, ReloadRing: s.reloadRing,
	}
	s.cacheKey, s.cache = holdCache(set.Token.Policy, s.sharedKey, s.keysName())
	s.wechatKey, s.wechat = holdWeChat(set.WeChat, s.sharedKey)
	s.api = api.Server{
		Settings: s.apiSettings(), Host: host, Opening: s, State: &s.shared.api, Gate: s.gate, Keys: s.tokens.Keys,
		Store: s.store, Directory: s.directory, Log: log, Emit: s.emit,
	}
	return s, nil
}

// host is what Caddy knows of a request and of itself.
var host = api.Host{ClientIP: clientIP, TrustedProxy: trustedProxy, RequestID: requestID, Exiting: caddy.Exiting}

func (s *site) apiSettings() api.Settings {
	set := api.Settings{
		Prefix: s.set.Endpoints, Apps: make(map[string]api.App), Cookie: s.set.Gate.Sources.Cookie, LoginRate: s.set.LoginRate,
		LimitDirectory: s.users != nil,
	}
	for _, a := range s.set.Apps {
		set.Apps[a.ID] = api.App{App: a, WeChat: s.set.WeChat.nameOf(a.ID), Push: s.set.Pushes[a.ID]}
	}
	if s.set.Service != nil {
		set.ServiceKey = s.set.Service.is
	}
	return set
}

// keysName names the keys that sign here. Sites with different ones, though equal
// in all else, would empty each other's cache of verified tokens all the time.
func (s *site) keysName() string {
	if s.ring == nil {
		return fmt.Sprintf("%p", s.set.Token.Static)
	}
	return string(s.set.Token.Algorithm)
}

// close lets go of what newSite took hold of.
func (s *site) close() error {
	if s.ring != nil {
		_, _ = ringPool.Delete(s.ringKey)
	}
	_, _ = cachePool.Delete(s.cacheKey)
	_, err := wechatPool.Delete(s.wechatKey)
	_, err2 := sharedPool.Delete(s.sharedKey)
	return errors.Join(err, err2)
}

// Hold keeps the store and the connections open for work that outlives the
// configuration.
func (s *site) Hold() (release func()) {
	if _, err := holdShared(s.sharedKey); err != nil {
		return func() {}
	}
	_, _ = holdWeChat(s.set.WeChat, s.sharedKey)
	releaseUsers := func() {}
	if h, ok := s.users.(UsersHolder); ok {
		releaseUsers = h.Hold()
	}
	return func() {
		releaseUsers()
		_, _ = wechatPool.Delete(s.wechatKey)
		_, _ = sharedPool.Delete(s.sharedKey)
	}
}

func (s *site) loadRing(ctx context.Context) error {
	if s.ring == nil {
		return nil
	}
	now := time.Now()
	before := s.ring.Keys()
	err := s.ring.Load(ctx, s.store, *s.ringSet, now)
	if before.LostBy(s.ring.Keys(), now) {
		// Connections that were opened under tokens of a compromised key end too.
		s.shared.revoked.EndWatched()
	}
	return err
}

// loadRevoked reads which sessions have ended: before the first token is accepted, all of
// them must be known.
func (s *site) loadRevoked(ctx context.Context) error {
	if s.shared.feed.Loaded() {
		return nil
	}
	err := s.shared.feed.Poll(ctx, s.store, time.Now())
	if err != nil && ctx.Err() != nil { // also while it waited for another's poll
		err = fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return err
}

// assemble makes what needs the store's keys.
func (s *site) assemble(keys *store.Keys) (*api.Opened, error) {
	refresh, err := session.NewKeys(keys.RefreshMAC()...)
	if err != nil {
		return nil, err
	}
	seal, err := token.NewSeal(keys.ClaimSeal()...)
	if err != nil {
		return nil, err
	}
	t := s.set.Token
	o := &api.Opened{
		Verifier: token.NewVerifier(t.Policy, seal, s.cache),
		Minter: login.Minter{
			Keys: s.tokens.Keys, Seal: seal, Type: t.Type, Issuer: t.Issuer, Audience: t.Audience,
			Lifetime: t.Lifetime, Plain: t.Claims, Check: s.gate.CheckValues,
		},
		Sessions: session.Sessions{
			Store: s.store, Keys: refresh, Issuer: t.Issuer, Audience: t.Audience, Apps: t.Apps, Revoked: s.shared.revoked,
			Allow: s.api.AllowRefresh, Advanced: s.api.CountRefresh, Settings: s.set.Session,
		},
	}
	o.Accounts = account.Accounts{Directory: s.directory, Store: s.store, Sessions: o.Sessions, Mint: o.Minter.Mint, Emit: s.emit}
	client := s.set.WeChat.client()
	client.Tokens, client.Shared, client.Transport = s.wechat.tokens, sharedTokens{s.store}, s.wechat.transport
	client.Log, client.Now = s.api.LogWeChat, s.now
	o.Chain = login.Chain{
		WeChat:    client,
		Directory: s.directory, Store: s.store, Sessions: o.Sessions, State: &s.shared.chain, Route: s.wechatKey,
		Settings: s.set.Login,
		Mint:     o.Minter.Mint, Hold: s.Hold, Observe: api.ObserveStep, OnDone: s.api.OnDone,
	}
	return o, nil
}

// now is the time as WeChat has it: a phone number that WeChat dates far from it is
// refused. While this process's clock is wrong it is the database's.
func (s *site) now() time.Time { return time.Now().Add(s.shared.clock.Shift()) }

// verifier returns the verifier in force, for [token.Tokens].
func (s *site) verifier() (*token.Verifier, error) {
	if o := s.open.Load(); o != nil {
		return o.Verifier, nil
	}
	if s.fault.Load() != nil {
		return nil, gate.ErrMisconfigured
	}
	return nil, gate.ErrUnavailable
}

// reloadRing reads the key ring in the background.
func (s *site) reloadRing() {
	release := s.Hold()
	go func() {
		defer release()
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		if err := s.loadRing(ctx); err != nil {
			s.log.Warn("reading the key ring", append(api.Remedy(err), zap.Error(err))...)
		}
	}()
}

// emit hands events to Caddy's events app, if there are handlers for events, in this
// order. The answer is settled by then: a handler can neither change nor delay it.
func (s *site) emit(events ...event.Event) {
	if s.events == nil || len(events) == 0 {
		return
	}
	go func() {
		defer func() {
			if p := recover(); p != nil { // no server recovers it here
				s.log.Error("panic in a handler of events", zap.String("kind", fmt.Sprintf("%T", p)), zap.Stack("stack"))
			}
		}()
		for _, e := range events {
			data := e.Data()
			data["issuer"] = s.set.Token.Issuer
			s.events.Emit(s.ctx, e.Name(), data)
		}
	}()
}
