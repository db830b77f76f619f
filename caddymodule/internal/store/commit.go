package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Commit ends a login in one transaction. It binds the openid to its user, opens the session,
// stores which codes have opened it, and marks the login code as used. It repeats the checks that
// the login has made before, because the data may have changed since. [login.Store] lists the
// errors. With any of them nothing is written.
//
// A commit that is not answered is made again. It then finds the session that it has opened, and
// returns a [login.Opened] with l.Value, or [login.ErrOpenedBefore] if the user is new.
//
// A silent login ends no sessions but test sessions, and moves or suspends no openids. A phone
// login with an openid that is already bound to this user ends no sessions either, and activates a
// suspended binding. Any other phone login may come from the new owner of a recycled number, so the
// rule decides what happens to the user's other accounts. An openid that was bound to another user
// moves to this one.
func (s *Store) Commit(ctx context.Context, l login.Commit) (login.Committed, error) {
	if !l.Rule.Valid() {
		return login.Committed{}, fmt.Errorf("unknown rule %q for a new openid", l.Rule)
	}
	if len(l.Value) > maxKept {
		return login.Committed{}, fmt.Errorf("committing a login: %d bytes are too many to keep", len(l.Value))
	}
	return s.commit(ctx, "committing a login", l, (*committing).questions,
		(*committing).checkLocks, (*committing).checkReplayed, (*committing).checkUser, (*committing).checkCode, (*committing).endTests,
		(*committing).decide, (*committing).bind, (*committing).endReplaced, (*committing).endSurplus, (*committing).open, (*committing).spendCode)
}

// commit commits a login in two turnarounds. The first locks and reads everything that the login
// depends on. The second writes. The decisions in between are made in Go, by the steps. If sessions
// of other accounts have to end, they are read in a further turnaround between them.
func (s *Store) commit(ctx context.Context, doing string, l login.Commit, ask func(*committing) []sqldb.Statement, steps ...func(*committing) error) (done login.Committed, err error) {
	ours, unwritten := s.readAhead(ctx).isOurs(l.Binding.UserID)
	var c *committing // of the last attempt
	w := &sqldb.Grouped{
		Rows: decidedBy(l),
		Questions: func(t *sqldb.Tx) []sqldb.Statement {
			c = &committing{Tx: t, s: s, l: l, b: l.Binding, ours: ours, unwritten: unwritten}
			return ask(c)
		},
		Statements: func(*sqldb.Tx) (_, _ []sqldb.Statement, err error) {
			for _, step := range steps {
				if err := step(c); err != nil {
					return nil, nil, err
				}
			}
			return c.writes, nil, nil
		},
	}
	var early []string
	for range maxEarly {
		if l.Login == (login.Key{}) { // a test login, which would open a second session if it were made twice
			err = s.sql.Write(ctx, doing, func(t *sqldb.Tx) error { return t.Together(w) })
		} else {
			err = s.sql.Group(ctx, doing, sqldb.Durable, w)
		}
		var failed error
		var many *tooManyToEnd
		switch {
		case err == nil:
			done = c.done
			done.Ended = append(early, done.Ended...)
			return done, nil
		case s.db.sql.Dialect.Duplicate(err) && (c.own.UserID == "" || c.unwritten != nil):
			// If the new binding exists by now, a login of another user has inserted it. If the new
			// user's number does, another first login with this number was faster.
			failed = login.ErrChanged
		case errors.Is(err, errNoLock):
			failed = s.makeLocks(ctx)
		case errors.As(err, &many):
			// Nothing was written yet. The sessions that the login has to end are now ended in
			// batches, before the next try.
			failed = s.endAll(ctx, many.ending, func(ids []string) { early = append(early, ids...) }, many.condition, many.args...)
		default:
			failed = err
		}
		if failed != nil {
			return login.Committed{}, failed
		}
	}
	return login.Committed{}, fmt.Errorf("%w: %w", ErrUnavailable, err) // nothing was written
}

// decidedBy names what a login is decided by: its login code, its user, its number and its openid.
func decidedBy(l login.Commit) []string {
	rows := []string{string(l.Code[:]), l.Binding.AppID + " " + l.Binding.OpenID}
	if !l.Silent() {
		rows = append(rows, l.Phone.E164())
	}
	for _, n := range stripesOf(lockedBy(l)) {
		rows = append(rows, strconv.Itoa(int(n)))
	}
	return rows
}

