// Package login runs WeChat's phone-login chain, from the mini program's two codes to a
// user with a session and a token. It knows nothing of HTTP or of the Caddyfile, and
// uses the store only through the interface that it declares.
package login

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/span"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// maxLogin bounds a whole login, which goes on even if the client hangs up: all calls
// to WeChat at their slowest, with the allowed retries.
const maxLogin = 60 * time.Second

// Request is a mini program's request to log in.
type Request struct {
	// App is the mini program to which the codes belong.
	App wechat.App
	// WeChat names the WeChat to which the app belongs; empty means [wechat.Own].
	// Another WeChat, such as a simulator, may know the same appid and give the same
	// codes and openids to other people.
	WeChat string
	// Code comes from wx.login, PhoneCode from the phone button. Without PhoneCode the
	// login is silent, and succeeds only for a known openid or unionid.
	Code, PhoneCode string
	// RefreshToken belongs to a session that this login replaces. It is ignored unless
	// it is current or in its grace and the session has the same user, app and openid.
	// Optional.
	RefreshToken string
	// UserAgent and Address describe the device, for the user's list of sessions.
	UserAgent, Address string
	// Client is the client's network. It is zero if clients cannot be told apart, as
	// behind a proxy that Caddy does not trust.
	Client netip.Prefix
	// Admit is called once before the login begins. If it returns an error, the login
	// ends with that error and neither code is sent. It is not called for requests that
	// join a login under way. Optional.
	Admit func() error
	// MayAsk is called each time before the directory is asked about a login, with the openid
	// that WeChat has named. Its error ends the login with an *Error that wraps it; what the
	// codes gave stays kept. Optional.
	MayAsk func(openid string) error
}

// siteBits is the length of the prefix of an IPv6 address that counts as one client
// here. A subscriber may have a whole /48, and with it many /64 networks, which would
// otherwise be as many clients.
const siteBits = 48

// client returns a name for the client whose failures are counted. It is empty if
// clients cannot be told apart.
func (r Request) client() string {
	if !r.Client.IsValid() {
		return ""
	}
	if r.Client.Addr().Is6() && r.Client.Bits() == 64 {
		return netip.PrefixFrom(r.Client.Addr(), siteBits).Masked().String()
	}
	return r.Client.String()
}

// holder returns a name for the client whose calls under way are counted. Where clients are
// not known, it is the session of the login's refresh token, or else empty.
func (c *Chain) holder(r Request) string {
	if who := r.client(); who != "" {
		return who
	}
	id, _ := c.Sessions.Keys.SessionOf(r.RefreshToken)
	return id
}

// Result is a successful login.
type Result struct {
	User    user.User
	Session session.Session
	// Token is the access token. RefreshToken is for the next one.
	Token, RefreshToken string
	// Replayed means that these codes had already opened this session.
	Replayed bool
	// Surplus are the sessions that ended because the user had too many.
	Surplus session.Ended
	// Moved means that the WeChat account belonged to another user before.
	Moved bool
	// Committed holds the changes of the login to others.
	Committed
}

// Store is the part of the store that a login needs.
type Store interface {
	// Together returns a context for one login. Within it, what the store has read
	// along with one question answers the next question, also one of a directory in the
	// store.
	Together(ctx context.Context) context.Context
	// Known returns what the store knows about the account that logs in.
	Known(ctx context.Context, a Account) (Known, error)
	// Commit writes a login in one transaction. If it returns an error, nothing was
	// written: user.ErrNewOpenID if the rule refuses; user.ErrDisabled or
	// user.ErrUnknown if the user was disabled or erased meanwhile; ErrChanged,
	// ErrOvertaken or ErrCodeSpent; *Opened if another replica was faster.
	Commit(ctx context.Context, c Commit) (Committed, error)
	// ChangePhone makes a change of number in one transaction. If it returns an error,
	// nothing was changed: session.ErrEnded if the session is over; user.ErrDisabled or
	// user.ErrUnknown; user.ErrPhoneTaken; ErrChangedSince. BeginPhoneChange checks the
	// same. It changes nothing, and for as long as life keeps logins from trusting what
	// an external directory answers about the user. ChangePhone then returns ErrChanging
	// if another change of the user has begun since.
	ChangePhone(ctx context.Context, c PhoneChange) (PhoneChanged, error)
	BeginPhoneChange(ctx context.Context, c PhoneChange, life time.Duration) (PhoneChanged, error)
	// CommitTest opens the session of a test login. Its errors are those of Commit, and
	// ErrBound.
	CommitTest(ctx context.Context, c Commit) (Committed, error)

	// Lease reads the results of steps. It leases to owner, for as long as life, each
	// step that has no result and is not leased by another replica, and records when
	// its code was first seen. Renew extends the leases; Release and Keep end them.
	Lease(ctx context.Context, owner string, now time.Time, life time.Duration, steps ...Key) ([]Step, error)
	Renew(ctx context.Context, owner string, life time.Duration, steps ...Key) error
	Release(ctx context.Context, owner string, steps ...Key) error
	// Keep stores a step's result, encrypted, until expires, and ends its lease. At the
	// same time it may read what Known will be asked next. KeepLight does not wait for
	// the disk: a crash of the database may undo it until a durable write follows.
	// Kept reads a result.
	Keep(ctx context.Context, step Key, value []byte, expires time.Time, next ...Account) error
	KeepLight(ctx context.Context, step Key, value []byte, expires time.Time, next ...Account) error
	Kept(ctx context.Context, step Key, now time.Time) (value []byte, ok bool, err error)
}

