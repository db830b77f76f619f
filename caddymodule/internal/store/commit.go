package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
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

func (s *Store) commit(t *tx, l login.Commit) (login.Committed, error) {
	c := &committing{tx: t, s: s, l: l, b: l.Binding}
	for _, step := range []func() error{
		c.lock, c.replayed, c.admitted, c.spendCode, c.look, c.decide, c.bind, c.endReplaced, c.endSurplus, c.open,
	} {
		if err := step(); err != nil {
			return login.Committed{}, err
		}
	}
	return c.done, nil
}

// committing is the closing transaction of a login.
type committing struct {
	*tx
	s *Store
	l login.Commit
	b user.Binding // as it will be

	own    boundOpenID   // the binding of the openid, if it has a UserID
	others []boundOpenID // the user's other ones, in all apps
	alike  []boundOpenID // those of the unionid to other users, in all apps
	former boundOpenID   // the last openid that left the user in this app

	done login.Committed
}

// boundOpenID is a binding, and when its state last changed.
type boundOpenID struct {
	user.Binding
	since int64 // milliseconds by the database's clock
}

// lock makes other logins of the user wait, and those of the user that the openid may
// move away from. All changes of a user's bindings and marks take this lock.
func (c *committing) lock() error {
	users := map[string]bool{c.b.UserID: true}
	if from := c.l.Known.UserID; from != "" && !c.l.Silent() {
		users[from] = true
	}
	return lockUsers(c.tx, users)
}

// replayed looks for the session that these codes have opened already. The login that
// opened it has the same user, and so held the lock.
func (c *committing) replayed() error {
	before, found, err := c.s.keptStep(c.tx, c.l.Login, c.l.Session.CreatedAt)
	if err == nil && found {
		err = &login.Opened{Value: before}
	}
	return err
}

// admitted refuses users who were disabled or erased while their login was under way,
// and numbers that are not this user's any more.
func (c *committing) admitted() error {
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
	return c.each(func(r *sql.Rows) error {
		var kind, disabled, n int64
		if err := r.Scan(&kind, &disabled, &n); err != nil {
			return err
		}
		switch {
		case disabled != 0 || kind == barred && n == 0:
			return user.ErrDisabled
		case kind == own && n == 0:
			return login.ErrChanged
		case kind == barred && (c.l.Begun.IsZero() || c.l.Begun.UnixMilli() <= n):
			return user.ErrUnknown
		}
		return nil
	}, `SELECT 0, disabled, erased_at FROM {barred_users} WHERE user_id = ?
		UNION ALL SELECT 1, disabled, `+numbers+` FROM {users} WHERE id = ?`, args...)
}

// spendCode makes the login code this login's. Of several with the same code, each
// with another phone code, at another site or on another replica, one comes first.
func (c *committing) spendCode() error {
	n, err := c.exec(`UPDATE {kept_steps} SET spent = 1, value = ?, expires_at = CASE WHEN expires_at < ? THEN ? ELSE expires_at END
		WHERE step = ? AND spent = 0`,
		c.s.keys.Load().seal(keptPlace(c.l.Code), c.l.Spent), c.s.db.millis(c.l.Expires), c.s.db.millis(c.l.Expires), c.l.Code[:])
	if err == nil && n == 0 {
		err = login.ErrCodeSpent
	}
	return err
}

// look reads all bindings and marks that matter, in one statement.
func (c *committing) look() error {
	b := c.b
	const columns = bindingColumns + `, state_at`
	query := `SELECT 0, ` + columns + ` FROM {bindings} WHERE user_id = ?
		UNION ALL SELECT 0, ` + columns + ` FROM {bindings} WHERE appid = ? AND openid = ? AND user_id <> ?
		UNION ALL SELECT 1, appid, openid, unionid, user_id, 0, NULL, 0, left_at FROM {former_openids} WHERE user_id = ? AND appid = ?`
	args := []any{b.UserID, b.AppID, b.OpenID, b.UserID, b.UserID, b.AppID}
	if c.l.Silent() && b.UnionID != "" {
		query += ` UNION ALL SELECT 0, ` + columns + ` FROM {bindings} WHERE unionid = ? AND user_id <> ? AND NOT (appid = ? AND openid = ?)`
		args = append(args, b.UnionID, b.UserID, b.AppID, b.OpenID)
	}
	err := c.each(func(r *sql.Rows) error {
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
		case one.UserID == b.UserID:
			c.others = append(c.others, one)
		default:
			c.alike = append(c.alike, one)
		}
		return nil
	}, query, args...)
	if c.b.UnionID == "" {
		c.b.UnionID = c.own.UnionID // from an earlier login
	}
	return err
}

