package caddymodule

import (
	"context"
	"errors"
	"net/http"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
)

// logout ends the session that is shown, by token, refresh token or both, or
// all sessions of its user. What has ended already is no error; an expired
// token of ours will do.
func (c *call) logout() error {
	var shown string
	var all bool
	if p := readOptionalJSON(c.w, c.r, map[string]any{"refreshToken": &shown, "all": &all}); p != nil {
		return p.write(c.w, c.r)
	}
	ctx, done := c.seenThrough()
	defer done()
	sessions := make(map[string]string) // id -> user
	caller, p := c.formerCaller()
	switch {
	case p == nil:
		sessions[caller.SessionID()] = caller.Subject()
	case shown == "" || p.Status != http.StatusUnauthorized:
		return p.write(c.w, c.r)
	}
	if shown != "" {
		s, err := c.live.sessions.Shown(ctx, shown)
		switch {
		case err == nil:
			sessions[s.ID] = s.UserID
		case errors.Is(err, session.ErrEnded):
			if s.ID != "" && all {
				sessions[s.ID] = s.UserID
			}
		case errors.Is(err, session.ErrRefreshInvalid):
			if caller == nil {
				return newProblem(codeRefreshInvalid).write(c.w, c.r)
			}
		default:
			return c.storeFailed("logging out", err).write(c.w, c.r)
		}
	}
	for id, userID := range sessions {
		end := c.endOne
		if all {
			end = c.endAll
		}
		if err := end(ctx, id, userID, session.ReasonLogout); err != nil {
			return c.storeFailed("logging out", err).write(c.w, c.r)
		}
	}
	c.setCookie("", 0)
	return answer(c.w, c.r, http.StatusNoContent, "", nil)
}

// endOne ends a session. A write that failed is an error, so that no answer
// reports a logout that did not happen.
func (c *call) endOne(ctx context.Context, id, userID string, reason session.Reason) error {
	ended, err := c.live.sessions.End(ctx, id, reason, c.now)
	if err == nil && ended {
		c.emitEnded(userID, session.Ended{Count: 1, IDs: []string{id}}, reason)
	}
	return err
}

// endAll ends all sessions of a user.
func (c *call) endAll(ctx context.Context, _, userID string, reason session.Reason) error {
	ended, err := c.live.sessions.EndUser(ctx, userID, reason, c.now)
	c.emitEnded(userID, ended, reason)
	return err
}
