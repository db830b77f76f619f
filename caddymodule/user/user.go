// Package user defines users: the owner of a phone number, the openids that are aliases
// of a user, and the directory that finds, creates and erases users. It knows nothing
// of WeChat's API, of tokens, of databases or of Caddy.
package user

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrUnknown means that the user is not known. Either somebody logs in silently who has never
	// logged in with a phone number, or an id belongs to no user (any more).
	ErrUnknown = errors.New("user unknown")

	// ErrRegistrationClosed means that the phone number belongs to no user, and that no user is
	// created for it: registration is closed, or closed for its country.
	ErrRegistrationClosed = errors.New("registration is closed")

	// ErrDisabled means that the user was disabled while they logged in.
	ErrDisabled = errors.New("user disabled")

	// ErrNewOpenID means that the rule is [Deny], and that the user has, or last had, another
	// WeChat account.
	ErrNewOpenID = errors.New("the user has another WeChat account")

	// ErrMisconfigured means that the directory cannot work until its operator has fixed something:
	// a wrong query, secret or address, or an answer that cannot be right. The error's text is
	// logged, and names the fault.
	ErrMisconfigured = errors.New("the user directory is misconfigured")

	// ErrPhone means that a text is not a phone number. The text itself is never part
	// of an error.
	ErrPhone = errors.New("not a phone number")
)

// User is a person as the directory knows them.
type User struct {
	// ID identifies the user permanently: 1–128 visible ASCII characters, see
	// [ValidID].
	ID string
	// Phone is the user's number. It is zero if the directory does not return it.
	Phone Phone
	// Disabled users exist, but may not log in or refresh.
	Disabled bool
	// New is set only by the login that created the user.
	New bool
	// CreatedAt is the time of the user's creation. It is zero if the directory does
	// not return it.
	CreatedAt time.Time
	// Info is added to the answer's userInfo as further members.
	Info map[string]any
	// Claims are added to the token: roles and other facts that the API needs.
	Claims map[string]any
}

// Login describes a login to a directory.
type Login struct {
	// ID is the same for every attempt at one login, and differs from the ids of all
	// other logins. A phone login is retried with the same phone code, a silent one
	// with the same login code. It has visible ASCII characters without ".".
	ID string
	// AppID is the mini program, OpenID the caller's id in it.
	AppID, OpenID string
	// UnionID is the caller's id across all apps of one owner. It is empty if WeChat
	// returned none.
	UnionID string
	// Phone is the number that WeChat has verified. It is zero in a silent login.
	Phone Phone
	// UserID is the user to whom this openid, or else this unionid, is bound. It is
	// empty if there is no binding, or if the binding is suspended.
	UserID string
	// Rebound is set if Phone is not the number with which this openid, or else this unionid, last
	// logged in. Either UserID has a new number, or somebody else has the WeChat account. It is
	// always false if the directory itself returns numbers, because the former number is not stored
	// then.
	Rebound bool
	// Detached is the user who has no number because this WeChat account has withdrawn it. It is
	// empty in most logins. If nobody owns Phone, that user gets it. An external directory may
	// ignore Detached: if it is a [PhoneChanger], it was asked to give that user the number before
	// the login.
	Detached string
}

// Silent reports whether the login came without a phone number.
func (l Login) Silent() bool { return l.Phone.IsZero() }

// Directory stores users. All methods may be called concurrently. Any error other than
// [ErrMisconfigured] and those named below means that the directory could not be reached. Then
// nothing is decided, and the caller may try again. Errors are logged, so they must not contain a
// phone number.
type Directory interface {
	// Login finds the user or, given a phone number, creates them. It returns [ErrUnknown] for a
	// silent login of an unknown user, and [ErrRegistrationClosed] for an unknown number for which
	// it creates no user. A disabled user is not an error, see [User.Disabled].
	Login(ctx context.Context, l Login) (User, error)
	// Check loads a user, to find out whether they may still use the service. It
	// returns [ErrUnknown] if the user no longer exists.
	Check(ctx context.Context, id string) (User, error)
	// Erase deletes a user and all their data. Erasing an unknown user is not an error.
	Erase(ctx context.Context, id string) error
}

// Binding makes an openid an alias of a user in one app.
type Binding struct {
	AppID, OpenID string
	// UnionID is empty if WeChat returned none.
	UnionID string
	UserID  string
	// State distinguishes an active binding from one that allows no silent login.
	State BindingState
	// PhoneAt is the time of this openid's last login with a phone number. It is zero
	// if there was none, or if the user has left the app since.
	PhoneAt time.Time
	// AuthAt is the time of this openid's last login with a phone number here. Unlike
	// PhoneAt, no import and no silent login sets it.
	AuthAt time.Time
	// Phone is the number of that login if the directory returns no numbers, and zero
	// otherwise.
	Phone Phone
}

// BindingState is the state of a binding. Only an active binding allows a silent login,
// by its openid or, in other apps, by its unionid.
type BindingState int

const (
	// Active is a binding whose openid logs in silently.
	Active BindingState = iota
	// Suspended is a binding to a user whose number another WeChat account has used for a login
	// since, or before the binding was imported. A phone login with the user's number makes the
	// binding active again.
	Suspended
	// Detached is a binding whose owner has left the app, as WeChat reported.
	Detached
	// Withdrawn is like Detached, but the user also has no number, because the owner has withdrawn
	// it through this openid. The next phone login of this WeChat account gives the user a new
	// number.
	Withdrawn
	// Cancelled is like Detached, but the owner has closed the account.
	Cancelled
)

// Left reports whether the owner of the binding has left the app.
func (s BindingState) Left() bool { return s >= Detached }

// SameAccount reports whether both bindings are known to belong to one WeChat account:
// they have the same openid in the same app, or an equal unionid.
func (b Binding) SameAccount(other Binding) bool {
	return b.AppID == other.AppID && b.OpenID == other.OpenID || b.UnionID != "" && b.UnionID == other.UnionID
}

// NewOpenID is the rule for a login with a known phone number and an openid that has no active
// binding to the number's user. Carriers recycle phone numbers, so this may be the same person or a
// new owner.
type NewOpenID string

const (
	// Replace binds the new openid. The user's other openids in the app lose their
	// bindings, those of other WeChat accounts in other apps are suspended, and the
	// sessions of all these accounts end.
	Replace NewOpenID = "replace"
	// Keep binds the new openid in addition to the former ones.
	Keep NewOpenID = "keep"
	// Deny refuses the login with [ErrNewOpenID] if the user has, or last had, another openid in
	// the app. It also refuses the login if the user has a binding in another app with a different
	// unionid. A login that it accepts is treated as with Replace.
	Deny NewOpenID = "deny"
)

// Valid reports whether r is one of the three rules.
func (r NewOpenID) Valid() bool { return r == Replace || r == Keep || r == Deny }

// ValidID reports whether id can be a user's id: 1–128 visible ASCII characters, so
// that it needs no encoding in a header or a token.
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