// decide applies the rules to all other accounts of the user.
func (c *committing) decide() error {
	mine := c.own.UserID == c.b.UserID
	switch {
	case c.l.Silent():
		return c.decideSilent()
	case !mine && c.own.UserID != "" && c.own.UserID != c.l.Known.UserID:
		return login.ErrChanged // and is a user's whose lock we do not hold
	case mine && c.own.State == user.Active:
		return nil
	case mine && c.own.State == user.Suspended:
		if c.sinceBegun(c.own.since) {
			return login.ErrOvertaken
		}
		c.done.Rebound = true
		return nil
	case c.former.OpenID == c.b.OpenID && c.sinceBegun(c.former.since) && slices.ContainsFunc(c.others, c.inThisApp):
		return login.ErrOvertaken // by the one that replaced it
	case c.l.Rule == user.Deny && c.denied():
		return user.ErrNewOpenID
	}
	if c.l.Rule != user.Keep {
		if err := c.replace(); err != nil {
			return err
		}
	}
	return c.leaveFormerUser()
}

// decideSilent checks that what gave the silent login still gives it.
func (c *committing) decideSilent() error {
	known, now := c.l.Known, chooseKnown(append(slices.Clone(c.alike), c.others...), c.own.Binding, c.b)
	switch {
	case now.AppID != known.AppID, now.OpenID != known.OpenID, now.UserID != known.UserID, now.State != known.State:
		return login.ErrChanged
	case c.own.UserID != c.b.UserID && c.former.AppID == c.b.AppID && c.former.OpenID == c.b.OpenID:
		return user.ErrUnknown // it left this user: a directory that remembers it lets it in by phone only
	case c.own.UserID != "":
		return nil
	case !known.Taken && known.UserID == c.b.UserID && slices.ContainsFunc(c.others, c.inThisApp):
		return login.ErrChanged
	case c.l.Rule == user.Deny && c.denied():
		return user.ErrNewOpenID // the directory alone knows this account
	}
	return nil
}

func (c *committing) inThisApp(o boundOpenID) bool { return o.AppID == c.b.AppID }

// sinceBegun reports whether something happened after the login began.
func (c *committing) sinceBegun(at int64) bool {
	return !c.l.Begun.IsZero() && at >= c.l.Begun.UnixMilli()
}

// denied reports whether the user has, or last had, another account in this app, or in
// another app an account that is known not to be this one.
func (c *committing) denied() bool {
	if c.former.OpenID != "" && !c.former.SameAccount(c.b) {
		return true
	}
	return slices.ContainsFunc(c.others, func(o boundOpenID) bool {
		return !o.SameAccount(c.b) && (c.inThisApp(o) || o.UnionID != "")
	})
}

// replace puts the account in the place of all others of the user: in this app they
// lose their bindings, in other apps they are suspended, and their sessions end.
func (c *committing) replace() error {
	b := c.b
	var last boundOpenID // of those that are replaced in this app
	suspend := false
	same, args := "", []any{b.UserID, b.AppID, b.OpenID, b.AppID, b.UnionID}
	for _, o := range c.others {
		switch {
		case c.inThisApp(o):
			if last.OpenID == "" || o.PhoneAt.After(last.PhoneAt) {
				last = o
			}
		case !o.SameAccount(b):
			suspend = suspend || o.State == user.Active
		default: // whose sessions may be from before its unionid was known
			same, args = same+` AND NOT (appid = ? AND openid = ?)`, append(args, o.AppID, o.OpenID)
		}
	}
	if last.OpenID != "" {
		if _, err := c.exec(`DELETE FROM {bindings} WHERE user_id = ? AND appid = ? AND openid <> ?`, b.UserID, b.AppID, b.OpenID); err != nil {
			return err
		}
		if err := c.mark(last.Binding); err != nil {
			return err
		}
	}
	if suspend {
		if _, err := c.exec(`UPDATE {bindings} SET state = ?, state_at = {now} WHERE user_id = ? AND appid <> ? AND state = ? AND (unionid = '' OR unionid <> ?)`,
			int64(user.Suspended), b.UserID, b.AppID, int64(user.Active), b.UnionID); err != nil {
			return err
		}
	}
	ended, err := c.end(
		`user_id = ? AND (appid = ? AND openid <> ? OR appid <> ? AND (unionid = '' OR unionid <> ?)`+same+`)`, args...)
	c.done.Ended = append(c.done.Ended, ended...)
	c.done.Rebound = last.OpenID != "" || suspend || len(ended) > 0
	return err
}

// ending is how the login ends the sessions of others.
func (c *committing) ending() session.Ending {
	return session.Ending{Reason: session.ReasonReplaced, Now: c.l.Session.CreatedAt, Until: c.l.Until}
}

// leaveFormerUser ends the sessions that the openid has of the user that it moves away
// from, and leaves a mark there.
func (c *committing) leaveFormerUser() error {
	if c.own.UserID == "" || c.own.UserID == c.b.UserID {
		return nil
	}
	ended, err := c.end(
		`openid = ? AND appid = ? AND user_id <> ?`, c.b.OpenID, c.b.AppID, c.b.UserID)
	if err != nil {
		return err
	}
	c.done.Ended = append(c.done.Ended, ended...)
	return c.mark(c.own.Binding)
}

