// Package account implements what happens to users and their sessions outside of a
// login: a refresh, the end of all sessions, disabling, erasing, and leaving a mini
// program. It knows neither HTTP nor SQL.
package account

import (
	"context"
	"errors"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Accounts are the users of a site, and their sessions.
type Accounts struct {
	Directory Directory
	Store     Store
	Sessions  session.Sessions
	// Mint returns a token for a session of a user.
	Mint func(session.Session, user.User, time.Time) (string, error)
	// TestPhone is the number of the site's test login; zero if there is none.
	TestPhone user.Phone
	// Emit publishes events about what was done.
	Emit func(...event.Event)
}

// Directory holds the users.
type Directory interface {
	user.Directory
	// SetDisabled sets whether a user is disabled and so may not log in or refresh. It
	// returns [user.ErrUnknown] if the user does not exist. It ends no session, but
	// none can be opened after it.
	SetDisabled(ctx context.Context, id string, disabled bool) error
	// EraseLeft is Erase for a user who has left. It does nothing if one of the user's openids
	// has logged in with a phone number meanwhile. ended lists the sessions that it ended.
	EraseLeft(ctx context.Context, id string) (erased bool, ended []string, err error)
	// DetachLeft removes the number of a user who has withdrawn it by this openid, and keeps
	// the user. Like EraseLeft, it does nothing if an openid has logged in with a phone number
	// meanwhile. It returns [user.ErrPhoneFixed] if the directory cannot remove numbers, and
	// [user.ErrUnknown] if it has no such user.
	DetachLeft(ctx context.Context, id, appid, openid string) (detached bool, err error)
	// TakePhone removes a user's number. Its errors are those of DetachLeft.
	TakePhone(ctx context.Context, id string) error
}

// Store is the part of the store that is needed here, besides sessions.
type Store interface {
	// Binding returns the user of an openid.
	Binding(ctx context.Context, appid, openid string) (user.Binding, bool, error)
	// Leave ends the sessions of an openid whose user left before the given time, and
	// detaches its binding. Repeating it gives the same result.
	Leave(ctx context.Context, appid, openid string, cancelled bool, before time.Time, e session.Ending) (Leaver, error)
	// EndOpenID ends all sessions of an openid. It calls each with the ids of some
	// sessions at a time.
	EndOpenID(ctx context.Context, appid, openid string, e session.Ending, each func(ids []string)) error
	// HasOpenID reports whether a WeChat account is bound to a user, in whatever state, or was.
	HasOpenID(ctx context.Context, userID string) (bool, error)
	// Keep stores value as the result of a step until expires. Of names the accounts that the store
	// may read ahead. Kept returns the value; ok is false if there is none.
	Keep(ctx context.Context, step login.Key, value []byte, expires time.Time, of ...login.Account) error
	Kept(ctx context.Context, step login.Key, now time.Time) (value []byte, ok bool, err error)
}

var (
	// ErrDisabled is the error of a refresh by a disabled user.
	ErrDisabled = errors.New("user disabled")
	// ErrDirectory means that the directory could not do what was asked.
	ErrDirectory = errors.New("directory unavailable")
	// ErrMint is the error of a refresh whose user does not fit into a token.
	ErrMint = errors.New("no token can be minted")
)

// End ends a session. It is no error if the session has already ended.
func (a Accounts) End(ctx context.Context, s session.Session, reason session.Reason, now time.Time) (ended session.Ended, err error) {
	did, err := a.Sessions.End(ctx, s.ID, reason, now)
	if did && err == nil {
		ended.Add(s.ID)
		a.Emit(event.Revoked(s.UserID, ended, reason)...)
	}
	return ended, err
}

// Revoke ends all sessions of a user. After an error, the same call ends the remaining
// ones.
func (a Accounts) Revoke(ctx context.Context, userID string, now time.Time) (session.Ended, error) {
	return a.revoke(ctx, userID, now)
}

// revoke also emits the given events, provided that all sessions have ended.
func (a Accounts) revoke(ctx context.Context, userID string, now time.Time, after ...event.Event) (session.Ended, error) {
	ended, err := a.Sessions.EndUser(ctx, userID, session.ReasonRevoked, now)
	events := event.Revoked(userID, ended, session.ReasonRevoked)
	if err == nil {
		events = append(after, events...)
	}
	a.Emit(events...)
	return ended, err
}

// Disable keeps a user from logging in and refreshing, and ends their sessions.
func (a Accounts) Disable(ctx context.Context, userID string, now time.Time) (session.Ended, error) {
	if err := a.Directory.SetDisabled(ctx, userID, true); err != nil {
		return session.Ended{}, err
	}
	// From here on, no login opens another session.
	return a.revoke(ctx, userID, now, event.UserDisabled(userID))
}

// Enable lets a user log in again.
func (a Accounts) Enable(ctx context.Context, userID string) error {
	err := a.Directory.SetDisabled(ctx, userID, false)
	if err == nil {
		a.Emit(event.UserEnabled(userID))
	}
	return err
}

// Erase ends the sessions of a user, even of an unknown one, and then erases the user.
func (a Accounts) Erase(ctx context.Context, userID string, now time.Time) (session.Ended, error) {
	ended, err := a.Sessions.ForgetUser(ctx, userID, now)
	if err != nil {
		return ended, err
	}
	if err := a.Directory.Erase(ctx, userID); err != nil {
		return ended, errors.Join(ErrDirectory, err)
	}
	a.Emit(event.UserErased(userID, ended))
	return ended, nil
}

// TakePhone removes a user's number, so that its owner can become another user. The user's
// sessions end, because their tokens contain the number. The errors include [user.ErrUnknown]
// and [user.ErrPhoneFixed].
func (a Accounts) TakePhone(ctx context.Context, userID string, now time.Time) (session.Ended, error) {
	if err := a.Directory.TakePhone(ctx, userID); err != nil {
		return session.Ended{}, errors.Join(ErrDirectory, err)
	}
	return a.revoke(ctx, userID, now, event.PhoneTaken(userID))
}
