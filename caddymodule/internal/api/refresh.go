package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// refreshRate is how often a session may be refreshed. Repeats of one token after a
// lost answer do not count.
var refreshRate = ratelimit.Rate{Count: 10, Per: time.Minute}

// AllowRefresh refuses a refresh beyond the rate if it would advance.
func (s *Server) AllowRefresh(sessionID string, now time.Time) error {
	if r := s.State.refreshes.Check(refreshRate, sessionID, now); r != nil {
		return tooMany{"refresh", refreshRate, *r}
	}
	return nil
}

// CountRefresh counts a refresh that has advanced.
func (s *Server) CountRefresh(sessionID string, now time.Time) {
	s.State.refreshes.Fail(refreshRate, sessionID, now)
}

// pair is the answer to a login or a refresh.
type pair struct {
	Token            string         `json:"token"`
	TokenType        string         `json:"tokenType"`
	ExpiresIn        int64          `json:"expiresIn"`        // seconds
	RefreshToken     string         `json:"refreshToken"`     //
	RefreshExpiresIn int64          `json:"refreshExpiresIn"` // seconds
	UserInfo         map[string]any `json:"userInfo,omitempty"`
}

func (c *call) pair(s session.Session, accessToken, refreshToken string) pair {
	return pair{
		Token: accessToken, TokenType: "Bearer",
		ExpiresIn:    max(0, int64(c.Minter.Expires(s, c.now).Sub(c.now).Seconds())),
		RefreshToken: refreshToken, RefreshExpiresIn: max(0, int64(s.ExpiresAt.Sub(c.now).Seconds())),
	}
}

// answerPair answers with a pair. If a cookie is a source of tokens, the token is put
// into it too.
func (c *call) answerPair(p pair) error {
	c.setCookie(p.Token, int(p.ExpiresIn))
	return c.answer(http.StatusOK, "application/json", p)
}

// setCookie sets the cookie for that many seconds. Zero clears it.
func (c *call) setCookie(value string, seconds int) {
	name := c.Cookie
	if name == "" {
		return
	}
	if seconds <= 0 {
		value, seconds = "", -1
	}
	http.SetCookie(c.w, &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: seconds, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// refresh takes a refresh token and answers with the next pair.
func (c *call) refresh() error {
	if tooEarly(c.r) {
		return c.refuse(problem.New(problem.TooEarly))
	}
	var shown string
	if p := readJSON(c.w, c.r, map[string]any{"refreshToken": &shown}); p != nil {
		return c.refuse(p)
	}
	if shown == "" {
		return c.refuse(problem.Invalid("refreshToken is missing."))
	}
	// As with a login, a client that hangs up after the counter has advanced can get
	// the answer by sending the same token again.
	ctx, done := c.seenThrough()
	defer done()
	r, err := c.Accounts.Refresh(ctx, shown, c.now, func(sessionID string) error { return c.mayAsk("refresh", sessionID) })
	if err != nil {
		return c.refuse(c.refreshRefused(r.Session, err))
	}
	c.worked()
	c.Metrics.Refresh("")
	return c.answerPair(c.pair(r.Session, r.Token, r.RefreshToken))
}

// reused writes a log line and an event, because a refresh token was probably stolen.
func (c *call) reused(s session.Session) {
	c.Log.Warn("a refresh token was shown again after two or more had followed it: it may have been stolen; the session was ended",
		c.about(zap.String("session", s.ID), zap.String("user", s.UserID), zap.String("appid", s.AppID),
			remedy.RefreshTokenReused.Field("nothing, if it happens rarely: the user logs in again; if often, look for a client that keeps old refresh tokens"))...)
	c.Emit(event.ReuseDetected(s))
}

// seenThrough returns a context for work that must be completed even if the client
// hangs up or the configuration is replaced meanwhile.
func (c *call) seenThrough() (ctx context.Context, done func()) {
	release := c.Opening.Hold()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.r.Context()), 15*time.Second)
	return ctx, func() {
		cancel()
		release()
	}
}

func (c *call) refreshRefused(s session.Session, err error) *problem.Problem {
	var much tooMany
	switch {
	case errors.As(err, &much):
		return much.problem()
	case errors.Is(err, session.ErrRefreshInvalid):
		return problem.New(problem.RefreshInvalid)
	case errors.Is(err, session.ErrEnded):
		if errors.Is(err, session.ErrLate) {
			c.Log.Info("a refresh token was shown again after the grace; the session was ended",
				zap.String("session", s.ID), zap.String("user", s.UserID), zap.String("appid", s.AppID),
				zap.String("address", c.address()), zap.String("requestId", c.requestID()))
		}
		p := problem.New(problem.SessionEnded)
		p.Reason = string(c.Sessions.EndReason(s))
		return p
	case errors.Is(err, session.ErrReuse):
		c.reused(s)
		return problem.New(problem.ReuseDetected)
	case errors.Is(err, account.ErrDisabled):
		c.Log.Info("a refresh of a disabled user; the sessions have ended", c.about(zap.String("session", s.ID), zap.String("user", s.UserID))...)
		return problem.New(problem.UserDisabled)
	case errors.Is(err, account.ErrMint), errors.Is(err, user.ErrMisconfigured):
		c.Log.Error("refreshing: what the user directory says cannot be used",
			c.about(zap.String("user", s.UserID), zap.Error(err), remedy.DirectoryUnusable.Of(err, "see the error: what the directory answers for this user must be changed"))...)
		return problem.New(problem.Misconfigured)
	case errors.Is(err, account.ErrDirectory):
		return c.directoryOrStoreFailed("refreshing", err)
	}
	return c.storeFailed("refreshing", err)
}

// directoryOrStoreFailed logs that the directory did not answer, and returns the problem for
// the client. The error may also come from the store: the directory may be in the store, or
// ask the store first.
func (c *call) directoryOrStoreFailed(doing string, err error) *problem.Problem {
	if errors.Is(err, user.ErrMisconfigured) || login.OfStore(err) {
		return c.storeFailed(doing, err)
	}
	if c.r.Context().Err() == nil || !errors.Is(err, context.Canceled) {
		c.directoryFailed(err)
		c.Log.Log(c.levelOf(zapcore.ErrorLevel, string(problem.DirectoryUnavailable)), doing+": the user directory does not answer",
			c.about(zap.Error(err), remedy.DirectoryAway.Of(err, remedyDirectory))...)
	}
	return problem.New(problem.DirectoryUnavailable)
}

// storeFailed logs a failure of the store and returns the answer. If the client has
// hung up, that is not a failure of the store.
func (c *call) storeFailed(doing string, err error) *problem.Problem {
	if c.r.Context().Err() == nil || !errors.Is(err, context.Canceled) {
		level := zapcore.ErrorLevel
		if !errors.Is(err, user.ErrMisconfigured) {
			level = c.levelOf(level, string(problem.StoreUnavailable))
		}
		c.Log.Log(level, doing, c.about(zap.Error(err), remedy.StoreAway.Of(err, remedyStore))...)
	}
	if errors.Is(err, user.ErrMisconfigured) {
		return problem.New(problem.Misconfigured)
	}
	return problem.New(problem.StoreUnavailable)
}
