package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// unknownUser returns the error for an id that no user has.
func unknownUser(id string) error {
	return fmt.Errorf("there is no user with the id %q", id)
}

// FindUsers shows the users with a given phone number, openid or id.
func (o *Store) FindUsers(ctx context.Context, out Output, what, appid string, now time.Time) error {
	ids, err := o.find(ctx, strings.TrimSpace(what), appid)
	if err != nil {
		return err
	}
	var found []account.Shown
	for _, id := range ids {
		shown, err := o.lookup().Show(ctx, id, now)
		if errors.Is(err, user.ErrUnknown) {
			continue
		}
		if err != nil {
			return err
		}
		found = append(found, shown)
	}
	if len(found) == 0 {
		return errors.New("no user here has this phone number, openid or id")
	}
	if out.JSON {
		users := []map[string]any{}
		for _, s := range found {
			users = append(users, out.record(s.Record(), s.User.Phone))
		}
		return out.json(map[string]any{"users": users})
	}
	users := make([]user.User, len(found))
	for i, s := range found {
		users[i] = s.User
	}
	return o.table(out, users)
}

// find returns the ids of the users that a text may mean: a phone number, an openid or an id. A
// number is looked up only if the users are in the store.
func (o *Store) find(ctx context.Context, what, appid string) (ids []string, err error) {
	country := "86"
	if strings.HasPrefix(what, "+") {
		country = ""
	}
	number, notNumber := user.ParsePhone(country, what)
	switch {
	case country == "" && o.External:
		return nil, errors.New("the users are in your own directory, which knows the phone numbers: find the user there, or by an openid")
	case country == "" && notNumber != nil:
		return nil, errors.New("this is not a phone number in E.164, such as +8613800138000")
	case notNumber == nil && !o.External:
		id, err := o.FindPhone(ctx, number)
		if err != nil && !errors.Is(err, user.ErrUnknown) {
			return nil, err
		}
		if err == nil {
			ids = append(ids, id)
		}
	}
	if country == "" || !user.ValidID(what) {
		return ids, nil
	}
	apps := o.Apps
	if appid != "" {
		apps = []string{appid}
	}
	for _, app := range apps {
		id, err := o.lookup().ByOpenID(ctx, app, what)
		if err == nil {
			ids = append(ids, id)
		} else if !errors.Is(err, user.ErrUnknown) {
			return nil, err
		}
	}
	if len(ids) == 0 {
		ids = append(ids, what)
	}
	return compact(ids), nil
}

func compact(ids []string) (distinct []string) {
	seen := make(map[string]bool)
	for _, id := range ids {
		if !seen[id] {
			distinct = append(distinct, id)
		}
		seen[id] = true
	}
	return distinct
}

func (o *Store) table(out Output, users []user.User) error {
	var rows [][]string
	for _, u := range users {
		rows = append(rows, []string{u.ID, out.phone(u.Phone), state(u), moment(u.CreatedAt)})
	}
	return out.table("ID | PHONE | STATE | CREATED", rows)
}

func state(u user.User) string {
	if u.Disabled {
		return "disabled"
	}
	return "active"
}

// pageSize is the number of users that are read at a time.
const pageSize = 1000

// ListUsers lists at most limit users, in the order of their ids. A limit of 0 means all users.
func (o *Store) ListUsers(ctx context.Context, out Output, after string, limit int) error {
	if limit < 0 || after != "" && !user.ValidID(after) {
		return errors.New("--limit must be a number of users, and --after an id")
	}
	records, written, next := []map[string]any{}, 0, after
	for {
		size := pageSize
		if limit > 0 {
			size = min(size, limit-written)
		}
		users, more, err := o.lookup().List(ctx, next, size)
		if err != nil {
			return err
		}
		for _, u := range users {
			one := map[string]any{"id": u.ID}
			if !o.External {
				one = out.record(account.Record(u), u.Phone)
			}
			records = append(records, one)
		}
		if !out.JSON {
			if err := o.page(out, users, written == 0); err != nil {
				return err
			}
			records = nil
		}
		written += len(users)
		if next = more; next == "" || limit > 0 && written >= limit {
			break
		}
	}
	if out.JSON {
		page := map[string]any{"users": records}
		if next != "" {
			page["next"] = next
		}
		return out.json(page)
	}
	if next != "" {
		fmt.Fprintf(out, "There are more: --after %s\n", next)
	}
	return nil
}

