package login

import (
	"context"
	"errors"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// A change of number has the phone step of a login: the code is exchanged with the openid
// of the caller's token, and its result is kept, joined and leased in the same way. Then
// the store moves the number in one transaction, and remembers that this code has moved
// it. The same request again, after a lost answer, finds that and gets the same answer.
//
// An external directory is not part of the transaction. Its change is made between two
// transactions, and the changes of one user take turns at a lease:
//
//	BeginPhoneChange  checks the caller, and marks the user
//	directory         gets the number
//	ChangePhone       checks again, moves the number, and ends the mark
//
// A login that asked the directory before the mark has ended asks it again: until then
// the answer may be from before the change, when the number was still another user's.
const (
	// directoryTime bounds the directory's part.
	directoryTime = 10 * time.Second
	// markLife is how long a mark lasts if this process dies, or if nobody knows whether
	// the directory has made the change. It is longer than directoryTime, so that a
	// late change is still within it.
	markLife = 30 * time.Second
)

// ChangeRequest is a user's request to change their phone number.
type ChangeRequest struct {
	// Request has the app, the phone code and Admit. Its login code is empty.
	Request
	// SessionID, UserID and OpenID are the caller's, from a verified token.
	SessionID, UserID, OpenID string
}

// PhoneChange holds what a change of number writes to the store.
type PhoneChange struct {
	// Session is the caller's. It must be live.
	Session session.Session
	// Phone becomes the user's number, in the record if the store has it, and in all
	// bindings. At becomes the time of the last phone login of the session's openid.
	Phone user.Phone
	At    time.Time
	// External means that the record is in an external directory. Owner is the replica
	// that makes the change, for the mark.
	External bool
	Owner    string
	// Done, the key of this user and phone code, is kept until Expires: the code has
	// moved the number.
	Done    Key
	Expires time.Time
}

// PhoneChanged is the result of a change of number.
type PhoneChanged struct {
	// Replayed means that the same phone code had already made the change.
	Replayed bool
	// AuthAt is the time of the change.
	AuthAt time.Time
}

// ChangeMark returns the key of the mark of a user whose number is being changed in an
// external directory.
func ChangeMark(userID string) Key { return keyOf("change begun", userID) }

// ChangePhone gives the caller the number of a phone code. Requests with the same code
// are joined, and repeated ones get the same answer. The error is as of [Chain.Login].
func (c *Chain) ChangePhone(ctx context.Context, r ChangeRequest) (Result, error) {
	k := keyOf("change", r.parts(c.Sessions.Issuer, r.App.ID, r.SessionID, r.PhoneCode)...)
	return c.joined(ctx, k, r.Admit, func(ctx context.Context) (Result, error) { return c.change(ctx, r) },
		func(ctx context.Context, res Result, err error) {
			if c.OnPhoneChange != nil {
				c.OnPhoneChange(ctx, r, res, err)
			}
		})
}

func (c *Chain) change(ctx context.Context, r ChangeRequest) (Result, error) {
	// A session without an openid is a test login. Where the openid is not sent to WeChat,
	// anyone with a stolen token could give the user the thief's number.
	if c.PhonesFixed || r.OpenID == "" || c.External && !user.ChangesPhones(c.Directory) {
		return Result{}, refuse(problem.PhoneChangeClosed, nil)
	}
	s, u, err := c.changer(ctx, r)
	if err != nil {
		return Result{}, err
	}
	number, err := c.newNumber(ctx, r, s.OpenID)
	if err != nil {
		return Result{}, err
	}
	now := c.now().UTC().Truncate(time.Millisecond) // as the store keeps it
	p := PhoneChange{
		Session: s, Phone: number, At: now, External: c.External, Owner: c.State.replica(),
		Done: keyOf("changed", r.parts(r.App.ID, r.UserID, r.PhoneCode)...), Expires: now.Add(keepFor),
	}
	var done PhoneChanged
	if c.External {
		done, err = c.changeExternal(ctx, p)
	} else {
		done, err = c.changeHere(ctx, p)
	}
	if err != nil {
		return Result{}, err
	}
	if c.External {
		// The directory's answer about the user may depend on the number.
		if u, err = c.checkUser(ctx, s.UserID); err != nil {
			return Result{}, err
		}
	}
	u.Phone, s.AuthAt = number, done.AuthAt
	if err := c.Sessions.Extend(ctx, s, now); err != nil {
		return Result{}, fromStore(err)
	}
	token, err := c.mint(s, u, now)
	if err != nil {
		return Result{}, err
	}
	return Result{User: u, Session: s, Token: token, Replayed: done.Replayed}, nil
}

// changer returns the caller's session, which must be live in the store, and their user.
func (c *Chain) changer(ctx context.Context, r ChangeRequest) (session.Session, user.User, error) {
	ctx = c.Store.Together(ctx)
	s, err := c.Sessions.Store.Session(ctx, r.SessionID)
	switch {
	case errors.Is(err, session.ErrNotFound):
		return s, user.User{}, refuse(problem.TokenRevoked, nil)
	case err != nil:
		return s, user.User{}, fromStore(err)
	case c.Sessions.Over(s, c.now()) || s.UserID != r.UserID || s.AppID != r.App.ID || s.OpenID != r.OpenID:
		return s, user.User{}, refuse(problem.TokenRevoked, nil)
	}
	u, err := c.checkUser(ctx, s.UserID)
	return s, u, err
}

// checkUser returns a user that may still use the service. If the user is disabled or unknown, it
// ends the user's sessions.
func (c *Chain) checkUser(ctx context.Context, id string) (user.User, error) {
	u, err := c.Directory.Check(ctx, id)
	gone := errors.Is(err, user.ErrUnknown)
	switch {
	case gone, err == nil && u.Disabled:
		if err := c.revoke(ctx, id, c.now()); err != nil {
			return u, fromStore(err)
		}
		if gone {
			return u, refuse(problem.TokenRevoked, err)
		}
		return u, refuse(problem.UserDisabled, nil)
	case err != nil:
		return u, fromDirectory(err)
	}
	return u, nil
}

// newNumber exchanges the phone code, or returns the kept result.
func (c *Chain) newNumber(ctx context.Context, r ChangeRequest, openid string) (number user.Phone, err error) {
	s := &steps{c: c, phone: phoneStep(r.Request)}
	defer func() { s.end(ctx, err) }()
	n, err := c.number(ctx, s, r.Request, openid, nil)
	var e *Error
	if errors.As(err, &e) && len(e.Renew) > 0 {
		only := *e
		only.Renew = []string{string(wechat.RenewPhoneCode)} // there is no login code to renew
		return user.Phone{}, &only
	}
	return n.Phone, err
}

// changeHere moves the number of a user of the store.
func (c *Chain) changeHere(ctx context.Context, p PhoneChange) (done PhoneChanged, err error) {
	err = c.observed(ctx, "change", func(ctx context.Context) (err error) {
		done, err = c.Store.ChangePhone(ctx, p)
		return err
	})
	return done, notChanged(err)
}

// changeExternal moves the number of a user in an external directory. The changes of one user
// take turns, on all replicas.
func (c *Chain) changeExternal(ctx context.Context, p PhoneChange) (done PhoneChanged, err error) {
	turn := &steps{c: c, code: keyOf("changing", p.Session.UserID)}
	defer func() { turn.end(ctx, err) }()
	if _, err := turn.lease(ctx, turn.code); err != nil {
		if errors.Is(err, errOtherReplica) {
			err = fromDirectory(ErrChanging)
		}
		return done, err
	}
	// This deadline is set before the mark, so that it passes before the mark expires.
	until := time.Now().Add(directoryTime)
	done, err = c.Store.BeginPhoneChange(ctx, p, markLife)
	if err != nil || done.Replayed {
		return done, notChanged(err)
	}
	err = c.observed(ctx, "directory", func(ctx context.Context) error {
		ctx, cancel := context.WithDeadline(ctx, until)
		defer cancel()
		return user.ChangePhone(ctx, c.Directory, p.Session.UserID, p.Phone)
	})
	switch {
	case errors.Is(err, user.ErrPhoneTaken), errors.Is(err, user.ErrPhoneFixed), errors.Is(err, user.ErrUnknown):
		// Nothing has changed, so the mark can be released. If that fails, the mark expires by
		// itself.
		_ = c.Store.Release(ctx, p.Owner, ChangeMark(p.Session.UserID))
		if errors.Is(err, user.ErrUnknown) {
			if _, err := c.checkUser(ctx, p.Session.UserID); err != nil {
				return done, err
			}
			err = user.ErrPhoneFixed // the directory knows the user, but did not change the number
		}
		return done, notChanged(err)
	case err != nil:
		return done, fromDirectory(err)
	}
	return c.changeHere(ctx, p)
}

// notChanged converts an error of the store or the directory.
func notChanged(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, user.ErrPhoneTaken):
		return refuse(problem.PhoneTaken, nil)
	case errors.Is(err, user.ErrPhoneFixed):
		return refuse(problem.PhoneChangeClosed, nil)
	case errors.Is(err, user.ErrDisabled):
		return refuse(problem.UserDisabled, nil)
	case errors.Is(err, ErrChanging):
		return fromDirectory(err)
	case errors.Is(err, ErrChangedSince):
		return refuse(problem.PhoneCodeInvalid, err, wechat.RenewPhoneCode)
	case errors.Is(err, session.ErrEnded), errors.Is(err, user.ErrUnknown):
		return refuse(problem.TokenRevoked, err)
	}
	return fromStore(err)
}
