package store

import (
	"bytes"
	"context"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Known returns what the store knows about the account that logs in.
func (s *Store) Known(ctx context.Context, a login.Account) (login.Known, error) {
	ahead := s.readAhead(ctx)
	if known, ok := ahead.takeKnown(a); ok {
		return known, nil
	}
	r := s.accountReader(a)
	err := s.sql.Read(ctx, "reading a binding", func(t *sqldb.Tx) error {
		if err := t.Questions(r.questions()...); err != nil || r.complete() {
			return err
		}
		return t.Questions(r.takenQuestion())
	})
	if err != nil {
		return login.Known{}, err
	}
	known := r.known()
	ahead.note(a, nil, r)
	return known, nil
}

// accountReader reads what the store contains about an account. If the store has users of its own,
// it reads the account's user as well.
type accountReader struct {
	s     *Store
	a     login.Account
	users bool

	own    user.Binding
	alike  []boundOpenID         // other bindings of the account's unionid
	taken  map[string]bool       // users of alike that have an openid in the app
	byID   map[string]*foundUser // users at a silent login
	owners []*foundUser          // owners of the number, by the key that found them
	bound  user.Binding          // the binding that known has chosen
	asked  time.Time             // when this was read, if the users are in an external directory
}

func (s *Store) accountReader(a login.Account) *accountReader {
	return &accountReader{s: s, a: a, users: s.hasUsers.Load() && !a.External}
}

// questions returns the first queries. It resets the reader, so that a transaction can be run
// again.
func (r *accountReader) questions() []sqldb.Statement {
	a := r.a
	r.own, r.alike, r.taken, r.byID, r.owners = user.Binding{}, nil, map[string]bool{}, map[string]*foundUser{}, nil
	query, args := `SELECT `+bindingColumns+` FROM {bindings} WHERE appid = ? AND openid = ?`, []any{a.AppID, a.OpenID}
	if a.UnionID != "" {
		query, args = query+` UNION ALL SELECT `+bindingColumns+` FROM {bindings} WHERE unionid = ? AND NOT (appid = ? AND openid = ?)`, append(args, a.UnionID, a.AppID, a.OpenID)
	}
	list := []sqldb.Statement{sqldb.Ask(func(row sqldb.Row) error {
		b, err := r.s.scanBinding(row)
		if b.AppID == a.AppID && b.OpenID == a.OpenID {
			r.own = b
		} else {
			r.alike = append(r.alike, boundOpenID{Binding: b})
		}
		return err
	}, query, args...)}
	if r.users {
		return append(list, r.userQuestion())
	}
	return append(list, sqldb.Ask(func(row sqldb.Row) error {
		var now int64
		err := row.Scan(&now)
		r.asked = databaseTime(now)
		return err
	}, `SELECT {now}`))
}

// complete reports whether takenQuestion need not be asked: the openid itself is bound, or its
// unionid has no other bindings.
func (r *accountReader) complete() bool { return r.own.UserID != "" || len(r.alike) == 0 }

// takenQuestion asks which users of the unionid have an openid in the app.
func (r *accountReader) takenQuestion() sqldb.Statement {
	users := make([]any, 0, len(r.alike))
	for _, b := range r.alike {
		users = append(users, b.UserID)
	}
	return sqldb.Ask(func(row sqldb.Row) error {
		var id string
		err := row.Scan(&id)
		r.taken[id] = true
		return err
	}, `SELECT user_id FROM {bindings} WHERE appid = ? AND user_id IN (?`+strings.Repeat(", ?", len(users)-1)+`)`, append([]any{r.a.AppID}, users...)...)
}

// userQuestion reads the owner of the number or, at a silent login, the users that the openid and
// the unionid are bound to.
func (r *accountReader) userQuestion() sqldb.Statement {
	a := r.a
	if !a.Phone.IsZero() {
		return r.s.askOwners(a.Phone, &r.owners)
	}
	const columns = `SELECT u.id, u.phone, u.disabled, u.created_at FROM {bindings} b JOIN {users} u ON u.id = b.user_id WHERE `
	query, args := columns+`b.appid = ? AND b.openid = ?`, []any{a.AppID, a.OpenID}
	if a.UnionID != "" {
		query, args = query+` UNION ALL `+columns+`b.unionid = ?`, append(args, a.UnionID)
	}
	return sqldb.Ask(func(row sqldb.Row) error {
		u, err := r.s.scanUser(row)
		if u.ID != "" {
			r.byID[u.ID] = &foundUser{u, err}
			err = nil
		}
		return err
	}, query, args...)
}

// askOwners reads the owner of the number under each key.
func (s *Store) askOwners(p user.Phone, owners *[]*foundUser) sqldb.Statement {
	hashes := s.keys.Load().phoneHashes(p.E164())
	*owners = make([]*foundUser, len(hashes))
	var args []any
	for _, h := range hashes {
		args = append(args, h)
	}
	return sqldb.Ask(func(row sqldb.Row) error {
		var hash []byte
		u, err := s.scanUser(row, &hash)
		if u.ID == "" {
			return err
		}
		for i, h := range hashes {
			if bytes.Equal(h, hash) {
				(*owners)[i] = &foundUser{u, err}
			}
		}
		return nil
	}, `SELECT u.id, u.phone, u.disabled, u.created_at, p.phone_hash
		FROM {user_phones} p JOIN {users} u ON u.id = p.user_id WHERE p.phone_hash IN (?`+strings.Repeat(", ?", len(hashes)-1)+`)`, args...)
}

// firstOwner returns the owner found under the newest key.
func firstOwner(owners []*foundUser) *foundUser {
	for _, o := range owners {
		if o != nil {
			return o
		}
	}
	return &foundUser{err: user.ErrUnknown}
}

func (r *accountReader) theOwner() *foundUser { return firstOwner(r.owners) }

// known returns the result of the queries.
func (r *accountReader) known() login.Known {
	asked := user.Binding{AppID: r.a.AppID, OpenID: r.a.OpenID, UnionID: r.a.UnionID}
	k := login.Known{Binding: chooseKnown(r.alike, r.own, asked), Detached: detachedBy(r.alike, r.own, asked), Asked: r.asked}
	k.Taken = k.UserID != "" && r.own.UserID == "" && k.State == user.Active && r.taken[k.UserID]
	r.bound = k.Binding
	return k
}

// chooseKnown returns the openid's own binding. If there is none, it chooses one of the unionid's
// bindings: an active one before others, then the one with the latest phone login.
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

// detachedBy returns the user whom the openid has detached. If there is none, it returns a user
// whom another openid of the same unionid has detached, or an empty string.
func detachedBy(list []boundOpenID, own, asked user.Binding) string {
	if own.State == user.Withdrawn {
		return own.UserID
	}
	var first user.Binding
	for _, b := range list {
		if b.State == user.Withdrawn && b.SameAccount(asked) && (first.UserID == "" || b.AppID+" "+b.OpenID < first.AppID+" "+first.OpenID) {
			first = b.Binding
		}
	}
	return first.UserID
}
