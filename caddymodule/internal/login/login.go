// Package login runs WeChat's phone-login chain: from the mini program's two
// codes to a user with a session and a token. It knows nothing of HTTP or of
// the Caddyfile, and reaches the store only through the interface it declares.
package login

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
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
	// WeChat names the WeChat that the app belongs to; empty is [wechat.Own]. Another
	// one, such as a simulator, may know the same appid, and give the same codes and
	// openids to other people.
	WeChat string
	// Code is from wx.login, PhoneCode from the phone button. Without PhoneCode
	// the login is silent: it succeeds for an openid or unionid that is known.
	Code, PhoneCode string
	// RefreshToken is that of a session that this login takes the place of. It is
	// ignored unless it is current or in its grace, and the session is of the same
	// user, app and openid. Optional.
	RefreshToken string
	// UserAgent and Address describe the device, for the user's list of sessions.
	UserAgent, Address string
	// Client is the network that the request comes from, as far as it can be told
	// from others': zero behind a proxy that Caddy does not trust.
	Client netip.Prefix
	// Admit is asked once before the login begins; its error ends the login, and
	// neither code is sent. Logins that join one under way are not asked.
	// Optional.
	Admit func() error
}

// siteBits is how much of an IPv6 address names a site: a subscriber may have as
// many /64 networks as a /48 holds, and would be as many clients.
const siteBits = 48

// client distinguishes clients whose failures count for them; empty: they cannot
// be told apart.
func (r Request) client() string {
	if !r.Client.IsValid() {
		return ""
	}
	if r.Client.Addr().Is6() && r.Client.Bits() == 64 {
		return netip.PrefixFrom(r.Client.Addr(), siteBits).Masked().String()
	}
	return r.Client.String()
}

// Result is a login that succeeded.
type Result struct {
	User    user.User
	Session session.Session
	// Token is the access token; RefreshToken buys the next one.
	Token, RefreshToken string
	// Replayed reports that these codes had already opened this session.
	Replayed bool
	// Surplus are the sessions that ended since the user had too many.
	Surplus session.Ended
	// Moved reports that the WeChat account was another user's before.
	Moved bool
	// Committed is what the login changed for others.
	Committed
}

// Store is what a login needs to remember.
type Store interface {
	// Together returns the context for one login. Within it, what the store has read
	// along with one question answers the next, of the store or of a directory in it.
	Together(ctx context.Context) context.Context
	// Known returns what the store knows of the account that logs in.
	Known(ctx context.Context, a Account) (Known, error)
	// Commit ends a login, all in one transaction. user.ErrNewOpenID: the rule refuses;
	// user.ErrDisabled, user.ErrUnknown: the user was disabled or erased meanwhile;
	// ErrChanged, ErrOvertaken, ErrCodeSpent; *Opened: another replica was faster. Then
	// nothing is written.
	Commit(ctx context.Context, c Commit) (Committed, error)

	// Lease reads the results of steps, and leases those that have none and that no other
	// replica has leased to owner, for as long as life. It notes when their codes were
	// first seen. The leases last longer by Renew, and end before their time by Release
	// and Keep.
	Lease(ctx context.Context, owner string, now time.Time, life time.Duration, steps ...Key) ([]Step, error)
	Renew(ctx context.Context, owner string, life time.Duration, steps ...Key) error
	Release(ctx context.Context, owner string, steps ...Key) error
	// Keep stores a step's result, sealed, until expires, and ends the lease of it. With
	// that it may read what Known will be asked next. Kept reads a result.
	Keep(ctx context.Context, step Key, value []byte, expires time.Time, next ...Account) error
	Kept(ctx context.Context, step Key, now time.Time) (value []byte, ok bool, err error)
}

// WeChat is what a login asks of WeChat; *wechat.Client implements it.
type WeChat interface {
	Code2Session(ctx context.Context, app wechat.App, code string) (wechat.Session, error)
	WarmToken(ctx context.Context, app wechat.App) error
	PhoneNumber(ctx context.Context, app wechat.App, code, openid string) (wechat.PhoneNumber, error)
}

// State is what logins share over reloads. The zero value is ready to use.
type State struct {
	upstreams upstreams

	naming sync.Once
	name   string // see replica

	logins  singleflight
	locks   locks   // the steps that this process is at
	pending pending // results that the store could not take
	sent    recent  // the steps whose codes were sent and not answered
	created recent  // the users of logins that created them and could not be committed
}

// Settings are what a configuration says about logins.
type Settings struct {
	// Silent is for how long after its last phone login an openid may log in
	// with its login code alone; zero: never.
	Silent time.Duration
	// NewOpenID is the rule for a known user's other openid in the same app.
	NewOpenID user.NewOpenID
}

