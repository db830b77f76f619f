package api

import (
	"errors"
	"net/http"
	"strconv"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// findUser shows the user who has a phone number or an openid. Both are in the body: in the
// path they would be in the logs of every proxy on the way.
func (c *call) findUser() error {
	var phone, openid, appid string
	p := readJSON(c.w, c.r, map[string]any{"phone": &phone, "openid": &openid, "appid": &appid})
	switch {
	case p != nil:
	case (phone == "") == (openid == ""), (openid == "") != (appid == ""):
		p = problem.Invalid("Send either phone, or openid and appid.")
	case phone != "" && c.External:
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
	return c.showUser("find", id)
}

func (c *call) ownerOf(phone, openid, appid string) (id string, err error) {
	if phone == "" {
		return c.lookup().ByOpenID(c.r.Context(), appid, openid)
	}
	number, err := user.ParsePhone("", phone)
	if err != nil {
		return "", err
	}
	return c.Store.FindPhone(c.r.Context(), number)
}

// shown logs that the backend has read personal data.
func (c *call) shown(what, userID string) {
	c.Log.Info("service: "+what, zap.String("user", userID), zap.String("address", c.address()), zap.String("requestId", c.requestID()))
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
	users, next, err := c.lookup().List(c.r.Context(), after, limit)
	if err != nil {
		return c.refuse(c.storeFailed("listing users", err))
	}
	list := []map[string]any{}
	for _, u := range users {
		one := map[string]any{"id": u.ID} // for users in an external directory, only the id is known
		if !c.External {
			one = account.Record(u)
		}
		list = append(list, one)
	}
	page := map[string]any{"users": list}
	if next != "" {
		page["next"] = next
	}
	c.shown("list", "")
	return c.answer(http.StatusOK, "application/json", page)
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
	return c.answer(http.StatusOK, "application/json", x.Record(id))
}