// WeChat is the part of WeChat's API that a login needs; *wechat.Client implements it.
type WeChat interface {
	Code2Session(ctx context.Context, app wechat.App, code string) (wechat.Session, error)
	WarmToken(ctx context.Context, app wechat.App) error
	PhoneNumber(ctx context.Context, app wechat.App, code, openid string) (wechat.PhoneNumber, error)
}

// State is the state that logins share over reloads. The zero value is ready to use.
type State struct {
	upstreams upstreams

	naming sync.Once
	name   string // see replica

	logins  singleflight
	locks   locks   // the steps on which this process is working
	pending pending // results that the store could not take
	sent    recent  // steps whose codes were sent but not answered
	created recent  // users created by logins that could not be committed
}

// Settings are the settings of a configuration for logins.
type Settings struct {
	// Silent is how long after its last phone login an openid may log in with its login
	// code alone. Zero means never.
	Silent time.Duration
	// NewOpenID is the rule for a known user's other openid in the same app.
	NewOpenID user.NewOpenID
	// External means that users live in a directory outside of the store.
	External bool
	// PhonesFixed means that nobody changes their number here, because WeChat is not
	// asked to compare the phone code with the openid.
	PhonesFixed bool
}

// Chain logs users in by the settings of one configuration. All fields but Observe,
// PhoneCode, OnDone, OnPhoneChange, OnRevoked, OnPanic and Now are required.
type Chain struct {
	WeChat    WeChat
	Directory user.Directory
	Store     Store
	Sessions  session.Sessions
	State     *State
	// Route identifies the connection to WeChat: its hosts, and the source of access
	// tokens. A failure on one route says nothing about another.
	Route string

	Settings
	// Mint makes an access token.
	Mint func(s session.Session, u user.User, now time.Time) (string, error)
	// Hold keeps what the chain uses open until the returned function is called,
	// because a login outlives its request and its configuration.
	Hold func() (release func())
	// Observe is called with the duration of each step. Optional.
	Observe func(ctx context.Context, step string, took time.Duration, err error)
	// PhoneCode is called with what became of each phone code. Optional.
	PhoneCode func(appid string, fate Fate)
	// OnDone is called once for each login, however many clients joined it, and even if
	// all of them have hung up. ctx carries the values of the first request's context.
	// The error is an *Error or a *Panic. Optional.
	OnDone func(ctx context.Context, r Request, res Result, err error)
	// OnPhoneChange is OnDone for a change of number. Optional.
	OnPhoneChange func(ctx context.Context, r ChangeRequest, res Result, err error)
	// OnRevoked is called with the sessions that end because the directory says that their user
	// is disabled or unknown. Optional.
	OnRevoked func(userID string, ended session.Ended)
	// OnPanic is called with the value of a panic outside of a login, while a result is delivered
	// later. It is called by the function that recovers. Optional.
	OnPanic func(p any)
	// Now returns the current time; nil means time.Now.
	Now func() time.Time
}

