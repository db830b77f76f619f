package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Commit ends a login, in one transaction: it binds the openid to its user, opens
// the session, keeps under which codes it was opened, and marks the login code as
// spent. Whatever of the login was decided before is checked once more, since it may
// have changed; see [login.Store] for the errors, with which nothing is written.
//
// A silent login ends, moves and suspends nothing. A phone login by an openid whose
// binding to this user is active ends nothing either, and one that is suspended becomes
// active. Any other may be that of a new owner of a recycled number, and the rule
// decides what becomes of the other accounts. An openid that was bound to another user
// moves.
func (s *Store) Commit(ctx context.Context, l login.Commit) (done login.Committed, err error) {
	if !l.Rule.Valid() {
		return login.Committed{}, fmt.Errorf("unknown rule %q for a new openid", l.Rule)
	}
	if len(l.Value) > maxKept {
		return login.Committed{}, fmt.Errorf("committing a login: %d bytes are too many to keep", len(l.Value))
	}
	var early []string
	for range maxEarly {
		err = s.write(ctx, "committing a login", func(t *tx) (err error) {
			done, err = s.commit(t, l)
			return err
		})
		var many *tooManyToEnd
		if errors.Is(err, errNoLock) {
			if err = s.makeLocks(ctx); err == nil {
				continue
			}
		}
		if !errors.As(err, &many) {
			break
		}
		// Nothing is written yet. What the login would end ends before it, in batches.
		err = s.endAll(ctx, many.ending, func(ids []string) { early = append(early, ids...) }, many.condition, many.args...)
		if err != nil {
			break
		}
	}
	if err != nil {
		return login.Committed{}, err
	}
	done.Ended = append(early, done.Ended...)
	return done, nil
}

// commit is two turnarounds: one locks and reads whatever the login is decided by, the
// other writes. What lies between is decided in Go; where sessions of other accounts end,
// they are asked for in between.
func (s *Store) commit(t *tx, l login.Commit) (login.Committed, error) {
	c := &committing{tx: t, s: s, l: l, b: l.Binding}
	if err := t.send(false, c.questions()...); err != nil {
		return login.Committed{}, err
	}
	for _, step := range []func() error{
		c.locked, c.replayed, c.admitted, c.unspent, c.decide, c.bind, c.endReplaced, c.endSurplus,
	} {
		if err := step(); err != nil {
			return login.Committed{}, err
		}
	}
	if err := c.open(); err != nil {
		return login.Committed{}, err
	}
	return c.done, nil
}

// committing is the closing transaction of a login.
type committing struct {
	*tx
	s *Store
	l login.Commit
	b user.Binding // as it will be

	// What the questions found.
	missing  int             // locks that were not there
	opened   []byte          // what is kept of the session that these codes have opened; nil: none
	codeLeft bool            // the login code has opened none
	user     error           // why the user is not admitted
	own      boundOpenID     // the binding of the openid, if it has a UserID
	others   []boundOpenID   // the user's other ones, in all apps
	alike    []boundOpenID   // those of the unionid to other users, in all apps
	former   boundOpenID     // the last openid that left the user in this app
	sessions liveSessions    // the user's
	replaces session.Session // that of the refresh token, if it has an ID

	writes []statement
	done   login.Committed
}

// boundOpenID is a binding, and when its state last changed.
type boundOpenID struct {
	user.Binding
	since int64 // milliseconds by the database's clock
}

// write adds a statement to the last turnaround.
func (c *committing) write(query string, args ...any) {
	c.writes = append(c.writes, say(query, args...))
}

// questions are all that a login is decided by. The lock comes first: what is read behind
// it is as other logins of the user have left it.
func (c *committing) questions() (list []statement) {
	list = append(c.askLocks(), c.askCode(), c.askReplayed(), c.askUser(), c.askBindings(), c.askSessions())
	if c.l.Replaces != "" {
		list = append(list, c.askReplaced())
	}
	return list
}

