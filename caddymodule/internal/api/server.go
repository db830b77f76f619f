// Package api answers the endpoints under /auth/wx, on net/http. It knows neither Caddy
// nor SQL: a site of package caddymodule gives a [Server] its parts. endpoints.go
// contains the table of endpoints; each endpoint has a file with its name.
package api

import (
	"context"
	"net/http"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/gate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/metrics"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// Server answers the endpoints of one site.
type Server struct {
	Settings
	Host      Host
	Opening   Opening
	State     *State
	Gate      *gate.Gate
	Keys      func() *token.KeySet // the current keys; nil before the first load
	Store     Store
	Directory account.Directory
	Log       *zap.Logger
	Metrics   *metrics.Metrics
	// Emit publishes events, in this order. The answer is final by then: an event handler can
	// neither change nor delay it.
	Emit func(...event.Event)

	warnedPrivate, warnedForwarded, warnedUnrequired atomic.Bool
}

// Settings are the directive's settings for its endpoints.
type Settings struct {
	Prefix     string                  // path of the endpoints, without a slash at its end
	Apps       map[string]App          // by appid; at least one
	ServiceKey func(shown string) bool // reports whether a string is the service key; nil: none is set
	TestLogin  *TestLogin              // nil: none is configured
	Cookie     string                  // name of the cookie that holds the token; empty: none
	LoginRate  ratelimit.Rate          // of refused logins per client; zero: unlimited
	// External means that users are in a directory outside of the store. That may be
	// somebody's backend, so calls to it are limited for each session. Calls to our own
	// directory are not, because a refresh asks the store anyway.
	External bool
}

// App is a mini program.
type App struct {
	wechat.App
	WeChat string               // name of the WeChat to which it belongs
	Push   *wechat.PushReceiver // nil: no messages are pushed to it
	// EraseRevoked means that a user who withdraws the phone number is erased.
	EraseRevoked bool
}

// Host is the web server around a site.
type Host struct {
	// ClientIP returns the client's address. It uses a header only from a trusted
	// proxy.
	ClientIP func(*http.Request) string
	// TrustedProxy reports whether the peer is a trusted proxy.
	TrustedProxy func(*http.Request) bool
	// RequestID returns the id that logs show for a request.
	RequestID func(*http.Request) string
	// Exiting reports whether the process is about to stop. It may still serve
	// requests.
	Exiting func() bool
}

// Opening is the state of a site's store.
type Opening interface {
	// Ready returns what the endpoints need from an open store, or nil while it is not
	// open. It may wait for a short time.
	Ready(context.Context) *Opened
	// IsOpen reports whether Ready would return something, without waiting.
	IsOpen() bool
	// Recorded reports whether the store is known to be this site's. Until then it may
	// hold the users of another directory, so logins are refused.
	Recorded() bool
	// Misconfigured reports whether only the operator can fix what keeps the store
	// closed.
	Misconfigured() bool
	// Hold keeps the store and its connections open for work that outlives the
	// configuration. The work must call release at its end.
	Hold() (release func())
}

// Opened holds the parts that need the keys of an open store.
type Opened struct {
	Sessions session.Sessions
	Verifier *token.Verifier
	Minter   login.Minter
	Chain    login.Chain
	Accounts account.Accounts
}

// Store is the part of the store that the endpoints need besides sessions and logins.
type Store interface {
	// Session returns a session, or [session.ErrNotFound].
	Session(ctx context.Context, id string) (session.Session, error)
	account.Reader
	// Probe writes to the store.
	Probe(context.Context) error
}