// mark records the openid as the last one that left its user in its app.
func (c *committing) mark(left user.Binding) error {
	_, err := c.exec(`INSERT INTO {former_openids} (user_id, appid, openid, unionid, left_at) VALUES (?, ?, ?, ?, {now})
		ON CONFLICT (user_id, appid) DO UPDATE SET openid = excluded.openid, unionid = excluded.unionid, left_at = excluded.left_at`,
		left.UserID, left.AppID, left.OpenID, left.UnionID)
	return err
}

// bind writes the binding over what look has found; login.ErrChanged if another login
// of the openid was faster.
func (c *committing) bind() (err error) {
	b, own := c.b, c.own
	n := int64(1)
	switch {
	case own.UserID == "":
		n, err = c.exec(`INSERT OR IGNORE INTO {bindings} (appid, openid, unionid, user_id, phone_at, phone, bound_at, state_at) VALUES (?, ?, ?, ?, ?, ?, ?, {now})`,
			b.AppID, b.OpenID, b.UnionID, b.UserID, c.s.db.millis(b.PhoneAt), c.s.bindingPhone(b), c.s.db.millis(c.l.Session.CreatedAt))
	case c.l.Silent():
		if own.UserID == b.UserID && own.UnionID != b.UnionID {
			n, err = c.exec(`UPDATE {bindings} SET unionid = ? WHERE appid = ? AND openid = ? AND user_id = ?`, b.UnionID, b.AppID, b.OpenID, b.UserID)
		}
	case own.UserID == b.UserID:
		if b.PhoneAt.Before(own.PhoneAt) { // a login that was slow
			b.PhoneAt, b.Phone = own.PhoneAt, own.Phone
		}
		n, err = c.exec(`UPDATE {bindings} SET unionid = ?, phone_at = ?, phone = ?, state = ?, state_at = {now} WHERE appid = ? AND openid = ? AND user_id = ?`,
			b.UnionID, c.s.db.millis(b.PhoneAt), c.s.bindingPhone(b), int64(user.Active), b.AppID, b.OpenID, b.UserID)
	default:
		b.UnionID = c.l.Binding.UnionID // nothing goes along to another user
		n, err = c.exec(`UPDATE {bindings} SET unionid = ?, user_id = ?, phone_at = ?, phone = ?, bound_at = ?, state = ?, state_at = {now}
			WHERE appid = ? AND openid = ? AND user_id = ?`,
			b.UnionID, b.UserID, c.s.db.millis(b.PhoneAt), c.s.bindingPhone(b), c.s.db.millis(c.l.Session.CreatedAt), int64(user.Active), b.AppID, b.OpenID, own.UserID)
	}
	if err == nil && n == 0 {
		err = login.ErrChanged
	}
	return err
}

// open opens the session and keeps which codes have opened it.
func (c *committing) open() error {
	if err := insertSession(c.tx, c.l.Session); err != nil {
		return err
	}
	return c.s.keepStep(c.tx, c.l.Login, c.l.Value, c.l.Expires)
}

// Known returns what is known of the account that logs in.
func (s *Store) Known(ctx context.Context, a login.Account) (known login.Known, err error) {
	appid, openid, unionid := a.AppID, a.OpenID, a.UnionID
	err = s.read(ctx, "reading a binding", func(t *tx) error {
		known = login.Known{}
		query, args := `SELECT `+bindingColumns+` FROM {bindings} WHERE appid = ? AND openid = ?`, []any{appid, openid}
		if unionid != "" {
			query, args = query+` UNION ALL SELECT `+bindingColumns+` FROM {bindings} WHERE unionid = ? AND NOT (appid = ? AND openid = ?)`, append(args, unionid, appid, openid)
		}
		asked := user.Binding{AppID: appid, OpenID: openid, UnionID: unionid}
		var own user.Binding
		var alike []boundOpenID
		if err := t.each(func(r *sql.Rows) error {
			b, err := s.scanBinding(r)
			if b.AppID == appid && b.OpenID == openid {
				own = b
			} else {
				alike = append(alike, boundOpenID{Binding: b})
			}
			return err
		}, query, args...); err != nil {
			return err
		}
		known.Binding = chooseKnown(alike, own, asked)
		if known.UserID == "" || own.UserID != "" || known.State != user.Active {
			return nil
		}
		err := t.row(`SELECT 1 FROM {bindings} WHERE user_id = ? AND appid = ? LIMIT 1`, known.UserID, appid).Scan(new(int))
		known.Taken = err == nil
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return login.Known{}, err
	}
	return known, nil
}

// chooseKnown is the openid's own binding or, of those of its unionid, the one that
// counts: an active one before others, then the one with the latest phone login.
func chooseKnown(list []boundOpenID, own, asked user.Binding) (best user.Binding) {
	if own.UserID != "" {
		return own
	}
	for _, b := range list {
		if !b.SameAccount(asked) {
			continue
		}
		newer := b.PhoneAt.After(best.PhoneAt) || b.PhoneAt.Equal(best.PhoneAt) && b.AppID+" "+b.OpenID < best.AppID+" "+best.OpenID
		activeFirst := b.State == user.Active && best.State != user.Active
		if best.UserID == "" || activeFirst || newer && (b.State == user.Active) == (best.State == user.Active) {
			best = b.Binding
		}
	}
	return best
}
