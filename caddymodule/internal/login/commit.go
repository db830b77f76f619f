package login

import (
	"errors"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Commit is what a login leaves in the store.
type Commit struct {
	// Binding makes the openid an alias of the user. Rule says what becomes of the
	// user's other WeChat accounts, whose sessions are revoked until Until.
	Binding user.Binding
	Rule    user.NewOpenID
	Until   time.Time
	// Known is what the login was decided on.
	Known Known
	// Phone is the number that WeChat vouched for; zero at a silent login.
	Phone user.Phone
	// Begun is when the first of the login's codes was first seen, by the
	// database's clock; zero if that is unknown.
	Begun time.Time
	// Session is opened. Beside it, at most Max-1 live sessions of its user in its app
	// and at its issuer stay, those refreshed last; zero: all of them stay.
	Session session.Session
	Max     int
	// Replaces is a session that ends as this one opens, if it is of the same user,
	// app and openid, and Replaceable says so of it; empty: none.
	Replaces    string
	Replaceable func(session.Session) bool
	// Value is kept under Login, the key of both codes, until Expires: the same
	// codes find their session.
	Login   Key
	Value   []byte
	Expires time.Time
	// Code is the step whose result becomes Spent: the login code has opened its
	// session, and from here on only both codes together find it.
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
	// Phone is the number that WeChat vouched for; zero at a silent login.
	Phone user.Phone
}

func (r Request) account(who caller) Account {
	return Account{AppID: r.App.ID, OpenID: who.OpenID, UnionID: who.UnionID}
}

// Known is what the store knows of a WeChat account that logs in.
type Known struct {
	// Binding is that of the openid in this app, or else one of its unionid in
	// another: an active one if there is any, and of several the one with the latest
	// phone login. Without a UserID the account is not known.
	user.Binding
	// Taken reports that Binding is of the unionid, and that its user has another
	// openid in this app already: then it counts for nothing.
	Taken bool
}

// Committed is what a login has changed for others.
type Committed struct {
	// Ended lists the sessions of other accounts that ended.
	Ended []string
	// Replaced is the session that this one took the place of, if there is one.
	Replaced string
	// Surplus lists sessions that ended since the user had too many. More reports that
	// there may be others, which are still to end.
	Surplus []string
	More    bool
	// Rebound reports that the user's number was logged in with by an account other
	// than the one before: others lost their bindings or had them suspended, or a
	// suspended one became active again.
	Rebound bool
}

// Why a login is not committed. Then nothing is written.
var (
	// ErrChanged says that what the login was decided on has changed since.
	ErrChanged = errors.New("what the login was decided on has changed")
	// ErrOvertaken says that another account has taken the openid's place since the
	// login began: only fresh codes show who has the number.
	ErrOvertaken = errors.New("another WeChat account logged in with this number meanwhile")
	// ErrCodeSpent says that the login code has opened a session already.
	ErrCodeSpent = errors.New("the login code has opened a session already")
)

// Opened says that these codes have opened a session already, and what was kept about it.
type Opened struct{ Value []byte }

func (o *Opened) Error() string { return "these codes have opened a session" }