// lockedBy returns the users that a login makes wait: its own and, if the openid may move away from
// another one, that one.
func lockedBy(l login.Commit) []string {
	users := []string{l.Binding.UserID}
	if from := l.Known.UserID; from != "" && !l.Silent() {
		users = append(users, from)
	}
	return users
}

// committing is the transaction that commits a login.
type committing struct {
	*sqldb.Tx
	s    *Store
	l    login.Commit
	b    user.Binding // the binding to write
	ours bool         // the store's own directory returned the user

	unwritten *user.User // the user, if they are ours and not written yet

	// The results of the questions.
	missing   int             // number of rows to lock that do not exist
	opened    []byte          // the stored session that these codes have opened before; nil if there is none
	codeLeft  bool            // the login code has not opened a session
	user      error           // why the user is not admitted
	change    error           // why the directory must be asked again
	userFound bool            // the store has a row of the user
	own       boundOpenID     // the openid's binding, if its UserID is set
	others    []boundOpenID   // the user's other bindings, in all apps
	alike     []boundOpenID   // the unionid's bindings to other users, in all apps
	former    boundOpenID     // the openid that was last unbound from the user in this app
	formers   []boundOpenID   // the same in each of the other apps
	left      bool            // an openid was unbound from the user, in any app; only a test login asks
	sessions  liveSessions    // the user's live sessions
	replaces  session.Session // the session of the refresh token, if its ID is set

	writes []sqldb.Statement
	done   login.Committed
}

// boundOpenID is a binding and the time at which its state last changed.
type boundOpenID struct {
	user.Binding
	since int64 // in milliseconds, by the database's clock
}

// write adds a statement to the last turnaround.
func (c *committing) write(query string, args ...any) {
	c.writes = append(c.writes, sqldb.Say(query, args...))
}

// writeRow is like write, for a statement that writes one row; see [sqldb.OnRow].
func (c *committing) writeRow(key, rows, query string, args ...any) {
	c.writes = append(c.writes, sqldb.OnRow([]byte(key), rows, sqldb.Say(query, args...)))
}

// questions returns the queries for everything that a login depends on. Those that lock come first,
// so that the queries after them see what earlier logins of the user have written.
func (c *committing) questions() (list []sqldb.Statement) {
	list = append(c.askLocks(), c.askCode(), c.askReplayed(), c.askUser(), c.askBindings(), c.askSessions())
	if c.l.Replaces != "" {
		list = append(list, c.askReplaced())
	}
	return list
}

// askLocks makes other logins of the same users wait. Every change of a user's bindings and marks
// takes this lock. Each row is locked by its own statement. If one statement locked two rows, MySQL
// might scan the whole small table, and wait for the locks of all its rows.
func (c *committing) askLocks() (list []sqldb.Statement) {
	if c.s.db.sql.Dialect.OneWriter {
		return nil
	}
	for _, n := range stripesOf(lockedBy(c.l)) {
		list = append(list, sqldb.OnRow([]byte{byte(n)}, "", sqldb.Ask(func(r sqldb.Row) error {
			c.missing--
			return r.Scan(new(int64))
		}, `SELECT stripe FROM {user_locks} WHERE stripe = ? {lock}`, int64(n))))
	}
	c.missing = len(list)
	return list
}

// checkLocks returns errNoLock if rows to lock are missing, as in a new database.
func (c *committing) checkLocks() error {
	if c.missing > 0 {
		return errNoLock
	}
	return nil
}

// askCode locks the stored login code. Several logins may use the same code: each with another
// phone code, at another site or on another replica. The lock makes them commit one after the
// other.
func (c *committing) askCode() sqldb.Statement {
	return sqldb.OnRow(c.l.Code[:], "", sqldb.Ask(func(r sqldb.Row) error {
		var spent int64
		err := r.Scan(&spent)
		c.codeLeft = spent == 0
		return err
	}, `SELECT spent FROM {kept_steps} WHERE step = ? {lock}`, c.l.Code[:]))
}