// askLocks makes other logins of the user wait, and those of the user that the openid may
// move away from. All changes of a user's bindings and marks take this lock. Each row is
// asked for by itself: MySQL may read a small table as a whole to find two, and wait for
// the locks of all its rows.
func (c *committing) askLocks() (list []statement) {
	if c.db.dialect.oneWriter {
		return nil
	}
	users := []string{c.b.UserID}
	if from := c.l.Known.UserID; from != "" && !c.l.Silent() {
		users = append(users, from)
	}
	for _, n := range stripesOf(users) {
		list = append(list, ask(func(r row) error {
			c.missing--
			return r.Scan(new(int64))
		}, `SELECT stripe FROM {user_locks} WHERE stripe = ? {lock}`, int64(n)))
	}
	c.missing = len(list)
	return list
}

// locked is false in a database that is new: there the rows to lock are still to make.
func (c *committing) locked() error {
	if c.missing > 0 {
		return errNoLock
	}
	return nil
}

// askCode locks what is kept of the login code. Of several logins with the same code, each
// with another phone code, at another site or on another replica, one comes first.
func (c *committing) askCode() statement {
	return ask(func(r row) error {
		var spent int64
		err := r.Scan(&spent)
		c.codeLeft = spent == 0
		return err
	}, `SELECT spent FROM {kept_steps} WHERE step = ? {lock}`, c.l.Code[:])
}

// askReplayed asks which session these codes have opened.
func (c *committing) askReplayed() statement {
	return ask(func(r row) error {
		var sealed []byte
		if err := r.Scan(&sealed); err != nil {
			return err
		}
		value, err := c.s.keys.Load().open(keptPlace(c.l.Login), sealed)
		c.opened = append([]byte{}, value...)
		return err
	}, `SELECT value FROM {kept_steps} WHERE step = ? AND expires_at > ?`, c.l.Login[:], c.db.millis(c.l.Session.CreatedAt))
}

// replayed ends the transaction if these codes have opened a session already. The login
// that opened it has the same user, and so held the lock.
func (c *committing) replayed() error {
	if c.opened != nil {
		return &login.Opened{Value: c.opened}
	}
	return nil
}

// unspent marks the login code as spent, unless it is.
func (c *committing) unspent() error {
	if !c.codeLeft {
		return login.ErrCodeSpent
	}
	expires := c.s.db.millis(c.l.Expires)
	c.write(`UPDATE {kept_steps} SET spent = 1, value = ?, expires_at = CASE WHEN expires_at < ? THEN ? ELSE expires_at END WHERE step = ?`,
		c.s.keys.Load().seal(keptPlace(c.l.Code), c.l.Spent), expires, expires, c.l.Code[:])
	return nil
}

// askUser asks whether the user was disabled or erased while their login was under way,
// and whether the number is still theirs.
func (c *committing) askUser() statement {
	args := []any{c.b.UserID, c.b.UserID}
	numbers := "1"
	if !c.l.Silent() {
		hashes := c.s.keys.Load().phoneHashes(c.l.Phone.E164())
		numbers = `(SELECT COUNT(*) FROM {user_phones} WHERE user_id = ? AND phone_hash IN (` + strings.Repeat("?, ", len(hashes)-1) + `?))`
		args = []any{c.b.UserID, c.b.UserID}
		for _, h := range hashes {
			args = append(args, h)
		}
		args = append(args, c.b.UserID)
	}
	const barred, own = 0, 1
	// A login that began after the erasure passes: its directory has given the id again.
	// The tombstone stays for the day, as other logins may have begun before it.
	return ask(func(r row) error {
		var kind, disabled, n int64
		if err := r.Scan(&kind, &disabled, &n); err != nil {
			return err
		}
		switch {
		case c.user != nil:
		case disabled != 0 || kind == barred && n == 0:
			c.user = user.ErrDisabled
		case kind == own && n == 0:
			c.user = login.ErrChanged
		case kind == barred && (c.l.Begun.IsZero() || c.l.Begun.UnixMilli() <= n):
			c.user = user.ErrUnknown
		}
		return nil
	}, `SELECT 0, disabled, erased_at FROM {barred_users} WHERE user_id = ?
		UNION ALL SELECT 1, disabled, `+numbers+` FROM {users} WHERE id = ?`, args...)
}

func (c *committing) admitted() error { return c.user }

