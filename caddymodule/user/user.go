// Package user says what a user is: who owns a phone number, which openids are
// aliases of them, and the directory that finds, creates and erases them. It
// knows nothing of WeChat's API, of tokens, of databases or of Caddy.
package user

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrUnknown says that nobody is known: a silent login of someone who has
	// never logged in with a phone number, or an id that no user has (any more).
	ErrUnknown = errors.New("user unknown")

	// ErrRegistrationClosed says that the phone number is nobody's and that
	// unknown numbers, or those of its country, do not become users.
	ErrRegistrationClosed = errors.New("registration is closed")

	// ErrDisabled says that the user was disabled while they logged in.
	ErrDisabled = errors.New("user disabled")

	// ErrNewOpenID says that the user already has another openid in this app
	// and that the rule is [Deny].
	ErrNewOpenID = errors.New("the user has another openid in this app")

	// ErrMisconfigured says that the directory cannot do its work until its
	// operator has mended something: a wrong query, secret or address, or an
	// answer that no user can have. The text says what; it goes into the log.
	ErrMisconfigured = errors.New("the user directory needs mending")

	// ErrPhone says that a phone number makes no sense. The number itself is
	// never part of an error.
	ErrPhone = errors.New("not a phone number")
)

// User is a person as the directory knows them.
type User struct {
	// ID names the user for good: 1–128 visible ASCII characters, see [ValidID].
	ID string
	// Phone is the user's number; zero if the directory does not tell it.
	Phone Phone
	// Disabled users exist but may not log in or refresh.
	Disabled bool
	// New is set by the login that created the user, and by no other.
	New bool
	// CreatedAt is when the user was created; zero if the directory does not tell it.
	CreatedAt time.Time
	// Info goes into the answer's userInfo as further members.
	Info map[string]any
	// Claims go into the token: roles and what else the API needs to know.
	Claims map[string]any
}

// Login is what a directory is asked at every login.
type Login struct {
	// ID is the same for every try of one login, and no other login's: a phone
	// login is tried again with its phone code, a silent one with its login code.
	// Visible ASCII, without ".".
	ID string
	// AppID is the mini program, OpenID the caller's id in it.
	AppID, OpenID string
	// UnionID is the caller's id over all apps of one owner; empty if WeChat
	// tells none.
	UnionID string
	// Phone is the number that WeChat vouches for; zero at a silent login.
	Phone Phone
	// UserID is whom this openid, or else this unionid, is bound to; empty if
	// nobody.
	UserID string
	// Rebound reports that Phone is another number than the one with which this
	// openid, or else this unionid, last logged in: UserID has a new number, or
	// somebody else has the account. It is not known, and false, where the
	// directory itself tells numbers.
	Rebound bool
}

// Silent reports whether the login came without a phone number.
func (l Login) Silent() bool { return l.Phone.IsZero() }

// Directory is where users live. All methods may be called at once from many
// goroutines. Any error but [ErrMisconfigured] and those named below means that
// the directory could not be asked: nothing is decided, and the caller may try
// again. Errors are logged: no phone number belongs into them.
type Directory interface {
	// Login finds the user or, given a phone number, creates them. A silent
	// login of somebody unknown is [ErrUnknown]; an unknown number where
	// numbers do not become users is [ErrRegistrationClosed]. A disabled user
	// is no error: see [User.Disabled].
	Login(ctx context.Context, l Login) (User, error)
	// Check loads a user, to see whether they are still welcome. [ErrUnknown]:
	// gone.
	Check(ctx context.Context, id string) (User, error)
	// Erase deletes a user and what is known of them. Erasing an unknown user
	// is no error.
	Erase(ctx context.Context, id string) error
}

// Binding makes an openid an alias of a user in one app.
type Binding struct {
	AppID, OpenID string
	// UnionID is empty if WeChat tells none.
	UnionID string
	UserID  string
	// PhoneAt is when this openid last logged in with a phone number; zero if
	// it never did, or if its user has left the app since.
	PhoneAt time.Time
	// Phone is the number of that login where the directory tells none; zero
	// where it does.
	Phone Phone
}

// NewOpenID says what happens when a known phone number arrives with another
// openid of the same app than the one bound to its user. Phone numbers are
// recycled by the carriers, so this may be a new phone or a new person.
type NewOpenID string

const (
	// Replace binds the new openid; the former one loses its binding and its
	// sessions end.
	Replace NewOpenID = "replace"
	// Keep binds the new openid beside the former one.
	Keep NewOpenID = "keep"
	// Deny refuses the login with [ErrNewOpenID].
	Deny NewOpenID = "deny"
)

// Valid reports whether r is one of the three rules.
func (r NewOpenID) Valid() bool { return r == Replace || r == Keep || r == Deny }

// ValidID reports whether id can be a user's id: 1–128 visible ASCII
// characters, so that it travels in a header and in a token as it is.
func ValidID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}