// askReplayed reads the session that these codes have opened before, if any.
func (c *committing) askReplayed() sqldb.Statement {
	return sqldb.Ask(func(r sqldb.Row) error {
		var sealed []byte
		if err := r.Scan(&sealed); err != nil {
			return err
		}
		value, err := c.s.keys.Load().open(keptPlace(c.l.Login), sealed)
		c.opened = append([]byte{}, value...)
		return err
	}, `SELECT value FROM {kept_steps} WHERE step = ? AND expires_at > ?`, c.l.Login[:], c.s.db.millis(c.l.Session.CreatedAt))
}

// checkReplayed ends the transaction if these codes have opened a session before. A login with a
// new user then asks the directory again, which finds the user of that session.
func (c *committing) checkReplayed() error {
	switch {
	case c.opened == nil:
		return nil
	case c.unwritten != nil:
		return login.ErrOpenedBefore
	}
	return &login.Opened{Value: c.opened}
}

// checkCode refuses a login code that was used before.
func (c *committing) checkCode() error {
	if !c.codeLeft {
		return login.ErrCodeSpent
	}
	return nil
}

// askUser asks whether the user was disabled or erased during the login, and whether the number
// still belongs to them. An external directory's answer counts only if nothing was changing the
// number when the directory was asked: the mark of any change must have ended before.
func (c *committing) askUser() sqldb.Statement {
	args := []any{c.b.UserID, c.b.UserID}
	numbers := "1"
	if !c.l.Silent() && !c.l.External {
		hashes := c.s.keys.Load().phoneHashes(c.l.Phone.E164())
		numbers = `(SELECT COUNT(*) FROM {user_phones} WHERE user_id = ? AND phone_hash IN (` + strings.Repeat("?, ", len(hashes)-1) + `?))`
		args = []any{c.b.UserID, c.b.UserID}
		for _, h := range hashes {
			args = append(args, h)
		}
		args = append(args, c.b.UserID)
	}
	query := `SELECT 0, disabled, erased_at FROM {barred_users} WHERE user_id = ?
		UNION ALL SELECT 1, disabled, ` + numbers + ` FROM {users} WHERE id = ?`
	if asked := c.l.Known.Asked; !asked.IsZero() {
		mark := login.ChangeMark(c.b.UserID)
		query += ` UNION ALL SELECT CASE WHEN lease_until > {now} THEN 3 ELSE 2 END, 0, CASE WHEN lease_until >= ? THEN 1 ELSE 0 END
			FROM {claimed_steps} WHERE step = ?`
		args = append(args, asked.UnixMilli(), mark[:])
	}
	const barred, own, changed, changing = 0, 1, 2, 3
	// A login that began after the erasure is accepted: its directory has assigned the id again.
	// The tombstone stays for a day, since other logins may have begun before the erasure.
	return sqldb.Ask(func(r sqldb.Row) error {
		var kind, disabled, n int64
		if err := r.Scan(&kind, &disabled, &n); err != nil {
			return err
		}
		c.userFound = c.userFound || kind == own
		switch {
		case kind == changing && n > 0:
			c.change = login.ErrChanging
		case kind == changed && n > 0:
			c.change = login.ErrChanged
		case kind >= changed, c.user != nil:
		case disabled != 0 || kind == barred && n == 0:
			c.user = user.ErrDisabled
		case kind == own && n == 0:
			c.user = login.ErrChanged
		case kind == barred && (c.l.Begun.IsZero() || c.l.Begun.UnixMilli() <= n):
			c.user = user.ErrUnknown
		}
		return nil
	}, query, args...)
}

// checkUser returns the error that askUser has found. It also refuses a user of the store's own
// directory whose row has disappeared without a tombstone: the directory has to create the user
// again. It writes a new user.
func (c *committing) checkUser() error {
	switch {
	case c.user != nil:
		return c.user
	case c.unwritten != nil:
		c.writes = append(c.writes, c.s.insertUser(*c.unwritten)...)
	case c.ours && !c.userFound:
		return login.ErrChanged
	}
	return c.change
}

