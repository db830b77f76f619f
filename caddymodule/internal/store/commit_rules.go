package store

import (
	"slices"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// decide applies the rules for the user's other accounts.
func (c *committing) decide() error {
	mine := c.own.UserID == c.b.UserID
	switch {
	case c.l.Silent():
		return c.decideSilent()
	case !mine && c.own.UserID != "" && c.own.UserID != c.l.Known.UserID:
		return login.ErrChanged // the openid is bound to a user whose lock we do not hold
	case mine && c.own.State == user.Active:
		return nil
	case mine && c.own.State == user.Suspended:
		if c.sinceBegun(c.own.since) {
			return login.ErrOvertaken
		}
		c.done.Rebound = true
		return nil
	case c.former.OpenID == c.b.OpenID && c.sinceBegun(c.former.since) && slices.ContainsFunc(c.others, c.inThisApp):
		return login.ErrOvertaken // another account in this app has replaced it
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

// decideSilent checks that the reason for allowing the silent login still holds.
func (c *committing) decideSilent() error {
	known, now := c.l.Known, chooseKnown(append(slices.Clone(c.alike), c.others...), c.own.Binding, c.b)
	switch {
	case now.AppID != known.AppID, now.OpenID != known.OpenID, now.UserID != known.UserID, now.State != known.State:
		return login.ErrChanged
	case c.own.UserID != c.b.UserID && c.mayHaveLeft():
		return user.ErrUnknown // even if the directory remembers it, only a phone login may bind it
	case c.own.UserID != "":
		return nil
	case !known.Taken && known.UserID == c.b.UserID && slices.ContainsFunc(c.others, c.inThisApp):
		return login.ErrChanged
	case c.l.Rule == user.Deny && c.denied():
		return user.ErrNewOpenID // only the directory knows this account
	}
	return nil
}

// mayHaveLeft reports whether an account that is not bound to the user in this app may be that of a
// former owner. For an account that only the directory knows, that is so if any account was unbound
// from the user, as only the last one in each app is marked, or if another one has logged in with
// the user's number. With the rule keep, accounts in other apps do not put each other out.
func (c *committing) mayHaveLeft() bool {
	same := func(o boundOpenID) bool { return o.OpenID != "" && o.SameAccount(c.b) }
	active := func(o boundOpenID) bool { return o.State == user.Active }
	switch {
	case same(c.former) && c.former.OpenID == c.b.OpenID:
		return true
	case slices.ContainsFunc(c.others, func(o boundOpenID) bool { return active(o) && same(o) }):
		return false // it has come back in another app
	case same(c.former), slices.ContainsFunc(c.formers, same):
		return true
	case c.own.UserID != "" || c.l.Known.UserID != "":
		return false
	case c.former.OpenID != "":
		return true
	}
	return c.l.Rule != user.Keep && (len(c.formers) > 0 ||
		slices.ContainsFunc(c.others, func(o boundOpenID) bool { return active(o) && !o.AuthAt.IsZero() }))
}

func (c *committing) inThisApp(o boundOpenID) bool { return o.AppID == c.b.AppID }

// sinceBegun reports whether something that happened at this time happened after the login began.
func (c *committing) sinceBegun(at int64) bool {
	return !c.l.Begun.IsZero() && at >= c.l.Begun.UnixMilli()
}

// denied reports whether the user has, or last had, another account in this app, or has an account
// in another app that is known to be different.
func (c *committing) denied() bool {
	if c.former.OpenID != "" && !c.former.SameAccount(c.b) {
		return true
	}
	return slices.ContainsFunc(c.others, func(o boundOpenID) bool {
		return !o.SameAccount(c.b) && (c.inThisApp(o) || o.UnionID != "")
	})
}

// replace lets this account replace all other accounts of the user. In this app the others lose
// their bindings, in other apps they are suspended, and their sessions end.
func (c *committing) replace() error {
	b := c.b
	var last boundOpenID // the last of the accounts that are replaced in this app
	suspend, left := false, false
	same, args := "", []any{b.UserID, b.AppID, b.OpenID, b.AppID, b.UnionID}
	for _, o := range c.others {
		switch {
		case c.inThisApp(o):
			if last.OpenID == "" || o.PhoneAt.After(last.PhoneAt) {
				last = o
			}
		case !o.SameAccount(b):
			suspend, left = suspend || o.State == user.Active, left || o.State.Left()
		default: // some of its sessions may be older than its known unionid
			same, args = same+` AND NOT (appid = ? AND openid = ?)`, append(args, o.AppID, o.OpenID)
		}
	}
	if last.OpenID != "" {
		c.write(`DELETE FROM {bindings} WHERE user_id = ? AND appid = ? AND openid <> ?`, b.UserID, b.AppID, b.OpenID)
		c.mark(last.Binding)
	}
	if suspend || left { // one that has left decides nothing about the user any more
		c.write(`UPDATE {bindings} SET state = ?, state_at = {now} WHERE user_id = ? AND appid <> ? AND state <> ? AND (unionid = '' OR unionid <> ?)`,
			int64(user.Suspended), b.UserID, b.AppID, int64(user.Suspended), b.UnionID)
	}
	var ended []string
	var err error
	if c.sessions.ofOthers(b.AppID, b.OpenID) {
		ended, err = c.end(
			`user_id = ? AND (appid = ? AND openid <> ? OR appid <> ? AND (unionid = '' OR unionid <> ?)`+same+`)`, args...)
	}
	c.done.Ended = append(c.done.Ended, ended...)
	c.done.Rebound = last.OpenID != "" || suspend || len(ended) > 0
	return err
}

// ending returns how the login ends the sessions of other accounts.
func (c *committing) ending() session.Ending {
	return session.Ending{Reason: session.ReasonReplaced, Now: c.l.Session.CreatedAt, Until: c.l.Until}
}

// leaveFormerUser ends the openid's sessions with the user from which it moves away, and marks it
// as that user's former openid.
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
	c.mark(c.own.Binding)
	return nil
}

// mark records the openid as the one that was last unbound from its user in its app.
func (c *committing) mark(left user.Binding) {
	c.write(`INSERT INTO {former_openids} (user_id, appid, openid, unionid, left_at) VALUES (?, ?, ?, ?, {now})
		ON CONFLICT (user_id, appid) DO UPDATE SET openid = excluded.openid, unionid = excluded.unionid, left_at = excluded.left_at`,
		left.UserID, left.AppID, left.OpenID, left.UnionID)
}
