// Package login runs WeChat's phone-login chain: from the mini program's two
// codes to a user with a session and a token. It knows nothing of HTTP or of
// the Caddyfile, and reaches the store only through the interface it declares.
package login

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// maxLogin bounds a whole login, which goes on when the client has hung up:
// every call to WeChat at its slowest, with the retries that the rules allow.
const maxLogin = 60 * time.Second

// Request is what a mini program sends to log in.
type Request struct {
	// App is the mini program that the codes belong to.
	App wechat.App
	// Code is from wx.login, PhoneCode from the phone button. Without PhoneCode
	// the login is silent: it succeeds for an openid or unionid that is known.
	Code, PhoneCode string
	// UserAgent and Address describe the device, for the user's list of sessions.
	UserAgent, Address string
}

// Result is a login that succeeded.
type Result struct {
	User    user.User
	Session session.Session
	// Token is the access token; RefreshToken buys the next one.
	Token, RefreshToken string
	// Replayed reports that these codes had already opened this session.
	Replayed bool
	// Ended lists the sessions that ended because their openid lost its binding.
	Ended []string
}

// Store is what a login needs to remember.
type Store interface {
	// Binding returns whom the openid is bound to in the app.
	Binding(ctx context.Context, appid, openid string) (user.Binding, bool, error)
	// BindingByUnionID returns, of the unionid's bindings in all apps, the one
	// with the latest phone login.
	BindingByUnionID(ctx context.Context, unionid string) (user.Binding, bool, error)
	// UserBinding returns the newest openid of the user in the app.
	UserBinding(ctx context.Context, appid, userID string) (user.Binding, bool, error)
	// Settle binds the openid and opens the session in one transaction, and ends
	// the sessions that the rule ends. user.ErrNewOpenID: the rule refuses;
	// user.ErrDisabled, user.ErrUnknown: so was the user meanwhile.
	Settle(ctx context.Context, b user.Binding, rule user.NewOpenID, s session.Session, until time.Time) (ended []string, err error)

	// Keep stores a step's result, sealed, until expires; Kept reads it; Forget
	// erases it.
	Keep(ctx context.Context, key Key, value []byte, expires time.Time) error
	Kept(ctx context.Context, key Key, now time.Time) (value []byte, ok bool, err error)
	Forget(ctx context.Context, key Key) error
}

// WeChat is what a login asks of WeChat; *wechat.Client implements it.
type WeChat interface {
	Code2Session(ctx context.Context, app wechat.App, code string) (wechat.Session, error)
	WarmToken(ctx context.Context, app wechat.App) error
	PhoneNumber(ctx context.Context, app wechat.App, code, openid string) (wechat.PhoneNumber, error)
}

// State is what logins share over reloads. The zero value is ready to use.
type State struct {
	// Refused counts the logins that WeChat refused, by client; Refreshes the
	// refreshes, by session.
	Refused   Limiter[netip.Prefix]
	Refreshes Limiter[string]

	sessions, numbers valve // before jscode2session and getuserphonenumber

	held    held
	logins  flights[Result]
	callers flights[caller]
	phones  flights[owned]
}

