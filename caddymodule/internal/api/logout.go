package api

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// logout ends the session of the presented token, refresh token or both, or all sessions
// of its user. A session that has already ended is no error, and an expired token still
// ends its own session.
func (c *call) logout() error {
	var refreshToken string
	var all bool
	if p := readOptionalJSON(c.w, c.r, map[string]any{"refreshToken": &refreshToken, "all": &all}); p != nil {
		return c.refuse(p)
	}
	ctx, done := c.seenThrough()
	defer done()
	list, p := c.presented(ctx, refreshToken, all)
	if p != nil {
		if p.Status == http.StatusUnauthorized && p.Code != problem.TokenMissing {
			c.setCookie("", 0) // unless no cookie was sent: such a request may come from another site
		}
		return c.refuse(p)
	}
	var ended session.Ended
	for _, one := range list {
		some, err := c.Accounts.LogOut(ctx, one, all, c.now)
		ended.Join(some)
		if err != nil {
			return c.refuse(c.storeFailed("logging out", err))
		}
	}
	c.loggedOut(list, all, ended)
	c.setCookie("", 0)
	if all && !slices.ContainsFunc(list, func(p account.Presented) bool { return p.Current }) {
		return c.refuse(problem.New(problem.SessionEnded))
	}
	return c.answer(http.StatusNoContent, "", nil)
}

// presented returns the sessions of the token and of the refresh token. A session that
// is no longer stored is left out. Current is determined only if all is set.
func (c *call) presented(ctx context.Context, refreshToken string, all bool) (list []account.Presented, _ *problem.Problem) {
	caller, p := c.formerCaller()
	switch {
	case p == nil:
		one := account.Presented{Session: session.Session{ID: caller.SessionID(), UserID: caller.Subject()}}
		if all {
			var err error
			if one.Current, err = c.isOpen(ctx, caller); err != nil {
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
	one, err := c.Accounts.ByRefreshToken(ctx, refreshToken, c.now)
	switch {
	case errors.Is(err, session.ErrRefreshInvalid):
		if caller == nil {
			return nil, problem.New(problem.RefreshInvalid)
		}
	case errors.Is(err, session.ErrEnded):
	case err != nil:
		return nil, c.storeFailed("logging out", err)
	default:
		if all && one.Reused {
			c.reused(one.Session)
		}
		list = append(list, one)
	}
	return list, nil
}

// isOpen reports whether the caller's token is good, and its session open in the store.
func (c *call) isOpen(ctx context.Context, caller *token.Identity) (bool, error) {
	if _, p := c.caller(); p != nil {
		return false, nil
	}
	return c.Accounts.IsOpen(ctx, caller.SessionID(), caller.Subject(), c.now)
}

// loggedOut writes the log line of a logout.
func (c *call) loggedOut(list []account.Presented, all bool, ended session.Ended) {
	users := make([]string, 0, len(list))
	for _, one := range list {
		if !slices.Contains(users, one.Session.UserID) {
			users = append(users, one.Session.UserID)
		}
	}
	c.Log.Info("logout", zap.Strings("users", users), zap.Bool("all", all), zap.Int("ended", ended.Count),
		zap.Strings("sessions", ended.IDs), zap.String("address", c.address()), zap.String("requestId", c.requestID()))
	c.State.streaks.worked(string(problem.StoreUnavailable))
}
