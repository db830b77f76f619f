package api

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// shownSession is a session that a logout names, by a token or a refresh token.
type shownSession struct {
	id, userID string
	// live: what was shown is good enough to end all sessions of the user.
	live   bool
	reason session.Reason
}

// logout ends the session that is shown, by token, refresh token or both, or all
// sessions of its user. A session that has ended already is no error, and an
// expired token still ends its own session. But only what is live ends others: a
// thief whose session the owner has ended must not be able to end the owner's.
func (c *call) logout() error {
	var refreshToken string
	var all bool
	if p := readOptionalJSON(c.w, c.r, map[string]any{"refreshToken": &refreshToken, "all": &all}); p != nil {
		return c.refuse(p)
	}
	ctx, done := c.seenThrough()
	defer done()
	list, p := c.shownSessions(ctx, refreshToken, all)
	if p != nil {
		if p.Status == http.StatusUnauthorized && p.Code != problem.TokenMissing {
			c.setCookie("", 0) // it is of no use. Without one, the request may be another site's.
		}
		return c.refuse(p)
	}
	var ended session.Ended
	for _, one := range list {
		some, err := c.end(ctx, one, all)
		ended.Join(some)
		if err != nil {
			return c.refuse(c.storeFailed("logging out", err))
		}
	}
	c.loggedOut(list, all, ended)
	c.setCookie("", 0)
	if all && !slices.ContainsFunc(list, func(s shownSession) bool { return s.live }) {
		return c.refuse(problem.New(problem.SessionEnded))
	}
	return c.answer(http.StatusNoContent, "", nil)
}

// shownSessions are those of the token and of the refresh token. Of a session
// that is forgotten there is nothing to end. live is looked into for all only.
func (c *call) shownSessions(ctx context.Context, refreshToken string, all bool) (list []shownSession, _ *problem.Problem) {
	caller, p := c.formerCaller()
	switch {
	case p == nil:
		one := shownSession{id: caller.SessionID(), userID: caller.Subject(), reason: session.ReasonLogout}
		if all {
			var err error
			if one.live, err = c.tokenLives(ctx, caller); err != nil {
				return nil, c.storeFailed("logging out", err)
			}
		}
		list = append(list, one)
	case refreshToken == "" || p.Status != http.StatusUnauthorized:
		return nil, p
	}
	if refreshToken == "" {
		return list, nil
	}
	s, err := c.Sessions.ByRefreshToken(ctx, refreshToken)
	switch {
	case errors.Is(err, session.ErrRefreshInvalid):
		if caller == nil {
			return nil, problem.New(problem.RefreshInvalid)
		}
	case errors.Is(err, session.ErrEnded):
	case err != nil:
		return nil, c.storeFailed("logging out", err)
	default:
		one := shownSession{id: s.ID, userID: s.UserID, reason: session.ReasonLogout}
		if all {
			worth := c.Sessions.CheckRefreshToken(refreshToken, s, c.now)
			one.live = worth == nil
			if errors.Is(worth, session.ErrReuse) {
				one.reason = session.ReasonRevoked
				c.reused(s)
			}
		}
		list = append(list, one)
	}
	return list, nil
}

// tokenLives reports whether the token is good, and its session live in the
// store: another replica may have ended it a moment ago.
func (c *call) tokenLives(ctx context.Context, caller *token.Identity) (bool, error) {
	if _, p := c.caller(); p != nil {
		return false, nil
	}
	s, err := c.Store.Session(ctx, caller.SessionID())
	if errors.Is(err, session.ErrNotFound) {
		return false, nil
	}
	return err == nil && s.UserID == caller.Subject() && !c.Sessions.Over(s, c.now), err
}

// end ends what was shown: all sessions of its user if it is asked to and what
// was shown is live, else its session. A write that failed is an error, so that
// no answer reports a logout that did not happen.
func (c *call) end(ctx context.Context, one shownSession, all bool) (session.Ended, error) {
	if !all || !one.live {
		return c.Accounts.End(ctx, session.Session{ID: one.id, UserID: one.userID}, one.reason, c.now)
	}
	ended, err := c.Sessions.EndUserBy(ctx, one.id, one.userID, one.reason, c.now)
	c.Emit(event.Revoked(one.userID, ended, one.reason)...)
	return ended, err
}

// loggedOut writes the log line of a logout.
func (c *call) loggedOut(list []shownSession, all bool, ended session.Ended) {
	users := make([]string, 0, len(list))
	for _, one := range list {
		if !slices.Contains(users, one.userID) {
			users = append(users, one.userID)
		}
	}
	c.Log.Info("logout", zap.Strings("users", users), zap.Bool("all", all), zap.Int("ended", ended.Count),
		zap.Strings("sessions", ended.IDs), zap.String("address", c.address()), zap.String("request", c.requestID()))
}
