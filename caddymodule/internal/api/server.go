// Package api answers the endpoints under /auth/wx, on net/http. It knows neither Caddy
// nor SQL: a site of package caddymodule hands a [Server] its parts. endpoints.go has the
// table of endpoints; each has a file with its name.
package api

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/gate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// Server answers the endpoints of one site.
type Server struct {
	Settings
	Host      Host
	Opening   Opening
	State     *State
	Gate      *gate.Gate
	Keys      func() *token.KeySet // the keys in force; nil before the first load
	Store     Store
	Directory account.Directory
	Log       *zap.Logger
	Metrics   *Metrics
	// Emit hands events over, in this order. The answer is settled by then: a handler of
	// events can neither change nor delay it.
	Emit func(...event.Event)

	warnedPrivate, warnedForwarded, warnedUnrequired atomic.Bool
}

// Settings are the settings of a directive about its endpoints.
type Settings struct {
	Prefix     string                  // under which the endpoints live, without a slash at its end
	Apps       map[string]App          // by appid; at least one
	ServiceKey func(shown string) bool // reports whether it is the service key; nil: none is set
	Cookie     string                  // the name of the cookie with the token; empty: none
	LoginRate  ratelimit.Rate          // how many refused logins of one client; zero: any number
	// LimitDirectory limits how often one session has the directory asked, which may be
	// somebody's backend. Our own is the store, which is asked for each refresh anyway.
	LimitDirectory bool
}

// App is a mini program.
type App struct {
	wechat.App
	WeChat string               // names the WeChat that it belongs to
	Push   *wechat.PushReceiver // nil: it is not pushed to
}

// Host is what the web server around a site knows.
type Host struct {
	// ClientIP returns the client's address: a header counts only from a trusted proxy.
	ClientIP func(*http.Request) string
	// TrustedProxy reports whether the peer is a trusted proxy.
	TrustedProxy func(*http.Request) bool
	// RequestID returns the id that logs show for a request.
	RequestID func(*http.Request) string
	// Exiting reports whether the process is about to end. It may go on serving.
	Exiting func() bool
}

// Opening is the state of a site's store.
type Opening interface {
	// Ready returns what the endpoints need of an open store; nil while it is not open. It
	// may wait for a short time.
	Ready(context.Context) *Opened
	// IsOpen is whether Ready returns something, without waiting.
	IsOpen() bool
	// Recorded reports whether the store is known to be this site's. Until then it may
	// hold the users of another directory, and takes no logins.
	Recorded() bool
	// Misconfigured reports whether only the operator can have the store opened.
	Misconfigured() bool
	// Hold keeps the store and the connections open for work that outlives the
	// configuration.
	Hold() (release func())
}

// Opened is what is made with the keys of an open store.
type Opened struct {
	Sessions session.Sessions
	Verifier *token.Verifier
	Minter   login.Minter
	Chain    login.Chain
	Accounts account.Accounts
}

// Store is what the endpoints need of the store beyond sessions and logins.
type Store interface {
	// Session returns a session; [session.ErrNotFound] if there is none.
	Session(ctx context.Context, id string) (session.Session, error)
	// UserSessions lists the sessions of a user that have not ended, newest first.
	UserSessions(ctx context.Context, userID string, now time.Time) ([]session.Session, error)
	// UserBindings lists the openids of a user, active ones first.
	UserBindings(ctx context.Context, userID string) ([]user.Binding, error)
	// Probe writes to the store.
	Probe(context.Context) error
}