// askBindings reads all bindings and marks that matter to the login.
func (c *committing) askBindings() sqldb.Statement {
	b := c.b
	const columns = bindingColumns + `, state_at`
	query := `SELECT 0, ` + columns + ` FROM {bindings} WHERE user_id = ?
		UNION ALL SELECT 0, ` + columns + ` FROM {bindings} WHERE appid = ? AND openid = ? AND user_id <> ?
		UNION ALL SELECT 1, appid, openid, unionid, user_id, 0, NULL, 0, 0, left_at FROM {former_openids} WHERE user_id = ?`
	args := []any{b.UserID, b.AppID, b.OpenID, b.UserID, b.UserID}
	if c.l.Silent() && b.UnionID != "" {
		query += ` UNION ALL SELECT 0, ` + columns + ` FROM {bindings} WHERE unionid = ? AND user_id <> ? AND NOT (appid = ? AND openid = ?)`
		args = append(args, b.UnionID, b.UserID, b.AppID, b.OpenID)
	}
	return sqldb.Ask(func(r sqldb.Row) error {
		var one boundOpenID
		var mark int
		binding, err := c.s.scanBinding(r, &mark, &one.since)
		one.Binding = binding
		switch {
		case err != nil:
			return err
		case mark == 1 && c.inThisApp(one):
			c.former = one
		case mark == 1:
			c.formers = append(c.formers, one)
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

// bind writes the binding in place of the one that was read. If none was read, another login may
// insert the openid first; open handles that.
func (c *committing) bind() error {
	b, own := c.b, c.own
	if !c.l.Silent() && slices.ContainsFunc(c.others, func(o boundOpenID) bool { return o.State == user.Withdrawn }) {
		// The user has a number again, so no other login may give them one.
		c.write(`UPDATE {bindings} SET state = ? WHERE user_id = ? AND state = ?`, int64(user.Detached), b.UserID, int64(user.Withdrawn))
	}
	switch {
	case own.UserID == "":
		const row = `(?, ?, ?, ?, ?, ?, ?, ?, {now})`
		c.writeRow(b.AppID+" "+b.OpenID, row, `INSERT INTO {bindings} (appid, openid, unionid, user_id, phone_at, auth_at, phone, bound_at, state_at) VALUES `+row,
			b.AppID, b.OpenID, b.UnionID, b.UserID, c.s.db.millis(b.PhoneAt), c.s.db.millis(b.AuthAt), c.s.bindingPhone(b), c.s.db.millis(c.l.Session.CreatedAt))
	case c.l.Silent():
		if own.UserID == b.UserID && own.UnionID != b.UnionID {
			c.writeRow(b.AppID+" "+b.OpenID, "", `UPDATE {bindings} SET unionid = ? WHERE appid = ? AND openid = ? AND user_id = ?`, b.UnionID, b.AppID, b.OpenID, b.UserID)
		}
	case own.UserID == b.UserID:
		if b.PhoneAt.Before(own.PhoneAt) { // another login with a newer phone check has overtaken this one
			b.PhoneAt, b.AuthAt, b.Phone = own.PhoneAt, own.AuthAt, own.Phone
		}
		c.writeRow(b.AppID+" "+b.OpenID, "", `UPDATE {bindings} SET unionid = ?, phone_at = ?, auth_at = ?, phone = ?, state = ?, state_at = {now} WHERE appid = ? AND openid = ? AND user_id = ?`,
			b.UnionID, c.s.db.millis(b.PhoneAt), c.s.db.millis(b.AuthAt), c.s.bindingPhone(b), int64(user.Active), b.AppID, b.OpenID, b.UserID)
	default:
		b.UnionID = c.l.Binding.UnionID // an openid that moves takes nothing along to its new user
		c.write(`UPDATE {bindings} SET unionid = ?, user_id = ?, phone_at = ?, auth_at = ?, phone = ?, bound_at = ?, state = ?, state_at = {now}
			WHERE appid = ? AND openid = ? AND user_id = ?`,
			b.UnionID, b.UserID, c.s.db.millis(b.PhoneAt), c.s.db.millis(b.AuthAt), c.s.bindingPhone(b), c.s.db.millis(c.l.Session.CreatedAt), int64(user.Active), b.AppID, b.OpenID, own.UserID)
	}
	return nil
}

// open opens the session.
func (c *committing) open() error {
	opened, err := insertSession(c.s.db, c.l.Session)
	c.writes = append(c.writes, opened)
	return err
}

// spendCode stores which codes have opened the session, and marks the login code as used.
func (c *committing) spendCode() error {
	c.writes = append(c.writes, c.s.keepStep(c.l.Login, c.l.Value, c.l.Expires), c.s.keepOrSpend(c.l.Code, c.l.Spent, c.l.Expires, true))
	return nil
}