// Login runs a login from its codes to a token. The same codes sent again meanwhile, or
// within a minute, get the same session. The error is an *Error, a *Panic, or ctx's
// cause if the caller hung up; in the last case the login goes on, so that a second
// attempt finds its result. An error of Request.Admit is returned unchanged.
func (c *Chain) Login(ctx context.Context, r Request) (Result, error) {
	k := keyOf("login", r.parts(c.Sessions.Issuer, c.Sessions.FirstAudience(), r.App.ID, r.Code, r.PhoneCode)...)
	return c.joined(ctx, k, r.Admit, func(ctx context.Context) (Result, error) { return c.run(ctx, r, k) },
		func(ctx context.Context, res Result, err error) {
			if c.OnDone != nil {
				c.OnDone(ctx, r, res, err)
			}
		})
}

// joined runs do for the first caller with this key, and returns its result to all
// callers that come meanwhile. admit may refuse to begin; done is called at the end.
func (c *Chain) joined(ctx context.Context, k Key, admit func() error, do func(context.Context) (Result, error), done func(context.Context, Result, error)) (Result, error) {
	return c.State.logins.join(ctx, k, c.Hold, func(ctx context.Context) (res Result, err error) {
		if admit != nil {
			if err := admit(); err != nil {
				return Result{}, err
			}
		}
		defer func() {
			if p := recover(); p != nil {
				res, err = Result{}, panicked(p)
			}
			done(ctx, res, err)
		}()
		if res, err = do(ctx); err != nil && errors.Is(err, ctx.Err()) && !errors.As(err, new(*Error)) {
			// The time is up while a step is still under way. A second attempt will
			// join it.
			err = refuse(problem.WeChatTimeout, err)
		}
		return res, err
	})
}

// maxAsks bounds how often the directory is asked in one login.
const maxAsks = 4

// A login that meets a change of its user's number waits for the first time, then for
// twice as long each time, up to the last: three seconds in all.
const (
	firstWait = 100 * time.Millisecond
	lastWait  = 2 * time.Second
)

// run is the chain, in order. Replicas with the same codes take turns at each step, and
// the first one that opens a session opens it for all.
func (c *Chain) run(ctx context.Context, r Request, k Key) (res Result, err error) {
	if r.PhoneCode == "" && c.Silent == 0 {
		return Result{}, refuse(problem.PhoneRequired, nil)
	}
	ctx, s := span.Start(ctx, "login")
	s.Set("wx_auth.appid", r.App.ID)
	defer func() {
		if e := (*Error)(nil); errors.As(err, &e) {
			s.Set("wx_auth.code", string(e.Code))
		}
		s.End(err != nil)
	}()
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
	again replayed   // the session that these codes have already opened
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

// finish asks the directory for the user and opens the session. If the facts on which
// the directory's answer was based change before the session opens, the directory is
// asked again.
func (c *Chain) finish(ctx context.Context, l underway) (res Result, err error) {
	erased := ""
	wait := firstWait
	for asks := 0; asks < maxAsks; {
		var a admitted
		if a, err = c.admit(ctx, l); err != nil {
			return Result{}, err
		}
		if a.user.ID == erased {
			return Result{}, c.overtaken(l, user.ErrUnknown)
		}
		res, err = c.open(ctx, l, a)
		switch {
		case errors.Is(err, ErrChanging):
			if wait > lastWait || !clock.Sleep(ctx, wait) {
				return Result{}, fromDirectory(err)
			}
			wait *= 2
			continue
		case errors.Is(err, user.ErrUnknown):
			erased = a.user.ID // the directory may create another user for this number
		case !errors.Is(err, ErrChanged):
			return res, err
		}
		asks++
	}
	if erased != "" {
		return Result{}, c.overtaken(l, user.ErrUnknown)
	}
	if errors.Is(err, ErrOpenedBefore) {
		return Result{}, refuse(problem.LoginCodeInvalid, err, wechat.RenewCode)
	}
	return Result{}, fromStore(err)
}

// overtaken refuses a login that a later event has invalidated: the user was erased, or
// another account has logged in with the number. The codes were seen before that, so
// only fresh codes can succeed.
func (c *Chain) overtaken(l underway, cause error) *Error {
	if l.phone.IsZero() {
		return refuse(problem.PhoneRequired, cause)
	}
	return refuse(problem.PhoneCodeInvalid, cause, wechat.RenewCode, wechat.RenewPhoneCode)
}

// observed does a step, measures it and traces it.
func (c *Chain) observed(ctx context.Context, step string, do func(ctx context.Context) error) error {
	start := time.Now()
	traced, s := span.Start(ctx, step)
	err := do(traced)
	s.End(err != nil)
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
