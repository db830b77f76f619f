package store

import (
	"context"
	"sync"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// beside is what the store has read beside an answer, in the same turnaround, for the
// question that comes next in a login or a refresh: what is known of the account, and the
// user. Each is used once. A nil beside holds nothing.
type beside struct {
	store *Store

	mu      sync.Mutex
	account login.Account
	known   *login.Known
	phone   user.Phone // of owner
	owner   *foundUser
	byID    *foundUser
	id      string // of byID
}

// foundUser is a user as they were read, or why they could not be.
type foundUser struct {
	user user.User
	err  error
}

type besideKey struct{}

// Together returns the context for the questions of one login or refresh.
func (s *Store) Together(ctx context.Context) context.Context {
	return context.WithValue(ctx, besideKey{}, &beside{store: s})
}

// beside returns what was read beside the answers before; nil if nobody asks for that.
func (s *Store) beside(ctx context.Context) *beside {
	if b, _ := ctx.Value(besideKey{}).(*beside); b != nil && b.store == s {
		return b
	}
	return nil
}

// note keeps what was read of an account, and of its user where users is set.
func (b *beside) note(a login.Account, known *login.Known, r *accountReader) {
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

// noteUser keeps a user who was read by their id.
func (b *beside) noteUser(id string, found *foundUser) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.id, b.byID = id, found
}

// account returns what is known of an account, once.
func (b *beside) takeKnown(a login.Account) (login.Known, bool) {
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

// takeOwner returns the owner of a number, once; nil if it was not asked who that is.
func (b *beside) takeOwner(p user.Phone) *foundUser {
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

// takeUser returns the user of an id, once; nil if they were not read.
func (b *beside) takeUser(id string) *foundUser {
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
