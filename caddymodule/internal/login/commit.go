package login

import (
	"errors"
	"fmt"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Commit holds what a login writes to the store.
type Commit struct {
	// Binding makes the openid an alias of the user. Rule decides what happens to the
	// user's other WeChat accounts, whose sessions are revoked until Until.
	Binding user.Binding
	Rule    user.NewOpenID
	Until   time.Time
	// Known holds the facts on which the login was decided.
	Known Known
	// Phone is the number that WeChat returned; zero at a silent login.
	Phone user.Phone
	// External means that an external directory has returned the user. The directory decides
	// whose number that is. A row of the store's own users, left from before the users moved
	// there, does not count.
	External bool
	// Begun is the time at which the first of the login's codes was first seen, by the
	// database's clock. Zero means unknown.
	Begun time.Time
	// Session is opened. Besides it, at most Max-1 open sessions of its user in its app
	// and at its issuer stay: those refreshed last. If Max is zero, all stay.
	Session session.Session
	Max     int
	// Replaces is a session that ends as this one opens, provided that it has the same
	// user, app and openid and that Replaceable returns true for it. Empty: none.
	Replaces    string
	Replaceable func(session.Session) bool
	// Value is kept under Login, the key of both codes, until Expires: a repeated request with
	// the same codes finds its session by it.
	Login   Key
	Value   []byte
	Expires time.Time
	// Code is the key of the login code's step, whose result becomes Spent: the login code has
	// opened its session, and from now on only both codes together find that session.
	Code  Key
	Spent []byte
}

// Silent reports whether the login came without a phone number.
func (c Commit) Silent() bool { return c.Phone.IsZero() }

// Account is a WeChat account that logs in to an app.
type Account struct {
	AppID, OpenID string
	// UnionID is empty if WeChat returned none.
	UnionID string
	// Phone is the number that WeChat returned; zero at a silent login.
	Phone user.Phone
	// External means that an external directory will be asked for the user. The store may
	// still have rows of its own users, from before they moved there.
	External bool
}

func (c *Chain) account(r Request, who caller) Account {
	return Account{AppID: r.App.ID, OpenID: who.OpenID, UnionID: who.UnionID, External: c.External}
}

// Known holds what the store knows about a WeChat account that logs in.
type Known struct {
	// Binding is the binding of the openid in this app, or else one of its unionid in
	// another app: an active one if there is any, and of several the one with the
	// latest phone login. If it has no UserID, the account is unknown.
	user.Binding
	// Taken means that Binding belongs to the unionid, and that its user already has another
	// openid in this app. Binding is then ignored.
	Taken bool
	// Detached is the user whose number this WeChat account has withdrawn, if any. It is found
	// by the openid, or else by the unionid.
	Detached string
	// Asked is the time at which this was read, by the database's clock. The directory is
	// asked after that. It is zero if the store has its own users, whose numbers change only
	// in the store's transactions.
	Asked time.Time
}

// Committed holds the changes of a login to other accounts and sessions.
type Committed struct {
	// Ended lists the sessions of other accounts that ended.
	Ended []string
	// Replaced is the session that this one replaced, if there is one.
	Replaced string
	// Surplus lists sessions that ended because the user had too many. More means that
	// there may be others, which must still be ended.
	Surplus []string
	More    bool
	// Rebound means that another account than before logged in with the user's number. Other
	// accounts lost their bindings or had them suspended, or a suspended binding became active
	// again.
	Rebound bool
}

// These errors say why a login, or a change of number, was not committed. Nothing was written then.
var (
	// ErrChanged means that the facts on which the login was decided have changed
	// since.
	ErrChanged = errors.New("what the login was decided on has changed")
	// ErrOpenedBefore is an ErrChanged: the login's codes have opened a session, and the directory
	// has returned a new user. If it does so again, the user of that session is gone.
	ErrOpenedBefore = fmt.Errorf("the codes have opened a session before: %w", ErrChanged)
	// ErrChanging means that the user's number is being changed in an external directory, so
	// the directory's answer may be outdated.
	ErrChanging = errors.New("the user's number is being changed")
	// ErrOvertaken means that another account has replaced this openid since the login
	// began. Only fresh codes can prove who has the number.
	ErrOvertaken = errors.New("another WeChat account logged in with this number meanwhile")
	// ErrBound means that a WeChat account is, or was, bound to the user of a test login.
	ErrBound = errors.New("a WeChat account is bound to the user")
	// ErrCodeSpent means that the login code has already opened a session.
	ErrCodeSpent = errors.New("the login code has opened a session already")
	// ErrChangedSince means that the phone code has already changed the number, and that
	// the user has another one by now.
	ErrChangedSince = errors.New("the phone code has changed the number before, and the user has another one by now")
)

// Opened is the error for codes that have already opened a session. It carries what was kept
// about that session.
type Opened struct{ Value []byte }

func (o *Opened) Error() string { return "these codes have opened a session" }
