package api

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// findUser shows the user who has a phone number or an openid. Neither is in the path: it
// would be in the logs of every proxy in between.
func (c *call) findUser() error {
	var phone, openid, appid string
	p := readJSON(c.w, c.r, map[string]any{"phone": &phone, "openid": &openid, "appid": &appid})
	switch {
	case p != nil:
	case (phone == "") == (openid == ""), (openid == "") != (appid == ""):
		p = problem.Invalid("Send either phone, or openid and appid.")
	case phone != "" && c.Elsewhere:
		p = problem.New(problem.NotHere)
	}
	if p != nil {
		return c.refuse(p)
	}
	id, err := c.ownerOf(phone, openid, appid)
	switch {
	case errors.Is(err, user.ErrPhone):
		return c.refuse(problem.Invalid("phone is not a number in E.164, such as +8613800138000."))
	case errors.Is(err, user.ErrUnknown):
		return c.noSuchUser()
	case err != nil:
		return c.refuse(c.storeFailed("finding a user", err))
	}
	c.shown("find", id)
	return c.showUser(id)
}

func (c *call) ownerOf(phone, openid, appid string) (id string, err error) {
	if phone == "" {
		b, found, err := c.Store.Binding(c.r.Context(), appid, openid)
		if err == nil && !found {
			err = user.ErrUnknown
		}
		return b.UserID, err
	}
	number, err := user.ParsePhone("", phone)
	if err != nil {
		return "", err
	}
	return c.Store.FindPhone(c.r.Context(), number)
}

// shown logs that the backend has read personal data.
func (c *call) shown(what, userID string) {
	c.Log.Info("service: "+what, zap.String("user", userID), zap.String("address", c.address()), zap.String("request", c.requestID()))
}

// The size of a page of users.
const defaultPage, maxPage = 100, 1000

// listUsers lists users page by page, in the order of their ids.
func (c *call) listUsers() error {
	q := c.r.URL.Query()
	limit := defaultPage
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxPage {
			return c.refuse(problem.Invalid("limit is a number from 1 to 1000."))
		}
		limit = n
	}
	after := q.Get("after")
	if after != "" && !user.ValidID(after) {
		return c.refuse(problem.Invalid("after is the next of the page before."))
	}
	users, err := c.usersAfter(after, limit+1)
	if err != nil {
		return c.refuse(c.storeFailed("listing users", err))
	}
	page := map[string]any{"users": users[:min(limit, len(users))]}
	if len(users) > limit { // so there are more
		page["next"] = users[limit-1]["id"]
	}
	c.shown("list", "")
	return c.answer(http.StatusOK, "application/json", page)
}

// usersAfter returns what is known here of users: of those who live elsewhere the ids.
func (c *call) usersAfter(after string, limit int) (list []map[string]any, err error) {
	list = []map[string]any{}
	if c.Elsewhere {
		ids, err := c.Store.ListBound(c.r.Context(), after, limit)
		for _, id := range ids {
			list = append(list, map[string]any{"id": id})
		}
		return list, err
	}
	users, err := c.Store.ListUsers(c.r.Context(), after, limit)
	for _, u := range users {
		list = append(list, record(u))
	}
	return list, err
}

// record is a user's record as the backend sees it.
func record(u user.User) map[string]any {
	info := userInfo(u)
	delete(info, "isNew")
	info["disabled"] = u.Disabled
	if !u.CreatedAt.IsZero() {
		info["createdAt"] = u.CreatedAt.UTC()
	}
	return info
}

// exportUser shows all that is kept here about a user, also after an erasure.
func (c *call) exportUser() error {
	id, ok := c.userID()
	if !ok {
		return c.noSuchUser()
	}
	x, err := c.Store.Export(c.r.Context(), id)
	if errors.Is(err, user.ErrUnknown) {
		return c.noSuchUser()
	}
	if err != nil {
		return c.refuse(c.storeFailed("exporting a user", err))
	}
	c.shown("export", id)
	return c.answer(http.StatusOK, "application/json", exported(id, x))
}

var bindingStates = map[user.BindingState]string{user.Active: "active", user.Suspended: "suspended", user.Detached: "detached", user.Withdrawn: "detached"}

// exported is an export as JSON.
func exported(id string, x account.Export) map[string]any {
	out := map[string]any{"id": id, "disabled": x.Disabled}
	if x.User != nil {
		out = record(*x.User)
	}
	if !x.ErasedAt.IsZero() {
		out["erasedAt"] = x.ErasedAt.UTC()
	}
	openids := []map[string]any{}
	for _, b := range x.Bindings {
		one := map[string]any{"appid": b.AppID, "openid": b.OpenID, "state": bindingStates[b.State]}
		put(one, "unionid", b.UnionID)
		put(one, "phoneNumber", b.Phone.E164())
		putTime(one, "phoneLoginAt", b.PhoneAt)
		putTime(one, "authTime", b.AuthAt)
		openids = append(openids, one)
	}
	former := []map[string]any{}
	for _, f := range x.Former {
		one := map[string]any{"appid": f.AppID, "openid": f.OpenID, "leftAt": f.LeftAt.UTC()}
		put(one, "unionid", f.UnionID)
		former = append(former, one)
	}
	sessions := []map[string]any{}
	for _, s := range x.Sessions {
		one := map[string]any{"id": s.ID, "issuer": s.Issuer, "appid": s.AppID, "createdAt": s.CreatedAt.UTC(), "refreshedAt": s.RefreshedAt.UTC()}
		for name, value := range map[string]string{"openid": s.OpenID, "unionid": s.UnionID, "audience": s.Audience,
			"userAgent": s.UserAgent, "address": s.Address, "endReason": string(s.EndReason)} {
			put(one, name, value)
		}
		putTime(one, "expiresAt", s.ExpiresAt)
		putTime(one, "endedAt", s.EndedAt)
		sessions = append(sessions, one)
	}
	out["openids"], out["formerOpenids"], out["sessions"] = openids, former, sessions
	return out
}

func put(to map[string]any, name, value string) {
	if value != "" {
		to[name] = value
	}
}

func putTime(to map[string]any, name string, at time.Time) {
	if !at.IsZero() {
		to[name] = at.UTC()
	}
}
