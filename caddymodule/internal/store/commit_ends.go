package store

import (
	"context"
	"slices"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
)

// maxEarly is how often a login ends sessions before its closing transaction. Each
// time is for another condition, or for sessions that were opened meanwhile.
const maxEarly = 4

// tooManyToEnd says that a closing transaction has more sessions to end than it may
// hold its locks for: tables from before there was a bound can have any number.
type tooManyToEnd struct {
	ending    session.Ending
	condition string
	args      []any
}

func (*tooManyToEnd) Error() string { return "too many sessions to end within a login" }

// end ends the live sessions of other accounts that the condition finds, and returns
// their ids.
func (c *committing) end(condition string, args ...any) ([]string, error) {
	ids, err := c.strings(`SELECT id FROM {sessions} WHERE ended_at = 0 AND `+condition+` LIMIT ? {lock}`, append(slices.Clone(args), endBatch+1)...)
	switch {
	case err != nil || len(ids) == 0:
		return nil, err
	case len(ids) > endBatch:
		return nil, &tooManyToEnd{c.ending(), condition, args}
	}
	slices.Sort(ids) // of two that do this at once, neither waits for the other's later rows
	_, err = endByID(c.tx, c.ending(), ids)
	return ids, err
}

// maxLive bounds how many of a user's live sessions a login reads.
const maxLive = 200

// liveSessions are a user's live sessions, refreshed last first; all of them, if there are
// less than maxLive.
type liveSessions []session.Session

// askSessions asks for the user's live sessions. Few users have more than some.
func (c *committing) askSessions() statement {
	return ask(func(r row) error {
		var one session.Session
		var expires int64
		err := r.Scan(&one.ID, &one.AppID, &one.OpenID, &one.Issuer, &expires)
		one.ExpiresAt = c.db.fromMillis(expires)
		c.sessions = append(c.sessions, one)
		return err
	}, `SELECT id, appid, openid, issuer, expires_at FROM {sessions} WHERE user_id = ? AND ended_at = 0
		ORDER BY refreshed_at DESC, id DESC LIMIT ?`, c.b.UserID, maxLive)
}

// ofOthers reports whether one of them may be another account's than this openid's.
func (l liveSessions) ofOthers(appid, openid string) bool {
	return len(l) == maxLive || slices.ContainsFunc(l, func(s session.Session) bool { return s.AppID != appid || s.OpenID != openid })
}

// askReplaced asks for the session whose refresh token the login showed.
func (c *committing) askReplaced() statement {
	return c.db.askSession(c.l.Replaces, &c.replaces)
}

// endReplaced ends that session, if it is one that this login may take the place of.
func (c *committing) endReplaced() error {
	s, opened := c.replaces, c.l.Session
	if s.ID == "" || !s.EndedAt.IsZero() || s.UserID != opened.UserID || s.AppID != opened.AppID || s.OpenID != opened.OpenID ||
		c.l.Replaceable == nil || !c.l.Replaceable(s) {
		return nil
	}
	if _, err := endByID(c.tx, c.ending(), []string{s.ID}); err != nil {
		return err
	}
	c.done.Replaced = s.ID
	return nil
}

// endSurplus ends the sessions that were refreshed longest ago, so that with the one
// that opens now the user has no more than allowed. Of very many it ends the first
// ones: [Store.EndSurplus] ends the others, so that no transaction is long.
func (c *committing) endSurplus() error {
	if c.l.Max == 0 {
		return nil
	}
	opened := c.l.Session
	var ids []string // that stay or are surplus, as surplus finds them
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
	_, err := endByID(c.tx, e, ids)
	c.done.Surplus = ids
	return err
}

// surplus finds the live sessions of a user in an app at an issuer beside the one that
// opens, last refreshed first.
func surplus(opened session.Session, now int64) (query string, args []any) {
	return `SELECT id FROM {sessions} WHERE user_id = ? AND ended_at = 0 AND appid = ? AND issuer = ? AND expires_at > ? AND id <> ?
		ORDER BY refreshed_at DESC, id DESC`, []any{opened.UserID, opened.AppID, opened.Issuer, now, opened.ID}
}

// EndSurplus ends all live sessions that a user has beyond so many, in the app and at
// the issuer of one that stays, in batches. each is called after each of them.
func (s *Store) EndSurplus(ctx context.Context, stays session.Session, most int, e session.Ending, each func(ids []string)) error {
	query, args := surplus(stays, s.db.millis(e.Now))
	return s.inBatches(ctx, "ending sessions", func(t *tx, ids []string) error {
		_, err := endByID(t, e, ids)
		return err
	}, each, most-1, query, args...)
}
