package account

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

const (
	// messageKept is how long a handled message is remembered. It is longer than the message's
	// signature is valid, by any clock.
	messageKept = 4 * wechat.PushAge
	// leaveSkew is how far WeChat's clock may be ahead of the clock that dated a login.
	// It matters when the order of the two events decides.
	leaveSkew = time.Minute
)

// Leaver describes an openid whose user has left the mini program.
type Leaver struct {
	// UserID is the user that the openid was bound to; empty if none.
	UserID string
	// Last means that no openid of the user, in any app, has a phone login left. The user must
	// then be erased or detached, see Directory.
	Last bool
	// Decides is the account that decides which of the two. It is the one that has left, or,
	// if that was suspended, the one that left last and was not.
	Decides user.Binding
	// Returned means that the openid logged in with a phone number after its user had
	// left. Then nothing is done.
	Returned bool
	// Ended are the sessions that ended. If there are very many, they are the first
	// ones, and EndOpenID ends the others.
	Ended []string
}

// Left describes what was done about a user who has left.
type Left struct {
	UserID                     string
	Ended                      session.Ended
	Detached, Erased, Returned bool
}

// Leave ends the sessions of the openid that has left. If it was the user's last one, the user
// is erased. A user who has only withdrawn the phone number is detached instead, unless
// eraseRevoked is set or the directory cannot remove numbers.
//
// Leave returns nil for a message that was handled before, on any replica. WeChat repeats a
// message that was not answered in time, and a repetition cannot be distinguished from a
// message that somebody has recorded and sends again.
func (a Accounts) Leave(ctx context.Context, appid string, m wechat.PushMessage, eraseRevoked bool, now time.Time) (*Left, error) {
	step := sha256.Sum256(fmt.Appendf(nil, "push %q", []string{appid, m.Event, m.RevokeInfo, m.OpenID, m.CreatedAt.UTC().String()}))
	if _, dealtWith, err := a.Store.Kept(ctx, step, now); err != nil || dealtWith {
		return nil, err
	}
	ending := a.Sessions.Ending(session.ReasonRevoked, now)
	leaver, err := a.Store.Leave(ctx, appid, m.OpenID, m.Event != wechat.EventRevoke, m.CreatedAt.Add(leaveSkew), ending)
	if err != nil {
		return nil, err
	}
	left := &Left{UserID: leaver.UserID, Returned: leaver.Returned}
	each := func(ids []string) {
		left.Ended.Add(ids...)
		for _, id := range ids {
			a.Sessions.Revoked.Add(id, ending.Until)
		}
	}
	each(leaver.Ended)
	if !leaver.Returned {
		err = a.Store.EndOpenID(ctx, appid, m.OpenID, ending, each)
	}
	a.Emit(event.Revoked(left.UserID, left.Ended, session.ReasonRevoked)...)
	if err != nil {
		return nil, err
	}
	if leaver.Last {
		d := leaver.Decides
		erase := eraseRevoked && d.AppID == appid && d.OpenID == m.OpenID // the setting is this app's
		detach := d.State != user.Cancelled && !erase
		if detach {
			left.Detached, err = a.Directory.DetachLeft(ctx, left.UserID, d.AppID, d.OpenID)
		}
		switch {
		case !detach, errors.Is(err, user.ErrPhoneFixed), errors.Is(err, user.ErrUnknown):
			left.Erased, err = a.eraseLeft(ctx, left.UserID, now)
		case err != nil:
			err = errors.Join(ErrDirectory, err)
		case left.Detached:
			a.Emit(event.PhoneTaken(left.UserID))
		}
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", left.UserID, err)
		}
	}
	return left, a.Store.Keep(ctx, step, []byte(m.Event), now.Add(messageKept))
}

// eraseLeft erases a user who has left, unless they have logged in with a phone number
// since: a login of this or another openid may have been under way when WeChat's
// message came.
func (a Accounts) eraseLeft(ctx context.Context, userID string, now time.Time) (erased bool, err error) {
	erased, ids, err := a.Directory.EraseLeft(ctx, userID)
	if err != nil {
		return false, errors.Join(ErrDirectory, err)
	}
	if !erased {
		return false, nil
	}
	until := a.Sessions.Ending(session.ReasonRevoked, now).Until
	for _, id := range ids {
		a.Sessions.Revoked.Add(id, until)
	}
	var ended session.Ended
	ended.Add(ids...)
	a.Emit(event.UserErased(userID, ended))
	return true, nil
}