// Chain is a way to log in: the settings of one configuration and what all
// share. All fields but Observe, Settled and Now are required.
type Chain struct {
	WeChat    WeChat
	Directory user.Directory
	Store     Store
	Sessions  session.Sessions
	State     *State

	// Silent is for how long after its last phone login an openid may log in
	// with its login code alone; zero: never.
	Silent time.Duration
	// NewOpenID is the rule for a known user's other openid in the same app.
	NewOpenID user.NewOpenID
	// Mint makes the access token.
	Mint func(s session.Session, u user.User, now time.Time) (string, error)
	// Hold keeps what the chain works with open until the returned function is
	// called: a login outlives the request, and the configuration, it came with.
	Hold func() (release func())
	// Observe is told how long each step took. Optional.
	Observe func(ctx context.Context, step string, took time.Duration, err error)
	// Settled is told how each login ended: once, however many asked for it, and
	// also if all of them have hung up. ctx carries the values of the first. The
	// error is an *Error or a *Panic. Optional.
	Settled func(ctx context.Context, r Request, res Result, err error)
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Login takes a login from its codes to a token. The same codes sent again
// meanwhile, or within a minute, get the same session. The error is an *Error,
// a *Panic, or ctx's cause if the caller hung up: the login itself then goes on,
// so that a second try finds its result.
func (c *Chain) Login(ctx context.Context, r Request) (Result, error) {
	k := keyOf("login", c.Sessions.Issuer, r.App.ID, r.Code, r.PhoneCode)
	return c.State.logins.join(ctx, k, c.Hold, func(ctx context.Context) (res Result, err error) {
		defer func() {
			if p := recover(); p != nil {
				res, err = Result{}, panicked(p)
			}
			if c.Settled != nil {
				c.Settled(ctx, r, res, err)
			}
		}()
		if res, err = c.run(ctx, r, k); err != nil && errors.Is(err, ctx.Err()) && !errors.As(err, new(*Error)) {
			// The time is up while a step is still under way: a second try joins it.
			err = refuse(WeChatTimeout, err)
		}
		return res, err
	})
}

// run is the chain, in order.
func (c *Chain) run(ctx context.Context, r Request, k Key) (Result, error) {
	if r.PhoneCode == "" && c.Silent == 0 {
		return Result{}, refuse(PhoneRequired, nil)
	}
	var again replayed
	if _, err := c.kept(ctx, k, &again); err != nil {
		return Result{}, fromStore(err)
	}
	who, err := c.identify(ctx, r, again)
	if err != nil {
		return Result{}, err
	}
	phone, err := c.phone(ctx, r, who)
	if err != nil {
		return Result{}, err
	}
	u, bound, err := c.admit(ctx, r, who, phone)
	if err != nil {
		return Result{}, err
	}
	res, err := c.open(ctx, r, k, u, bound, again)
	if err != nil {
		return Result{}, err
	}
	res.RefreshToken = c.Sessions.Keys.RefreshToken(res.Session)
	res.User = u
	return res, nil
}

// identify learns who sent the login code.
//
// Codes that have opened a session already do without WeChat, and alone: who
// comes with this login code but another phone code must not learn from them
// whose it was.
func (c *Chain) identify(ctx context.Context, r Request, again replayed) (caller, error) {
	k := loginStep(r)
	if again.SessionID != "" {
		var who caller
		switch ok, err := c.kept(ctx, k, &who); {
		case err != nil:
			return caller{}, fromStore(err)
		case ok:
			return who, nil
		}
		return c.identifyAgain(ctx, again)
	}
	return c.State.callers.join(ctx, k, c.Hold, func(ctx context.Context) (caller, error) {
		var who caller
		switch ok, err := c.kept(ctx, k, &who); {
		case err != nil:
			return caller{}, fromStore(err)
		case ok:
			return who, nil
		}
		who, err := c.askCaller(ctx, r)
		if err != nil {
			// Used, perhaps, by another replica that had it at the same time.
			if ok, _ := c.keptMeanwhile(ctx, err, k, &who); ok {
				return who, nil
			}
			return caller{}, err
		}
		// Whatever fails from here on, this code is not asked for again.
		if err := c.keep(ctx, k, who, keepFor); err != nil {
			return caller{}, fromStore(err)
		}
		return who, nil
	})
}

// askCaller exchanges the login code. Where a phone code follows, the access
// token is fetched beside it, so that the two do not add up.
func (c *Chain) askCaller(ctx context.Context, r Request) (caller, error) {
	var warm errgroup.Group
	if r.PhoneCode != "" {
		warm.Go(func() error {
			return c.observed(ctx, "access_token", func() error { return c.WeChat.WarmToken(ctx, r.App) })
		})
	}
	var s wechat.Session
	err := c.observed(ctx, "jscode2session", func() error {
		return c.State.sessions.do(ctx, r.App.ID, c.now, func() (err error) {
			s, err = c.WeChat.Code2Session(ctx, r.App, r.Code)
			return err
		})
	})
	// The phone step asks for the access token again and meets its error, if
	// any: by then this code's result is kept.
	_ = warm.Wait()
	if err != nil {
		return caller{}, err
	}
	return caller{OpenID: s.OpenID, UnionID: s.UnionID}, nil
}

// identifyAgain takes the caller from the session that these codes opened
// within the last minute. A session that has ended meanwhile is not revived.
func (c *Chain) identifyAgain(ctx context.Context, again replayed) (caller, error) {
	s, err := c.Sessions.Store.Session(ctx, again.SessionID)
	switch {
	case errors.Is(err, session.ErrNotFound):
		return caller{}, refuse(LoginCodeInvalid, nil, wechat.RenewCode)
	case err != nil:
		return caller{}, fromStore(err)
	case c.over(s):
		return caller{}, refuse(LoginCodeInvalid, nil, wechat.RenewCode)
	}
	return caller{OpenID: s.OpenID, UnionID: s.UnionID}, nil
}

// phone exchanges the phone code, which has been paid for: its result is kept
// before anything else can fail. A silent login has none.
//
// One phone code is exchanged by one login at a time. Somebody else's try with
// it, which WeChat refuses, must not become the owner's answer, nor the owner's
// theirs: who finds another's under way waits for its end and looks again.
func (c *Chain) phone(ctx context.Context, r Request, who caller) (user.Phone, error) {
	if r.PhoneCode == "" {
		return user.Phone{}, nil
	}
	k := phoneStep(r)
	for {
		own, err := c.State.phones.join(ctx, k, c.Hold, func(ctx context.Context) (owned, error) {
			return c.exchange(ctx, r, k, who)
		})
		if own.OpenID == who.OpenID || ctx.Err() != nil || errors.As(err, new(*Panic)) {
			return own.Phone, err
		}
	}
}

// exchange is the phone step of one caller, whose openid is in the result also
// where there is an error.
func (c *Chain) exchange(ctx context.Context, r Request, k Key, who caller) (owned, error) {
	var own owned
	ok, err := c.kept(ctx, k, &own)
	if err != nil {
		return owned{OpenID: who.OpenID}, fromStore(err)
	}
	var p user.Phone
	if !ok {
		if p, err = c.askPhone(ctx, r, who); err != nil {
			// As with the login code.
			if ok, _ = c.keptMeanwhile(ctx, err, k, &own); !ok {
				return owned{OpenID: who.OpenID}, err
			}
		}
	}
	switch {
	case ok && own.OpenID != who.OpenID:
		e := refuse(PhoneCodeInvalid, nil, wechat.RenewCode, wechat.RenewPhoneCode)
		e.Refused = true
		return owned{OpenID: who.OpenID}, e
	case ok:
		return own, nil
	}
	own = owned{OpenID: who.OpenID, Phone: p}
	if err := c.keep(ctx, k, own, keepFor); err != nil {
		return owned{OpenID: who.OpenID}, fromStore(err)
	}
	return own, nil
}

func (c *Chain) askPhone(ctx context.Context, r Request, who caller) (user.Phone, error) {
	var number wechat.PhoneNumber
	err := c.observed(ctx, "getuserphonenumber", func() error {
		return c.State.numbers.do(ctx, r.App.ID, c.now, func() (err error) {
			number, err = c.WeChat.PhoneNumber(ctx, r.App, r.PhoneCode, who.OpenID)
			return err
		})
	})
	if err != nil {
		return user.Phone{}, err
	}
	p, err := user.ParsePhone(number.CountryCode, number.PurePhoneNumber)
	if err != nil {
		return user.Phone{}, refuse(WeChatError, err, wechat.RenewPhoneCode)
	}
	return p, nil
}

// admit asks the directory who this is. Our own binding goes first, then the
// unionid's; the directory is given both what is bound and the number.
func (c *Chain) admit(ctx context.Context, r Request, who caller, phone user.Phone) (user.User, user.Binding, error) {
	known, err := c.known(ctx, r.App.ID, who)
	if err != nil {
		return user.User{}, user.Binding{}, err
	}
	now := c.now()
	if phone.IsZero() && known.UserID != "" && now.Sub(known.PhoneAt) > c.Silent {
		return user.User{}, user.Binding{}, refuse(PhoneRequired, nil)
	}
	var u user.User
	err = c.observed(ctx, "directory", func() error {
		u, err = c.Directory.Login(ctx, user.Login{
			ID: directoryID(c.Sessions.Issuer, r), AppID: r.App.ID, OpenID: who.OpenID, UnionID: who.UnionID,
			Phone: phone, UserID: known.UserID,
			Rebound: !phone.IsZero() && !known.Phone.IsZero() && phone != known.Phone,
		})
		return err
	})
	if err != nil {
		return user.User{}, user.Binding{}, fromDirectory(err)
	}
	if u.Disabled {
		if _, err := c.Sessions.EndUser(ctx, u.ID, now); err != nil {
			return user.User{}, user.Binding{}, fromStore(err)
		}
		return user.User{}, user.Binding{}, refuse(UserDisabled, nil)
	}
	b := user.Binding{AppID: r.App.ID, OpenID: who.OpenID, UnionID: who.UnionID, UserID: u.ID, PhoneAt: now}
	if phone.IsZero() && u.ID == known.UserID {
		b.PhoneAt = known.PhoneAt // a silent login does not prolong itself
		phone = known.Phone
	}
	if u.Phone.IsZero() { // the directory tells none: it is the one that WeChat has told
		u.Phone, b.Phone = phone, phone
	}
	return u, b, nil
}

// known returns the binding of the caller's openid in this app, or else one of
// their unionid in another. The unionid counts only where the user has no
// openid in this app yet: if they have another, that one replaced this caller,
// whose number somebody else may hold by now.
func (c *Chain) known(ctx context.Context, appid string, who caller) (user.Binding, error) {
	b, ok, err := c.Store.Binding(ctx, appid, who.OpenID)
	if err != nil {
		return user.Binding{}, fromStore(err)
	}
	if ok || who.UnionID == "" {
		return b, nil
	}
	b, ok, err = c.Store.BindingByUnionID(ctx, who.UnionID)
	if err != nil {
		return user.Binding{}, fromStore(err)
	}
	if !ok {
		return user.Binding{}, nil
	}
	_, taken, err := c.Store.UserBinding(ctx, appid, b.UserID)
	if err != nil {
		return user.Binding{}, fromStore(err)
	}
	if taken {
		return user.Binding{}, nil
	}
	return b, nil
}

// open binds the openid and opens the session in one transaction, or finds the
// session that these codes have opened already.
func (c *Chain) open(ctx context.Context, r Request, k Key, u user.User, b user.Binding, again replayed) (Result, error) {
	now := c.now()
	if again.SessionID != "" {
		s, err := c.Sessions.Store.Session(ctx, again.SessionID)
		switch {
		case errors.Is(err, session.ErrNotFound): // named, but never opened
		case err != nil:
			return Result{}, fromStore(err)
		case c.over(s):
			return Result{}, refuse(LoginCodeInvalid, nil, wechat.RenewCode)
		case s.UserID == u.ID:
			token, err := c.mint(s, u, now)
			return Result{Session: s, Token: token, Replayed: true}, err
		}
	}
	s := session.New(session.Session{
		UserID: u.ID, Issuer: c.Sessions.Issuer, AppID: b.AppID, OpenID: b.OpenID, UnionID: b.UnionID,
		UserAgent: r.UserAgent, Address: r.Address,
	}, c.Sessions.Settings, now)
	// First: what cannot be in a token must not leave a session behind.
	token, err := c.mint(s, u, now)
	if err != nil {
		return Result{}, err
	}
	// Named before it is opened: should the answer get lost, the same codes find it.
	if err := c.keep(ctx, k, replayed{s.ID}, replayFor); err != nil {
		return Result{}, fromStore(err)
	}
	until := c.Sessions.Settings.Until(now)
	var ended []string
	err = c.observed(ctx, "session", func() (err error) {
		ended, err = c.Store.Settle(ctx, b, c.NewOpenID, s, until)
		return err
	})
	switch {
	case errors.Is(err, user.ErrNewOpenID):
		return Result{}, refuse(NewOpenIDDenied, nil)
	case errors.Is(err, user.ErrDisabled):
		return Result{}, refuse(UserDisabled, nil)
	case err != nil: // also user.ErrUnknown: erased meanwhile; the next try makes a new user
		return Result{}, fromStore(err)
	}
	for _, id := range ended {
		c.Sessions.Revoked.Add(id, until)
	}
	// The login code has bought its session: from here on only the same pair
	// finds it, and only while the session lives.
	if err := c.forget(ctx, loginStep(r)); err != nil {
		return Result{}, fromStore(err)
	}
	return Result{Session: s, Token: token, Ended: ended}, nil
}

func (c *Chain) mint(s session.Session, u user.User, now time.Time) (string, error) {
	token, err := c.Mint(s, u, now)
	if err != nil {
		return "", refuse(Misconfigured, fmt.Errorf("minting the token: %w", err))
	}
	return token, nil
}

// over reports whether a session has ended: in the store, by what this process
// has seen, or by its age.
func (c *Chain) over(s session.Session) bool {
	return !s.EndedAt.IsZero() || c.Sessions.Revoked.Contains(s.ID) || !c.now().Before(s.ExpiresAt)
}

func (c *Chain) observed(ctx context.Context, step string, do func() error) error {
	start := time.Now()
	err := do()
	if c.Observe != nil {
		c.Observe(ctx, step, time.Since(start), err)
	}
	return err
}

func (c *Chain) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

func loginStep(r Request) Key { return keyOf("code", r.App.ID, r.Code) }
func phoneStep(r Request) Key { return keyOf("phone", r.App.ID, r.PhoneCode) }

// directoryID names a login to the directory: the same for every try with the
// phone code, which is paid for once, or of a silent login with the login code.
func directoryID(issuer string, r Request) string {
	k := keyOf("directory", issuer, r.App.ID, r.PhoneCode)
	if r.PhoneCode == "" {
		k = keyOf("directory", issuer, r.App.ID, "", r.Code)
	}
	return base64.RawURLEncoding.EncodeToString(k[:18])
}
