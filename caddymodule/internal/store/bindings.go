package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

const bindingColumns = `appid, openid, unionid, user_id, phone_at, phone`

func (s *Store) scanBinding(row interface{ Scan(...any) error }) (b user.Binding, err error) {
	var phoneAt int64
	var sealed []byte
	if err = row.Scan(&b.AppID, &b.OpenID, &b.UnionID, &b.UserID, &phoneAt, &sealed); err != nil {
		return b, err
	}
	b.PhoneAt = fromMillis(phoneAt)
	if len(sealed) > 0 {
		b.Phone, err = s.openPhone(bindingPhonePlace(b), sealed)
		if errors.Is(err, ErrKey) {
			return b, nil // a copy, which the next phone login brings back
		}
	}
	return b, err
}

// bindingPhonePlace is for one user only: an openid that moves to another takes
// no number along.
func bindingPhonePlace(b user.Binding) place {
	return place{"bindings", "phone", b.AppID + " " + b.OpenID + " " + b.UserID}
}

// Binding tells whom an openid is bound to.
func (s *Store) Binding(ctx context.Context, appid, openid string) (user.Binding, bool, error) {
	return s.binding(ctx, `WHERE appid = ? AND openid = ?`, appid, openid)
}

// BindingByUnionID tells whom a unionid is bound to in any app: of several
// bindings the one with the latest phone login. No unionid is bound to nobody.
func (s *Store) BindingByUnionID(ctx context.Context, unionid string) (user.Binding, bool, error) {
	if unionid == "" {
		return user.Binding{}, false, nil
	}
	return s.binding(ctx, `WHERE unionid = ? ORDER BY phone_at DESC, bound_at DESC, appid LIMIT 1`, unionid)
}

// UserBinding is the newest openid of a user in an app.
func (s *Store) UserBinding(ctx context.Context, appid, userID string) (user.Binding, bool, error) {
	return s.binding(ctx, `WHERE user_id = ? AND appid = ? ORDER BY bound_at DESC, phone_at DESC, openid LIMIT 1`, userID, appid)
}

func (s *Store) binding(ctx context.Context, which string, args ...any) (b user.Binding, found bool, err error) {
	err = s.read(ctx, "reading a binding", func(t *tx) (err error) {
		b, found, err = s.findBinding(t, which, args...)
		return err
	})
	return b, found && err == nil, err
}

func (s *Store) findBinding(t *tx, which string, args ...any) (user.Binding, bool, error) {
	b, err := s.scanBinding(t.row(`SELECT `+bindingColumns+` FROM {bindings} `+which, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return user.Binding{}, false, nil
	}
	return b, err == nil, err
}

// Settle ends a login, in one transaction: it binds the openid to its user, opens
// the session, keeps under which codes it was opened, and that the login code is
// spent. An openid bound to another user moves. user.ErrDisabled and
// user.ErrUnknown: the user was disabled or erased while the login was under way,
// and nothing is written; nor is it if these codes have opened a session: *login.Opened.
//
// If the user has another openid in this app, the rule decides. user.Deny:
// user.ErrNewOpenID, and nothing is written (an openid that is bound to the
// user already is not new; one that has left, see [Store.Leave], is no other).
// user.Keep: both stay. user.Replace: the other openid's binding goes; so do the
// bindings of this user in other apps that share its unionid, unless that is the
// new one's too, since they are the same WeChat account; and the sessions of all
// these openids end, with revocations until the given time. ended are their ids.
func (s *Store) Settle(ctx context.Context, l login.Settlement) (ended []string, err error) {
	if !l.Rule.Valid() {
		return nil, fmt.Errorf("unknown rule %q for a new openid", l.Rule)
	}
	if len(l.Value) > maxKept {
		return nil, fmt.Errorf("settling a login: %d bytes are too many to keep", len(l.Value))
	}
	err = s.write(ctx, "settling a login", func(t *tx) error {
		if err := lockUser(t, l.Binding.UserID); err != nil {
			return err
		}
		// The other one that has these codes has the same user, and so waits here.
		before, found, err := s.keptStep(t, l.Login, l.Session.CreatedAt)
		if err != nil {
			return err
		}
		if found {
			return &login.Opened{Value: before}
		}
		if ended, err = s.settleBinding(t, l.Binding, l.Rule, session.Ending{Reason: session.ReasonReplaced, Now: l.Session.CreatedAt, Until: l.Until}); err != nil {
			return err
		}
		if err := insertSession(t, l.Session); err != nil {
			return err
		}
		if err := s.keepStep(t, l.Login, l.Value, l.Expires); err != nil {
			return err
		}
		return s.changeStep(t, l.Code, l.Spent, l.Expires)
	})
	if err != nil {
		return nil, err
	}
	return ended, nil
}

func (s *Store) settleBinding(t *tx, b user.Binding, rule user.NewOpenID, e session.Ending) (ended []string, err error) {
	if err := admitted(t, b.UserID); err != nil {
		return nil, err
	}
	before, bound, err := s.findBinding(t, `WHERE appid = ? AND openid = ? {lock}`, b.AppID, b.OpenID)
	if err != nil {
		return nil, err
	}
	same := bound && before.UserID == b.UserID
	others, err := s.findBindings(t, `WHERE user_id = ? AND appid = ? AND openid <> ? {lock}`, b.UserID, b.AppID, b.OpenID)
	if err != nil {
		return nil, err
	}
	switch {
	case rule == user.Deny && !same && slices.ContainsFunc(others, func(b user.Binding) bool { return !b.PhoneAt.IsZero() }):
		return nil, user.ErrNewOpenID
	case rule == user.Replace:
		if ended, err = s.dropBindings(t, others, b.UnionID, e); err != nil {
			return nil, err
		}
	}
	return ended, s.bind(t, b, before, same, e.Now)
}

// userStripes is how many users can log in at the same moment, at most.
const userStripes = 256

// lockUser makes others who lock this user, and some more, wait until the
// transaction ends. Two new openids of one user would otherwise not see each
// other, and both stay.
func lockUser(t *tx, id string) error {
	if t.db.dialect.oneWriter {
		return nil
	}
	return lockStripe(t, stripe(id))
}

func stripe(id string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(id))
	return h.Sum32() % userStripes
}

