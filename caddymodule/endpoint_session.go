package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// refreshRate is how often a session may be refreshed. The repeats of one token
// whose answer was lost do not count.
var refreshRate = ratelimit.Rate{Count: 10, Per: time.Minute}

// allowRefresh refuses a refresh beyond the rate that would advance.
func (s *site) allowRefresh(sessionID string, now time.Time) error {
	if r := s.shared.refreshes.Check(refreshRate, sessionID, now); r != nil {
		return tooMany{"refresh", refreshRate, *r}
	}
	return nil
}

// countRefresh counts a refresh that has advanced.
func (s *site) countRefresh(sessionID string, now time.Time) {
	s.shared.refreshes.Fail(refreshRate, sessionID, now)
}

var (
	errDisabled  = errors.New("user disabled")
	errDirectory = errors.New("directory unavailable")
	errMint      = errors.New("no token can be minted")
)

// pair is the answer of a login and of a refresh.
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
		ExpiresIn:    max(0, int64(c.live.minter.Expires(s, c.now).Sub(c.now).Seconds())),
		RefreshToken: refreshToken, RefreshExpiresIn: max(0, int64(s.ExpiresAt.Sub(c.now).Seconds())),
	}
}

// answerPair answers a pair; where a cookie is a source, the token is in it too.
func (c *call) answerPair(p pair) error {
	c.setCookie(p.Token, int(p.ExpiresIn))
	return answer(c.w, c.r, http.StatusOK, "application/json", p)
}

// setCookie sets the cookie for so many seconds, and clears it for none.
func (c *call) setCookie(value string, seconds int) {
	name := c.site.set.Gate.Sources.Cookie
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

// refresh takes a refresh token and answers the next pair.
func (c *call) refresh() error {
	if tooEarly(c.r) {
		return refuse(c.w, c.r, problem.New(problem.TooEarly))
	}
	var shown string
	if p := readJSON(c.w, c.r, map[string]any{"refreshToken": &shown}); p != nil {
		return refuse(c.w, c.r, p)
	}
	if shown == "" {
		return refuse(c.w, c.r, problem.Invalid("refreshToken is missing."))
	}
	// As with a login: a client that hangs up after the counter has advanced finds the
	// answer with the same token again.
	ctx, done := c.seenThrough()
	defer done()
	var u user.User
	s, next, err := c.live.sessions.Refresh(ctx, shown, c.now, func(ctx context.Context, s session.Session) (err error) {
		u, err = c.welcome(ctx, s)
		return err
	})
	if err != nil {
		p := c.refreshRefused(s, err)
		c.site.metrics.refreshed(p.Code)
		return refuse(c.w, c.r, p)
	}
	accessToken, err := c.live.minter.Mint(s, u, c.now)
	if err != nil {
		c.site.log.Error("minting a token", zap.Error(err))
		p := problem.New(problem.Misconfigured)
		c.site.metrics.refreshed(p.Code)
		return refuse(c.w, c.r, p)
	}
	c.site.metrics.refreshed("")
	return c.answerPair(c.pair(s, accessToken, next))
}

// reused raises the alarm of a refresh token that was probably stolen.
func (c *call) reused(s session.Session) {
	c.site.log.Warn("a refresh token was shown again after two or more had followed it: it may have been stolen; the session was ended",
		zap.String("session", s.ID), zap.String("user", s.UserID))
	c.site.emit(event{"wx_auth_reuse_detected", map[string]any{"user": s.UserID, "session": s.ID, "appid": s.AppID}})
}

// seenThrough is the context for what is done to its end although the client
// hangs up, or the configuration is replaced meanwhile.
func (c *call) seenThrough() (ctx context.Context, done func()) {
	release := c.site.hold()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.r.Context()), 15*time.Second)
	return ctx, func() {
		cancel()
		release()
	}
}

