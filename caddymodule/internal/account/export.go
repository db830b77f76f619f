package account

import (
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Export is everything that the store keeps about a user.
type Export struct {
	// User is the record, if users live in the store; nil otherwise.
	User *user.User
	// Disabled reports that a user in an external directory is disabled here.
	Disabled bool
	// ErasedAt is the time of the erasure whose tombstone is still there, or zero.
	ErasedAt time.Time
	// Bindings are the user's openids in each state. Former are the marks of openids that
	// left. Sessions are the newest sessions, including ended ones.
	Bindings []user.Binding
	Former   []FormerOpenID
	Sessions []session.Session
}

// FormerOpenID is the last openid that left a user in an app.
type FormerOpenID struct {
	AppID, OpenID, UnionID string
	LeftAt                 time.Time
}

// Empty reports whether nothing is kept.
func (x *Export) Empty() bool {
	return x.User == nil && !x.Disabled && x.ErasedAt.IsZero() && len(x.Bindings)+len(x.Former)+len(x.Sessions) == 0
}
