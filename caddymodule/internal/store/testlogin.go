package store

import (
	"context"
	"slices"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
)

// CommitTest opens the session of a test login in one transaction. It binds and moves no openid.
// Like Commit, it checks that the user was neither disabled nor erased meanwhile, and that the
// number is still theirs. It returns login.ErrBound if a WeChat account is bound to the user, in
// whatever state, or was: the account stays that person's after they have moved on.
func (s *Store) CommitTest(ctx context.Context, l login.Commit) (login.Committed, error) {
	return s.commit(ctx, "committing a test login", l, func(c *committing) []sqldb.Statement {
		return append(c.askLocks(), c.askUser(), c.askBindings(), c.askLeft(), c.askSessions())
	}, (*committing).checkLocks, (*committing).checkUser, (*committing).checkUnbound, (*committing).endSurplus, (*committing).open)
}

// askLeft reads whether an openid has left the user, in any app.
func (c *committing) askLeft() sqldb.Statement {
	return sqldb.Ask(func(r sqldb.Row) error {
		c.left = true
		return r.Scan(new(string))
	}, `SELECT user_id FROM {former_openids} WHERE user_id = ? LIMIT 1`, c.b.UserID)
}

// checkUnbound returns an error if the user has, or had, an openid.
func (c *committing) checkUnbound() error {
	if len(c.others) > 0 || c.left {
		return login.ErrBound
	}
	return nil
}

// endTests ends the user's test sessions if this is a phone login, or if it binds an openid because
// an external directory knows it.
func (c *committing) endTests() error {
	if c.l.Silent() && c.own.UserID != "" || len(c.sessions) < maxLive && !slices.ContainsFunc(c.sessions, func(s session.Session) bool { return s.Test != "" }) {
		return nil
	}
	ended, err := c.end(`user_id = ? AND test <> ''`, c.b.UserID)
	c.done.Ended = append(c.done.Ended, ended...)
	return err
}

// HasOpenID reports whether a WeChat account is bound to a user, in whatever state, or was.
func (s *Store) HasOpenID(ctx context.Context, userID string) (has bool, err error) {
	err = s.sql.Read(ctx, "reading a user's bindings", func(t *sqldb.Tx) error {
		has = false
		return t.Each(func(r sqldb.Row) error {
			has = true
			return r.Scan(new(string))
		}, `SELECT user_id FROM {bindings} WHERE user_id = ?
			UNION SELECT user_id FROM {former_openids} WHERE user_id = ?`, userID, userID)
	})
	return has, err
}
