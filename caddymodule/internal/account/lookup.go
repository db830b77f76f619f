package account

import (
	"context"
	"errors"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Lookup finds and shows users, for the backend and for operators.
type Lookup struct {
	Directory user.Directory
	Store     Reader
	// External means that users live in a directory outside of the store.
	External bool
}

// Reader is the part of the store that Lookup reads.
type Reader interface {
	// UserSessions lists the sessions of a user that have not ended, newest first.
	UserSessions(ctx context.Context, userID string, now time.Time) ([]session.Session, error)
	// UserBindings lists the openids of a user, active ones first.
	UserBindings(ctx context.Context, userID string) ([]user.Binding, error)
	// Binding returns the user of an openid.
	Binding(ctx context.Context, appid, openid string) (user.Binding, bool, error)
	// FindPhone returns the id of the store's own user who has a number, or user.ErrUnknown.
	FindPhone(ctx context.Context, p user.Phone) (id string, err error)
	// ListUsers returns the store's own users after an id, in the order of the ids. ListBound
	// returns the ids of users in an external directory who have an openid here.
	ListUsers(ctx context.Context, after string, limit int) ([]user.User, error)
	ListBound(ctx context.Context, after string, limit int) (ids []string, err error)
	// Export returns everything that is kept about a user, or user.ErrUnknown if nothing is.
	Export(ctx context.Context, userID string) (Export, error)
}

// ByOpenID returns the id of the user of an openid, or user.ErrUnknown.
func (l Lookup) ByOpenID(ctx context.Context, appid, openid string) (id string, err error) {
	if !user.ValidID(appid) || !user.ValidID(openid) {
		// PostgreSQL cannot take a NUL, and MySQL ignores blanks at the end.
		return "", user.ErrUnknown
	}
	b, found, err := l.Store.Binding(ctx, appid, openid)
	if err == nil && !found {
		err = user.ErrUnknown
	}
	return b.UserID, err
}

// Shown is a user with openids and open sessions.
type Shown struct {
	User     user.User
	Bindings []user.Binding
	Sessions []session.Session
}

// Show returns what the directory and the store know about a user. It returns
// user.ErrUnknown if there is no such user, and ErrDirectory if the directory does not
// answer.
func (l Lookup) Show(ctx context.Context, id string, now time.Time) (s Shown, err error) {
	s.User, err = l.Directory.Check(ctx, id)
	switch {
	case errors.Is(err, user.ErrUnknown):
		return s, err
	case err != nil:
		return s, errors.Join(ErrDirectory, err)
	}
	if s.Bindings, err = l.Store.UserBindings(ctx, id); err != nil {
		return s, err
	}
	if s.Sessions, err = l.Store.UserSessions(ctx, id, now); err != nil {
		return s, err
	}
	for _, b := range s.Bindings {
		if s.User.Phone.IsZero() { // the directory returns no numbers: use the one from WeChat
			s.User.Phone = b.Phone
		}
	}
	return s, nil
}

// List returns a page of users in the order of their ids: at most limit users after an id.
// next is the id to continue after, or empty at the end. For users in an external directory
// only the ids are known.
func (l Lookup) List(ctx context.Context, after string, limit int) (users []user.User, next string, err error) {
	if l.External {
		ids, err := l.Store.ListBound(ctx, after, limit+1)
		if err != nil {
			return nil, "", err
		}
		for _, id := range ids {
			users = append(users, user.User{ID: id})
		}
	} else if users, err = l.Store.ListUsers(ctx, after, limit+1); err != nil {
		return nil, "", err
	}
	if len(users) > limit { // so there are more
		users = users[:limit]
		next = users[limit-1].ID
	}
	return users, next, nil
}
