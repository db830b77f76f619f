package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/api"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/gate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/storestate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// site is a running directive: its settings, and its references to the pooled state that it
// shares with other sites.
type site struct {
	set    settings
	log    *zap.Logger
	ctx    caddy.Context
	events *caddyevents.App
	api    api.Server

	app      *Background
	storeKey storeKey
	state    *storeState
	*storestate.Opener[api.Opened]
	store     *store.Store
	users     user.Directory // the external directory, or nil for the store's own users
	directory account.Directory
	ringKey   ringKey
	ring      *token.Ring // nil if the signing key is configured
	cacheKey  string
	cache     *token.Cache
	wechatKey string
	wechat    *wechatState
	gate      *gate.Gate
	tokens    token.Tokens

	ringSet       *token.RingSettings // merged settings of all sites with this ring; constant after provisioning
	directoryName directoryName
	names         store.Names
	noStoreLine   bool   // the configuration has no line store, so this is the default store
	identity      string // the identity of the open database; guarded by the app
}

// newSite acquires what a directive needs. users is an external directory, or nil. newSite
// does no I/O.
func newSite(ctx caddy.Context, app *Background, set settings, users user.Directory, name directoryName) (*site, error) {
	s := &site{
		set: set, log: ctx.Logger(), ctx: ctx, app: app, users: users, directoryName: name, names: set.storeNames(name),
		storeKey: storeKey{set.Store.URL, set.Store.TablePrefix},
	}
	set.TestLogin.warnExpired(s.log, time.Now())
	set.warnUseless(s.log)
	var err error
	if s.gate, err = gate.New(set.Gate, &s.tokens); err != nil {
		return nil, err
	}
	if s.state, err = acquireStore(s.storeKey); err != nil {
		return nil, err
	}
	s.store = s.state.DB.With(set.EncryptionKeys)
	if !set.Store.Migrate {
		s.store = s.state.DB.WithTables(set.EncryptionKeys)
	}
	if users != nil {
		s.directory = s.store.ExternalUsers(user.Checked(users), s.set.Session)
	} else {
		s.directory = s.store.Users(set.Register, s.set.Session).Countries(set.Countries)
	}
	if set.Token.Static == nil {
		s.ringKey = ringKey{s.storeKey, set.Token.Algorithm}
		s.ring = acquireRing(s.ringKey)
	}
	s.tokens = token.Tokens{
		Static: set.Token.Static, Ring: s.ring, Verifier: s.verifier, Ended: s.state.Revoked.Contains, ReloadRing: s.reloadRing,
	}
	s.cacheKey, s.cache = acquireCache(set.Token.Policy, s.storeKey, s.keysName(), set.TestLogin.name())
	s.wechatKey, s.wechat = acquireWeChat(set.WeChat, s.storeKey)
	s.api = api.Server{
		Settings: s.apiSettings(), Host: host, Opening: s, State: &s.state.api, Gate: s.gate, Keys: s.tokens.Keys,
		Store: s.store, Directory: s.directory, Log: s.log, Emit: s.emit, Metrics: app.metrics,
	}
	for _, a := range set.Apps {
		app.metrics.Serves(a.ID, set.WeChat.nameOf(a.ID))
	}
	s.Opener = storestate.NewOpener(storestate.Site[api.Opened]{
		State: s.state.State, Store: s.store, Names: s.names, Find: name.find, Log: s.log,
		Identified: func(identity string) error { return app.identified(s, identity) },
		LoadRing:   s.loadRing, KeysLoaded: func() bool { return s.tokens.Keys() != nil }, Assemble: s.assemble,
		Explain:     func(err error) error { return withRemedy(err, name) },
		FindChanged: func() { name.warnFindChanged(s.log) },
	})
	return s, nil
}

// host is how the endpoints ask Caddy about a request and the process.
var host = api.Host{ClientIP: clientIP, TrustedProxy: trustedProxy, RequestID: requestID, Exiting: caddy.Exiting}

func (s *site) apiSettings() api.Settings {
	set := api.Settings{
		Prefix: s.set.Endpoints, Apps: make(map[string]api.App), Cookie: s.set.Gate.Sources.Cookie, LoginRate: s.set.LoginRate,
		External: s.users != nil,
	}
	for _, a := range s.set.Apps {
		set.Apps[a.ID] = api.App{App: a, WeChat: s.set.WeChat.nameOf(a.ID), Push: s.set.Pushes[a.ID], EraseRevoked: slices.Contains(s.set.EraseRevoked, a.ID)}
	}
	if t := s.set.TestLogin; t != nil {
		set.TestLogin = &api.TestLogin{Secret: t.Secret.is, Phone: t.Phone, Until: t.Until}
	}
	if s.set.Service != nil {
		set.ServiceKey = s.set.Service.is
	}
	return set
}

