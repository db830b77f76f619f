package store

import (
	"context"
	"database/sql"
	"errors"
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

// endReplaced ends the session whose refresh token the login showed, if that is one
// that this login may take the place of.
func (c *committing) endReplaced() error {
	if c.l.Replaces == "" {
		return nil
	}
	s, err := c.session(c.l.Replaces)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	opened := c.l.Session
	if err != nil || !s.EndedAt.IsZero() || s.UserID != opened.UserID || s.AppID != opened.AppID || s.OpenID != opened.OpenID ||
		c.l.Replaceable == nil || !c.l.Replaceable(s) {
		return err
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
	query, args := surplus(c.l.Session, c.db.millis(c.l.Session.CreatedAt))
	ids, err := c.strings(query+` LIMIT ? OFFSET ?`, append(args, endBatch, c.l.Max-1)...)
	if err != nil || len(ids) == 0 {
		return err
	}
	e := c.ending()
	e.Reason = session.ReasonMax
	_, err = endByID(c.tx, e, ids)
	c.done.Surplus, c.done.More = ids, len(ids) == endBatch
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
