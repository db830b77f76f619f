package store

import (
	"context"
	"sync"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// readAhead holds what the store has read ahead for one login or refresh, in the same turnaround as
// an earlier query: what is known of the account, and the user. Each is used once. A nil readAhead
// holds nothing.
type readAhead struct {
	store *Store

	mu      sync.Mutex
	account login.Account
	known   *login.Known
	phone   user.Phone // the number of owner
	owner   *foundUser
	byID    *foundUser
	id      string    // the id of byID
	ours    user.User // the user that the store's own directory returned
}

// foundUser is a user that was read, or the reason why they could not be read.
type foundUser struct {
	user user.User
	err  error
}

type readAheadKey struct{}

// Together returns a context for all calls of one login or refresh. With it, the store may read
// ahead what the next call will ask for.
func (s *Store) Together(ctx context.Context) context.Context {
	return context.WithValue(ctx, readAheadKey{}, &readAhead{store: s})
}

// readAhead returns what earlier calls with this context have read ahead. It is nil without
// Together.
func (s *Store) readAhead(ctx context.Context) *readAhead {
	if b, _ := ctx.Value(readAheadKey{}).(*readAhead); b != nil && b.store == s {
		return b
	}
	return nil
}

// note stores what was read about an account and, if r.users is set, about its user.
func (b *readAhead) note(a login.Account, known *login.Known, r *accountReader) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.account, b.known = a, known
	b.owner, b.byID = nil, nil
	switch {
	case !r.users:
	case !a.Phone.IsZero():
		b.phone, b.owner = a.Phone, r.theOwner()
	default:
		b.id, b.byID = r.bound.UserID, r.byID[r.bound.UserID]
	}
}

// noteUser stores a user that was read by id.
func (b *readAhead) noteUser(id string, found *foundUser) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.id, b.byID = id, found
}

// takeKnown returns what is known of an account, once.
func (b *readAhead) takeKnown(a login.Account) (login.Known, bool) {
	if b == nil {
		return login.Known{}, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	known := b.known
	if known == nil || b.account != a {
		return login.Known{}, false
	}
	b.known = nil
	return *known, true
}

// takeOwner returns the owner of a number, once. It returns nil if the owner was not read.
func (b *readAhead) takeOwner(p user.Phone) *foundUser {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	owner := b.owner
	if owner == nil || b.phone != p {
		return nil
	}
	b.owner = nil
	return owner
}

// takeUser returns the user with this id, once. It returns nil if they were not read.
func (b *readAhead) takeUser(id string) *foundUser {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	found := b.byID
	if found == nil || b.id != id {
		return nil
	}
	b.byID = nil
	return found
}

// noteOurs records which user the store's own directory returned. If the user is new, they are
// written when the login is committed.
func (b *readAhead) noteOurs(u user.User) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ours = u
}

// isOurs reports whether the store's own directory returned the user with this id, and returns them
// if they are still to be written.
func (b *readAhead) isOurs(id string) (ours bool, unwritten *user.User) {
	if b == nil {
		return false, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if u := b.ours; u.ID == id && u.New {
		unwritten = &u
	}
	return b.ours.ID == id, unwritten
}
