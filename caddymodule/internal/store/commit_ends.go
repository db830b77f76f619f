package store

import (
	"context"
	"slices"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
)

// maxEarly bounds how often a login prepares its final transaction by creating lock rows or ending
// sessions. It may have to do so again for another condition, or for sessions that were opened
// meanwhile.
const maxEarly = 4

// tooManyToEnd reports that the final transaction would have to end more sessions than it may end
// while it holds locks. Tables from before the limit on sessions can hold any number of them.
type tooManyToEnd struct {
	ending    session.Ending
	condition string
	args      []any
}

func (*tooManyToEnd) Error() string { return "too many sessions to end within a login" }

// end ends the live sessions that match the condition, and returns their ids.
func (c *committing) end(condition string, args ...any) ([]string, error) {
	if c.Shared() {
		return nil, sqldb.ErrGroup
	}
	ids, err := c.Strings(`SELECT id FROM {sessions} WHERE ended_at = 0 AND `+condition+` LIMIT ? {lock}`, append(slices.Clone(args), endBatch+1)...)
	switch {
	case err != nil || len(ids) == 0:
		return nil, err
	case len(ids) > endBatch:
		return nil, &tooManyToEnd{c.ending(), condition, args}
	}
	// Those that this login ends already are live until its last turnaround.
	ids = slices.DeleteFunc(ids, func(id string) bool { return slices.Contains(c.done.Ended, id) })
	if len(ids) == 0 {
		return nil, nil
	}
	slices.Sort(ids) // all transactions lock sessions in one order, so none deadlocks
	c.endByID(c.ending(), ids)
	return ids, nil
}

// endByID ends the sessions with these ids. Nothing else that the login writes depends on that, so
// it comes last.
func (c *committing) endByID(e session.Ending, ids []string) {
	end, revoke := c.s.db.endings(e, ids)
	for _, st := range append(c.s.db.byIndex(ids), end, revoke) {
		c.writes = append(c.writes, sqldb.Last(st))
	}
}

// maxLive bounds how many of a user's live sessions a login reads.
const maxLive = 200

// liveSessions are a user's live sessions, the last refreshed first. The list is complete if it is
// shorter than maxLive.
type liveSessions []session.Session

// askSessions reads the user's live sessions. Hardly any user has as many as maxLive.
func (c *committing) askSessions() sqldb.Statement {
	return sqldb.Ask(func(r sqldb.Row) error {
		var one session.Session
		var expires int64
		err := r.Scan(&one.ID, &one.AppID, &one.OpenID, &one.Issuer, &expires, &one.Test)
		one.ExpiresAt = c.s.db.fromMillis(expires)
		c.sessions = append(c.sessions, one)
		return err
	}, `SELECT id, appid, openid, issuer, expires_at, test FROM {sessions} WHERE user_id = ? AND ended_at = 0
		ORDER BY refreshed_at DESC, id DESC LIMIT ?`, c.b.UserID, maxLive)
}

// ofOthers reports whether one of the sessions may belong to another account than this openid's.
func (l liveSessions) ofOthers(appid, openid string) bool {
	return len(l) == maxLive || slices.ContainsFunc(l, func(s session.Session) bool { return s.AppID != appid || s.OpenID != openid })
}

// askReplaced reads the session of the refresh token that came with the login.
func (c *committing) askReplaced() sqldb.Statement {
	return c.s.db.askSession(c.l.Replaces, &c.replaces)
}

// endReplaced ends the session that askReplaced has read, if this login may replace it.
func (c *committing) endReplaced() error {
	s, opened := c.replaces, c.l.Session
	if s.ID == "" || !s.EndedAt.IsZero() || s.UserID != opened.UserID || s.AppID != opened.AppID || s.OpenID != opened.OpenID ||
		c.l.Replaceable == nil || !c.l.Replaceable(s) {
		return nil
	}
	c.done.Replaced = s.ID
	c.endByID(c.ending(), []string{s.ID})
	return nil
}

// endSurplus ends the sessions that were refreshed longest ago, so that the user has no more
// sessions than allowed, including the new one. If there are very many, it ends only the first
// part, so that the transaction does not take long. [Store.EndSurplus] ends the rest.
func (c *committing) endSurplus() error {
	if c.l.Max == 0 {
		return nil
	}
	opened := c.l.Session
	var ids []string // first the sessions that stay, then the surplus ones
	for _, s := range c.sessions {
		ended := s.ID == c.done.Replaced || slices.Contains(c.done.Ended, s.ID)
		if !ended && s.AppID == opened.AppID && s.Issuer == opened.Issuer && s.ExpiresAt.After(opened.CreatedAt) {
			ids = append(ids, s.ID)
		}
	}
	if ids = ids[min(c.l.Max-1, len(ids)):]; len(ids) == 0 && len(c.sessions) < maxLive {
		return nil
	}
	c.done.More = len(c.sessions) == maxLive
	if len(ids) == 0 {
		return nil
	}
	e := c.ending()
	e.Reason = session.ReasonMax
	c.done.Surplus = ids
	c.endByID(e, ids)
	return nil
}

// surplus selects a user's live sessions in one app at one issuer, the last refreshed first. It
// leaves out the session that is being opened.
func surplus(opened session.Session, now int64) (query string, args []any) {
	return `SELECT id FROM {sessions} WHERE user_id = ? AND ended_at = 0 AND appid = ? AND issuer = ? AND expires_at > ? AND id <> ?
		ORDER BY refreshed_at DESC, id DESC`, []any{opened.UserID, opened.AppID, opened.Issuer, now, opened.ID}
}

// EndSurplus ends a user's live sessions in batches, until the user has at most the number most in
// one app at one issuer. stays is a session that does not end; it names the user, the app and the
// issuer. EndSurplus calls each after every batch.
func (s *Store) EndSurplus(ctx context.Context, stays session.Session, most int, e session.Ending, each func(ids []string)) error {
	query, args := surplus(stays, s.db.millis(e.Now))
	return s.inBatches(ctx, "ending sessions", func(t *sqldb.Tx, ids []string) error {
		_, err := s.db.endByID(t, e, ids)
		return err
	}, each, most-1, query, args...)
}