func lockStripe(t *tx, n uint32) error {
	// Creates the row where it is missing, and locks it either way.
	_, err := t.exec(`INSERT INTO {user_locks} (stripe) VALUES (?)
		ON CONFLICT (stripe) DO UPDATE SET stripe = excluded.stripe`, n)
	return err
}

// lockUsers is lockUser for several, in an order in which two who lock several
// never wait for each other.
func lockUsers(t *tx, ids map[string]bool) error {
	if t.db.dialect.oneWriter {
		return nil
	}
	var stripes []uint32
	for id := range ids {
		stripes = append(stripes, stripe(id))
	}
	slices.Sort(stripes)
	for _, n := range slices.Compact(stripes) {
		if err := lockStripe(t, n); err != nil {
			return err
		}
	}
	return nil
}

// bind writes b over what was bound before; same says that it was the same
// user's: then what was known stays known.
func (s *Store) bind(t *tx, b, before user.Binding, same bool, now time.Time) error {
	if same {
		if b.UnionID == "" {
			b.UnionID = before.UnionID
		}
		if b.PhoneAt.Before(before.PhoneAt) {
			b.PhoneAt, b.Phone = before.PhoneAt, before.Phone
		}
		_, err := t.exec(`UPDATE {bindings} SET unionid = ?, phone_at = ?, phone = ? WHERE appid = ? AND openid = ?`,
			b.UnionID, millis(b.PhoneAt), s.bindingPhone(b), b.AppID, b.OpenID)
		return err
	}
	_, err := t.exec(`INSERT INTO {bindings} (appid, openid, unionid, user_id, phone_at, phone, bound_at) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (appid, openid) DO UPDATE SET unionid = excluded.unionid, user_id = excluded.user_id,
			phone_at = excluded.phone_at, phone = excluded.phone, bound_at = excluded.bound_at`,
		b.AppID, b.OpenID, b.UnionID, b.UserID, millis(b.PhoneAt), s.bindingPhone(b), millis(now))
	return err
}

// bindingPhone is what the column holds: nil where the directory tells numbers.
func (s *Store) bindingPhone(b user.Binding) []byte {
	if b.Phone.IsZero() {
		return nil
	}
	return s.sealPhone(bindingPhonePlace(b), b.Phone)
}

// dropBindings removes bindings, with those that the same WeChat accounts have
// to the same user in other apps, and ends their sessions. keep is the unionid
// whose bindings in other apps stay.
func (s *Store) dropBindings(t *tx, bindings []user.Binding, keep string, e session.Ending) (ended []string, err error) {
	for _, b := range bindings {
		gone := []user.Binding{b}
		if b.UnionID != "" && b.UnionID != keep {
			elsewhere, err := s.findBindings(t, `WHERE user_id = ? AND unionid = ? AND appid <> ? {lock}`, b.UserID, b.UnionID, b.AppID)
			if err != nil {
				return nil, err
			}
			gone = append(gone, elsewhere...)
		}
		for _, b := range gone {
			if _, err := t.exec(`DELETE FROM {bindings} WHERE appid = ? AND openid = ? AND user_id = ?`, b.AppID, b.OpenID, b.UserID); err != nil {
				return nil, err
			}
			ids, err := endSessions(t, e, `user_id = ? AND appid = ? AND openid = ?`, b.UserID, b.AppID, b.OpenID)
			if err != nil {
				return nil, err
			}
			ended = append(ended, ids...)
		}
	}
	return ended, nil
}

func (s *Store) findBindings(t *tx, which string, args ...any) (list []user.Binding, err error) {
	err = t.each(func(r *sql.Rows) error {
		b, err := s.scanBinding(r)
		list = append(list, b)
		return err
	}, `SELECT `+bindingColumns+` FROM {bindings} `+which, args...)
	return list, err
}
