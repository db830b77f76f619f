package store

import (
	"context"
	"errors"
	"slices"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
)

// CommitTest opens the session of a test login in one transaction. It binds and moves no openid.
// Like Commit, it checks that the user was neither disabled nor erased meanwhile, and that the
// number is still theirs. It returns login.ErrBound if a WeChat account is bound to the user, in
// whatever state.
func (s *Store) CommitTest(ctx context.Context, l login.Commit) (done login.Committed, err error) {
	ours, unwritten := s.readAhead(ctx).isOurs(l.Binding.UserID)
	for range maxEarly {
		err = s.write(ctx, "committing a test login", func(t *tx) error {
			c := &committing{tx: t, s: s, l: l, b: l.Binding, ours: ours, unwritten: unwritten}
			if err := t.send(false, append(c.askLocks(), c.askUser(), c.askBindings(), c.askSessions())...); err != nil {
				return err
			}
			for _, step := range []func() error{c.checkLocks, c.checkUser, c.checkUnbound, c.endSurplus} {
				if err := step(); err != nil {
					return err
				}
			}
			opened, err := insertSession(c.db, l.Session)
			if err != nil {
				return err
			}
			done = c.done
			return c.finish(opened)
		})
		if !errors.Is(err, errNoLock) {
			return done, err
		}
		if err := s.makeLocks(ctx); err != nil {
			return done, err
		}
	}
	return done, err
}

// checkUnbound returns an error if the user has an openid.
func (c *committing) checkUnbound() error {
	if len(c.others) > 0 {
		return login.ErrBound
	}
	return nil
}

// endTests ends the user's test sessions if this is a phone login.
func (c *committing) endTests() error {
	if c.l.Silent() || len(c.sessions) < maxLive && !slices.ContainsFunc(c.sessions, func(s session.Session) bool { return s.Test != "" }) {
		return nil
	}
	ended, err := c.end(`user_id = ? AND test <> ''`, c.b.UserID)
	c.done.Ended = append(c.done.Ended, ended...)
	return err
}

// HasOpenID reports whether a WeChat account is bound to a user, in whatever state.
func (s *Store) HasOpenID(ctx context.Context, userID string) (has bool, err error) {
	err = s.read(ctx, "reading a user's bindings", func(t *tx) error {
		has = false
		return t.each(func(r row) error {
			has = true
			return r.Scan(new(string))
		}, `SELECT user_id FROM {bindings} WHERE user_id = ? LIMIT 1`, userID)
	})
	return has, err
}