// page writes a part of the table of users.
func (o *Store) page(out Output, users []user.User, first bool) error {
	if !o.External && first {
		return o.table(out, users)
	}
	var rows [][]string
	for _, u := range users {
		if o.External { // this store knows only the id
			rows = append(rows, []string{u.ID})
			continue
		}
		rows = append(rows, []string{u.ID, out.phone(u.Phone), state(u), moment(u.CreatedAt)})
	}
	head := ""
	if first {
		head = "ID"
	}
	return out.table(head, rows)
}

// ShowUser shows a user with their openids and sessions.
func (o *Store) ShowUser(ctx context.Context, out Output, id string, now time.Time) error {
	s, err := o.lookup().Show(ctx, id, now)
	if errors.Is(err, user.ErrUnknown) {
		return unknownUser(id)
	}
	if err != nil {
		return err
	}
	if out.JSON {
		return out.json(out.record(s.Record(), s.User.Phone))
	}
	if err := out.table("", [][]string{
		{"id", s.User.ID}, {"phone", out.phone(s.User.Phone)}, {"state", state(s.User)}, {"created", moment(s.User.CreatedAt)},
	}); err != nil {
		return err
	}
	var openids [][]string
	for _, b := range s.Bindings {
		may := "logs in silently"
		if b.State == user.Suspended {
			may = "suspended"
		}
		openids = append(openids, []string{b.OpenID, b.AppID, b.UnionID, moment(b.PhoneAt), may})
	}
	fmt.Fprintln(out)
	if err := out.table("OPENID | APPID | UNIONID | PHONE LOGIN | STATE", openids); err != nil {
		return err
	}
	fmt.Fprintln(out)
	return out.sessions(s.Sessions, false)
}

// known returns an error unless the directory or the store knows the user.
func (o *Store) known(ctx context.Context, id string) error {
	x, err := o.Export(ctx, id)
	if err != nil && !errors.Is(err, user.ErrUnknown) {
		return err
	}
	open := slices.ContainsFunc(x.Sessions, func(s session.Session) bool { return s.EndedAt.IsZero() })
	if x.User != nil || x.Disabled || open || len(x.Bindings)+len(x.Former) > 0 {
		return nil
	}
	if o.External {
		if _, err = o.Directory.Check(ctx, id); err == nil || !errors.Is(err, user.ErrUnknown) {
			return err
		}
	}
	if !x.ErasedAt.IsZero() {
		return fmt.Errorf("the user %s was erased at %s", id, moment(x.ErasedAt))
	}
	return unknownUser(id)
}

// DisableUser prevents a user from logging in, and ends their sessions.
func (o *Store) DisableUser(ctx context.Context, out Output, id string, now time.Time) error {
	if err := o.known(ctx, id); err != nil {
		return err
	}
	ended, err := o.accounts().Disable(ctx, id, now)
	return out.did(id, "disabled", ended, err)
}

// EnableUser lets a disabled user log in again.
func (o *Store) EnableUser(ctx context.Context, out Output, id string) error {
	if err := o.known(ctx, id); err != nil {
		return err
	}
	err := o.accounts().Enable(ctx, id)
	return out.did(id, "enabled", session.Ended{}, err)
}

// EraseUser erases a user.
func (o *Store) EraseUser(ctx context.Context, out Output, id string, now time.Time) error {
	if err := o.known(ctx, id); err != nil {
		return err
	}
	ended, err := o.accounts().Erase(ctx, id, now)
	return out.did(id, "erased", ended, err)
}

// did reports what was done to a user.
func (o Output) did(id, what string, ended session.Ended, err error) error {
	switch {
	case errors.Is(err, user.ErrUnknown):
		return unknownUser(id)
	case err != nil:
		return fmt.Errorf("%w\nRun the same command again: it continues with the rest", err)
	case o.JSON:
		return o.json(map[string]any{"id": id, "done": what, "endedSessions": ended.Count})
	}
	fmt.Fprintf(o, "The user %s is %s", id, what)
	if ended.Count > 0 {
		fmt.Fprintf(o, "; %d sessions have ended, and every replica knows this within 1.5 s", ended.Count)
	}
	fmt.Fprintln(o, ".")
	return nil
}

// ExportUser writes everything that the store contains about a user, as JSON.
func (o *Store) ExportUser(ctx context.Context, out Output, id string) error {
	x, err := o.Export(ctx, id)
	if errors.Is(err, user.ErrUnknown) {
		return unknownUser(id)
	}
	if err != nil {
		return err
	}
	return out.json(x.Record(id))
}