// keysName identifies the signing keys of this site, as a part of the key of its token cache.
// Without it, sites that differ only in their keys would keep emptying each other's cache.
func (s *site) keysName() string {
	if s.ring == nil {
		return fmt.Sprintf("%p", s.set.Token.Static)
	}
	return string(s.set.Token.Algorithm)
}

// close releases what newSite acquired.
func (s *site) close() error {
	if s.ring != nil {
		_, _ = ringPool.Delete(s.ringKey)
	}
	_, _ = cachePool.Delete(s.cacheKey)
	_, err := wechatPool.Delete(s.wechatKey)
	_, err2 := storePool.Delete(s.storeKey)
	return errors.Join(err, err2)
}

// Hold keeps the store and the connections open for a login that outlives the configuration.
func (s *site) Hold() (release func()) {
	if _, err := acquireStore(s.storeKey); err != nil {
		return func() {}
	}
	_, _ = acquireWeChat(s.set.WeChat, s.storeKey)
	releaseUsers := func() {}
	if h, ok := s.users.(UsersHolder); ok {
		releaseUsers = h.Hold()
	}
	return func() {
		releaseUsers()
		_, _ = wechatPool.Delete(s.wechatKey)
		_, _ = storePool.Delete(s.storeKey)
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
		// Connections that were opened with tokens of a compromised key must end too.
		s.state.Revoked.EndWatched()
	}
	return err
}

// assemble creates the objects that need the store's encryption keys.
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
	policy, test := t.Policy, session.TestLogin{}
	if set := s.set.TestLogin; set != nil {
		test = session.TestLogin{Marks: refresh.Marks(set.whose()), Until: set.Until}
		policy.Test = token.TestLogin(test)
	}
	o := &api.Opened{
		Verifier: token.NewVerifier(policy, seal, s.cache),
		Minter: login.Minter{
			Keys: s.tokens.Keys, Seal: seal, Type: t.Type, Issuer: t.Issuer, Audience: t.Audience,
			Lifetime: t.Lifetime, Plain: t.Claims, Check: s.gate.CheckValues,
		},
		Sessions: session.Sessions{
			Store: s.store, Keys: refresh, Issuer: t.Issuer, Audience: t.Audience, Apps: t.Apps, Revoked: s.state.Revoked,
			Allow: s.api.AllowRefresh, Advanced: s.api.CountRefresh, Settings: s.set.Session,
			Test: test,
		},
	}
	o.Accounts = account.Accounts{Directory: s.directory, Store: s.store, Sessions: o.Sessions, Mint: o.Minter.Mint, Emit: s.emit}
	client := s.set.WeChat.client()
	client.Tokens, client.Shared, client.Transport = s.wechat.tokens, sharedTokens{s.store}, s.wechat.transport
	// The client refuses a phone number whose date from WeChat is far from this time.
	client.Log, client.Now, client.Observer = s.api.LogWeChat, s.state.Now, s.wechat
	o.Chain = login.Chain{
		WeChat:    client,
		Directory: s.directory, Store: s.store, Sessions: o.Sessions, State: &s.state.login, Route: s.wechatKey,
		Settings: s.set.Login,
		Mint:     o.Minter.Mint, Hold: s.Hold, Observe: api.ObserveStep, OnDone: s.api.OnDone, OnPhoneChange: s.api.OnPhoneChange,
		OnRevoked: s.api.OnRevoked, OnPanic: s.api.OnPanic, PhoneCode: s.app.metrics.PhoneCode,
	}
	if s.set.TestLogin != nil {
		o.Accounts.TestPhone = s.set.TestLogin.Phone
	}
	o.Chain.External, o.Chain.PhonesFixed = s.users != nil, !s.set.WeChat.SendOpenID
	return o, nil
}

// verifier returns the current verifier, as [token.Tokens] asks for it.
func (s *site) verifier() (*token.Verifier, error) {
	if o := s.Opened(); o != nil {
		return o.Verifier, nil
	}
	if s.Misconfigured() {
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
			logRing(s.log, err)
		}
	}()
}

// emit hands events to Caddy's events app, in this order, if any module handles events. The
// client's answer is final by then: a handler can neither change nor delay it.
func (s *site) emit(events ...event.Event) {
	if s.events == nil || len(events) == 0 {
		return
	}
	go func() {
		defer func() {
			if p := recover(); p != nil { // no server recovers panics in this goroutine
				s.log.Error("panic in a handler of events", zap.String("kind", fmt.Sprintf("%T", p)), zap.Stack("stack"),
					remedy.Bug.Field("the module that handles events has a fault: the stack names it"))
			}
		}()
		for _, e := range events {
			data := e.Data()
			data["issuer"] = s.set.Token.Issuer
			s.events.Emit(s.ctx, e.Name(), data)
		}
	}()
}