// askBindings asks for all bindings and marks that matter.
func (c *committing) askBindings() statement {
	b := c.b
	const columns = bindingColumns + `, state_at`
	query := `SELECT 0, ` + columns + ` FROM {bindings} WHERE user_id = ?
		UNION ALL SELECT 0, ` + columns + ` FROM {bindings} WHERE appid = ? AND openid = ? AND user_id <> ?
		UNION ALL SELECT 1, appid, openid, unionid, user_id, 0, NULL, 0, 0, left_at FROM {former_openids} WHERE user_id = ? AND appid = ?`
	args := []any{b.UserID, b.AppID, b.OpenID, b.UserID, b.UserID, b.AppID}
	if c.l.Silent() && b.UnionID != "" {
		query += ` UNION ALL SELECT 0, ` + columns + ` FROM {bindings} WHERE unionid = ? AND user_id <> ? AND NOT (appid = ? AND openid = ?)`
		args = append(args, b.UnionID, b.UserID, b.AppID, b.OpenID)
	}
	return ask(func(r row) error {
		var one boundOpenID
		var mark int
		binding, err := c.s.scanBinding(r, &mark, &one.since)
		one.Binding = binding
		switch {
		case err != nil:
			return err
		case mark == 1:
			c.former = one
		case one.AppID == b.AppID && one.OpenID == b.OpenID:
			c.own = one
			if c.b.UnionID == "" {
				c.b.UnionID = one.UnionID // from an earlier login
			}
		case one.UserID == b.UserID:
			c.others = append(c.others, one)
		default:
			c.alike = append(c.alike, one)
		}
		return nil
	}, query, args...)
}

// bind writes the binding over what was found. Where there was none, another login of the
// openid may be faster: see open.
func (c *committing) bind() error {
	b, own := c.b, c.own
	switch {
	case own.UserID == "":
		c.write(`INSERT INTO {bindings} (appid, openid, unionid, user_id, phone_at, auth_at, phone, bound_at, state_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, {now})`,
			b.AppID, b.OpenID, b.UnionID, b.UserID, c.s.db.millis(b.PhoneAt), c.s.db.millis(b.AuthAt), c.s.bindingPhone(b), c.s.db.millis(c.l.Session.CreatedAt))
	case c.l.Silent():
		if own.UserID == b.UserID && own.UnionID != b.UnionID {
			c.write(`UPDATE {bindings} SET unionid = ? WHERE appid = ? AND openid = ? AND user_id = ?`, b.UnionID, b.AppID, b.OpenID, b.UserID)
		}
	case own.UserID == b.UserID:
		if b.PhoneAt.Before(own.PhoneAt) { // a login that was slow
			b.PhoneAt, b.AuthAt, b.Phone = own.PhoneAt, own.AuthAt, own.Phone
		}
		c.write(`UPDATE {bindings} SET unionid = ?, phone_at = ?, auth_at = ?, phone = ?, state = ?, state_at = {now} WHERE appid = ? AND openid = ? AND user_id = ?`,
			b.UnionID, c.s.db.millis(b.PhoneAt), c.s.db.millis(b.AuthAt), c.s.bindingPhone(b), int64(user.Active), b.AppID, b.OpenID, b.UserID)
	default:
		b.UnionID = c.l.Binding.UnionID // nothing goes along to another user
		c.write(`UPDATE {bindings} SET unionid = ?, user_id = ?, phone_at = ?, auth_at = ?, phone = ?, bound_at = ?, state = ?, state_at = {now}
			WHERE appid = ? AND openid = ? AND user_id = ?`,
			b.UnionID, b.UserID, c.s.db.millis(b.PhoneAt), c.s.db.millis(b.AuthAt), c.s.bindingPhone(b), c.s.db.millis(c.l.Session.CreatedAt), int64(user.Active), b.AppID, b.OpenID, own.UserID)
	}
	return nil
}

// open opens the session, keeps which codes have opened it, and commits all writes. A
// binding that is there already after all is another login's, of another user.
func (c *committing) open() error {
	opened, err := insertSession(c.db, c.l.Session)
	if err != nil {
		return err
	}
	c.writes = append(c.writes, opened, c.s.keepStep(c.l.Login, c.l.Value, c.l.Expires))
	err = c.send(true, c.writes...)
	if err != nil && c.own.UserID == "" && c.db.dialect.duplicate(err) {
		return login.ErrChanged
	}
	return err
}