// welcome asks the directory whether the session's user may go on. Somebody who
// does not exist any more may come back as another: their session has ended, and
// the client logs in again.
func (c *call) welcome(ctx context.Context, s session.Session) (user.User, error) {
	if err := c.mayAsk("refresh", s.ID); err != nil {
		return user.User{}, err
	}
	u, err := c.site.directory.Check(ctx, s.UserID)
	switch {
	case errors.Is(err, user.ErrUnknown), err == nil && u.Disabled:
		gone := err
		if _, err := c.live.sessions.EndUser(ctx, s.UserID, session.ReasonRevoked, c.now); err != nil {
			return u, err
		}
		if gone != nil {
			return u, session.ErrEnded
		}
		return u, errDisabled
	case err != nil:
		return u, errors.Join(errDirectory, err)
	}
	if u.Phone.IsZero() { // the directory returns none: it is the one from WeChat
		b, ok, err := c.site.store.Binding(ctx, s.AppID, s.OpenID)
		if err != nil {
			return u, err
		}
		if ok && b.UserID == u.ID {
			u.Phone = b.Phone
		}
	}
	// To see whether it can be minted: nothing may advance if it cannot.
	if _, err := c.live.minter.Mint(s, u, c.now); err != nil {
		return u, errors.Join(errMint, err)
	}
	return u, nil
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
			c.site.log.Info("a refresh token was shown again after the grace; the session was ended",
				zap.String("session", s.ID), zap.String("user", s.UserID), zap.String("appid", s.AppID),
				zap.String("address", clientIP(c.r)), zap.String("request", requestID(c.r)))
		}
		p := problem.New(problem.SessionEnded)
		p.Reason = string(c.live.sessions.EndReason(s))
		return p
	case errors.Is(err, session.ErrReuse):
		c.reused(s)
		return problem.New(problem.ReuseDetected)
	case errors.Is(err, errDisabled):
		return problem.New(problem.UserDisabled)
	case errors.Is(err, errMint), errors.Is(err, user.ErrMisconfigured):
		c.site.log.Error("refreshing: what the user directory says cannot be used", append(remedyOf(err), zap.String("user", s.UserID), zap.Error(err))...)
		return problem.New(problem.Misconfigured)
	case errors.Is(err, errDirectory):
		c.site.log.Error("refreshing: the user directory does not answer", zap.Error(err))
		return problem.New(problem.DirectoryUnavailable)
	}
	c.site.log.Error("refreshing", zap.Error(err))
	return problem.New(problem.StoreUnavailable)
}

// device is a session as its user sees it.
type device struct {
	ID          string    `json:"id"`
	Current     *bool     `json:"current,omitempty"` // none to the backend
	AppID       string    `json:"appid"`
	CreatedAt   time.Time `json:"createdAt"`
	RefreshedAt time.Time `json:"refreshedAt"`
	UserAgent   string    `json:"userAgent"`
	Address     string    `json:"address"`
}

func deviceOf(s session.Session) device {
	return device{
		ID: s.ID, AppID: s.AppID, CreatedAt: s.CreatedAt.UTC(), RefreshedAt: s.RefreshedAt.UTC(),
		UserAgent: s.UserAgent, Address: s.Address,
	}
}

// listSessions lists the caller's sessions at this issuer, newest first.
func (c *call) listSessions() error {
	caller, p := c.caller()
	if p != nil {
		return refuse(c.w, c.r, p)
	}
	ss, err := c.ofCaller(caller)
	if err != nil {
		return refuse(c.w, c.r, c.storeFailed("listing sessions", err))
	}
	devices := make([]device, 0, len(ss))
	for _, s := range ss {
		d := deviceOf(s)
		current := s.ID == caller.SessionID()
		d.Current = &current
		devices = append(devices, d)
	}
	return answer(c.w, c.r, http.StatusOK, "application/json", map[string]any{"sessions": devices})
}

// endSession ends one of the caller's sessions. For another user's the answer is 404.
func (c *call) endSession() error {
	caller, p := c.caller()
	if p != nil {
		return refuse(c.w, c.r, p)
	}
	ss, err := c.ofCaller(caller)
	if err != nil {
		return refuse(c.w, c.r, c.storeFailed("ending a session", err))
	}
	ctx, done := c.seenThrough()
	defer done()
	// Another replica may have ended the caller's own session a moment ago.
	if lives, err := c.tokenLives(ctx, caller); err != nil {
		return refuse(c.w, c.r, c.storeFailed("ending a session", err))
	} else if !lives {
		return refuse(c.w, c.r, problem.New(problem.TokenRevoked))
	}
	for _, s := range ss {
		if s.ID != c.id {
			continue
		}
		one := shownSession{id: s.ID, userID: s.UserID, reason: session.ReasonLogout}
		ended, err := c.end(ctx, one, false)
		if err != nil {
			return refuse(c.w, c.r, c.storeFailed("ending a session", err))
		}
		c.loggedOut([]shownSession{one}, false, ended)
		if s.ID == caller.SessionID() {
			c.setCookie("", 0)
		}
		return answer(c.w, c.r, http.StatusNoContent, "", nil)
	}
	p = problem.New(problem.NotFound)
	p.Detail = "You have no such session."
	return refuse(c.w, c.r, p)
}

func (c *call) ofCaller(caller *token.Identity) ([]session.Session, error) {
	all, err := c.live.sessions.Store.UserSessions(c.r.Context(), caller.Subject(), c.now)
	ours := all[:0]
	for _, s := range all {
		if s.Issuer == c.live.sessions.Issuer {
			ours = append(ours, s)
		}
	}
	return ours, err
}

// storeFailed logs a failure of the store and returns the answer. A client that hung up
// is no failure of the store.
func (c *call) storeFailed(doing string, err error) *problem.Problem {
	if c.r.Context().Err() == nil || !errors.Is(err, context.Canceled) {
		c.site.log.Error(doing, append(remedyOf(err), zap.Error(err))...)
	}
	if errors.Is(err, user.ErrMisconfigured) {
		return problem.New(problem.Misconfigured)
	}
	return problem.New(problem.StoreUnavailable)
}