// Chain is a way to log in: the settings of one configuration and what all
// share. All fields but Observe, OnDone and Now are required.
type Chain struct {
	WeChat    WeChat
	Directory user.Directory
	Store     Store
	Sessions  session.Sessions
	State     *State
	// Route names the way to WeChat: its hosts, and where access tokens come from.
	// What fails on one way says nothing of another.
	Route string

	Settings
	// Mint makes the access token.
	Mint func(s session.Session, u user.User, now time.Time) (string, error)
	// Hold keeps what the chain works with open until the returned function is
	// called: a login outlives the request, and the configuration, it came with.
	Hold func() (release func())
	// Observe is called with how long each step took. Optional.
	Observe func(ctx context.Context, step string, took time.Duration, err error)
	// OnDone is called once for each login, however many clients joined it, and also if
	// all of them have hung up. ctx carries the values of the first. The error is an
	// *Error or a *Panic. Optional.
	OnDone func(ctx context.Context, r Request, res Result, err error)
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Login takes a login from its codes to a token. The same codes sent again
// meanwhile, or within a minute, get the same session. The error is an *Error,
// a *Panic, or ctx's cause if the caller hung up: the login itself then goes on,
// so that a second try finds its result. An error of Request.Admit is returned as
// it is.
func (c *Chain) Login(ctx context.Context, r Request) (Result, error) {
	k := keyOf("login", r.parts(c.Sessions.Issuer, c.Sessions.FirstAudience(), r.App.ID, r.Code, r.PhoneCode)...)
	return c.State.logins.join(ctx, k, c.Hold, func(ctx context.Context) (res Result, err error) {
		if r.Admit != nil {
			if err := r.Admit(); err != nil {
				return Result{}, err
			}
		}
		defer func() {
			if p := recover(); p != nil {
				res, err = Result{}, panicked(p)
			}
			if c.OnDone != nil {
				c.OnDone(ctx, r, res, err)
			}
		}()
		if res, err = c.run(ctx, r, k); err != nil && errors.Is(err, ctx.Err()) && !errors.As(err, new(*Error)) {
			// The time is up while a step is still under way: a second try joins it.
			err = refuse(problem.WeChatTimeout, err)
		}
		return res, err
	})
}

// maxAsks bounds how often the directory is asked in one login.
const maxAsks = 4

// run is the chain, in order. Replicas that have the same codes take turns at each
// step, and the first that opens a session opens the one of all.
func (c *Chain) run(ctx context.Context, r Request, k Key) (res Result, err error) {
	if r.PhoneCode == "" && c.Silent == 0 {
		return Result{}, refuse(problem.PhoneRequired, nil)
	}
	ctx = c.Store.Together(ctx)
	l, err := c.exchange(ctx, r, k)
	if err != nil {
		return Result{}, err
	}
	if res, err = c.finish(ctx, l); err != nil {
		return Result{}, err
	}
	res.RefreshToken = c.Sessions.Keys.RefreshToken(res.Session)
	return res, nil
}

// underway is a login whose codes have been exchanged.
type underway struct {
	r     Request
	key   Key // of both codes
	who   caller
	phone user.Phone // zero at a silent login
	begun time.Time  // see Commit
	again replayed   // the session that these codes have opened already
}

// exchange does both steps, or finds their results.
func (c *Chain) exchange(ctx context.Context, r Request, k Key) (l underway, err error) {
	s := c.steps(r)
	defer func() { s.end(ctx, err) }()
	l = underway{r: r, key: k}
	if l.who, l.again, err = c.identify(ctx, s, r, k); err != nil {
		return l, err
	}
	l.phone, l.begun, err = c.phone(ctx, s, r, l.who)
	return l, err
}

// finish asks the directory who this is and opens the session. What the answer was
// based on may change before the session opens; then the directory is asked again.
func (c *Chain) finish(ctx context.Context, l underway) (res Result, err error) {
	erased := ""
	for range maxAsks {
		var a admitted
		if a, err = c.admit(ctx, l); err != nil {
			return Result{}, err
		}
		if a.user.ID == erased {
			return Result{}, c.overtaken(l, user.ErrUnknown)
		}
		res, err = c.open(ctx, l, a)
		switch {
		case errors.Is(err, user.ErrUnknown):
			erased = a.user.ID // the directory may make another user of this number
		case !errors.Is(err, ErrChanged):
			return res, err
		}
	}
	if erased != "" {
		return Result{}, c.overtaken(l, user.ErrUnknown)
	}
	return Result{}, fromStore(err)
}

// overtaken refuses a login which something that came later has made void: the user
// was erased, or another account has logged in with the number. The codes were seen
// before that, so only fresh ones can succeed.
func (c *Chain) overtaken(l underway, cause error) *Error {
	if l.phone.IsZero() {
		return refuse(problem.PhoneRequired, cause)
	}
	return refuse(problem.PhoneCodeInvalid, cause, wechat.RenewCode, wechat.RenewPhoneCode)
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
