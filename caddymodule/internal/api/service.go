package api

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// wrongKeyRate limits how many wrong service keys a client may send. Beyond it every
// key is refused, even the right one.
var wrongKeyRate = ratelimit.Rate{Count: 10, Per: time.Minute}

// checkServiceKey checks that the request comes from the backend, and is not a replay
// of recorded early data.
func (c *call) checkServiceKey() *problem.Problem {
	if tooEarly(c.r) {
		return problem.New(problem.TooEarly)
	}
	right := c.showsServiceKey()
	if network, known := c.client(); known {
		// A wrong key is counted at the moment of the comparison: of many keys sent at
		// once, no more than the rate are compared.
		limiter, check := &c.State.wrongKeys, (*ratelimit.Limiter[netip.Prefix]).Take
		if right {
			check = (*ratelimit.Limiter[netip.Prefix]).Check
		}
		if r := check(limiter, wrongKeyRate, network, c.now); r != nil {
			return tooMany{"service_key", wrongKeyRate, *r}.problem()
		}
	}
	if right {
		return nil
	}
	c.Log.Warn("a request without the service key for a service endpoint",
		remedy.ServiceKeyWrong.Field("give your backend the service_key; if the address is not your backend's, let /service/* through from your own network only"),
		zap.String("address", c.address()), zap.String("requestId", c.requestID()))
	return problem.New(problem.ServiceKeyInvalid)
}

func (c *call) showsServiceKey() bool {
	shown := c.r.Header["Authorization"]
	if len(shown) != 1 {
		return false
	}
	scheme, key, _ := strings.Cut(shown[0], " ")
	return strings.EqualFold(scheme, "Bearer") && c.ServiceKey(strings.TrimLeft(key, " "))
}

// revoke ends all sessions of a user, or one session.
func (c *call) revoke() error {
	var userID, sessionID string
	p := readJSON(c.w, c.r, map[string]any{"userId": &userID, "sessionId": &sessionID})
	switch {
	case p != nil:
	case (userID == "") == (sessionID == ""):
		p = problem.Invalid("Send either userId or sessionId.")
	case !user.ValidID(userID + sessionID):
		p = problem.Invalid("An id has 1 to 128 visible ASCII characters.")
	}
	if p != nil {
		return c.refuse(p)
	}
	ctx, done := c.seenThrough()
	defer done()
	if userID != "" {
		ended, err := c.Accounts.Revoke(ctx, userID, c.now)
		return c.served("revoke", userID, ended, err)
	}
	var ended session.Ended
	s, err := c.Store.Session(ctx, sessionID)
	if errors.Is(err, session.ErrNotFound) {
		p := problem.New(problem.NotFound)
		p.Detail = "There is no such session, or it ended so long ago that it is no longer stored."
		return c.refuse(p)
	}
	if err == nil {
		ended, err = c.Accounts.End(ctx, s, session.ReasonRevoked, c.now)
	}
	return c.served("revoke", s.UserID, ended, err)
}

// served logs what was done for the backend and answers it, with 204 only when
// everything is done. After a 503 the same call goes on with what is left.
func (c *call) served(what, userID string, ended session.Ended, err error) error {
	if err != nil {
		return c.refuse(c.failed("service: "+what, err))
	}
	c.Log.Info("service: "+what, zap.String("user", userID), zap.Int("ended", ended.Count), zap.Strings("sessions", ended.IDs),
		zap.String("address", c.address()), zap.String("requestId", c.requestID()))
	return c.answer(http.StatusNoContent, "", nil)
}

// userID returns the user's id in the path. In the path, characters that a segment cannot
// contain are percent-encoded.
func (c *call) userID() (id string, ok bool) {
	id, err := url.PathUnescape(c.id)
	return id, err == nil && user.ValidID(id)
}

// serviceUser reads, changes or erases a user.
func (c *call) serviceUser() error {
	id, ok := c.userID()
	if !ok {
		return c.noSuchUser()
	}
	switch c.r.Method {
	case http.MethodPatch:
		return c.changeUser(id)
	case http.MethodDelete:
		return c.eraseUser(id)
	}
	return c.showUser("show", id)
}

func (c *call) noSuchUser() error {
	p := problem.New(problem.NotFound)
	p.Detail = "There is no such user."
	return c.refuse(p)
}

// changeUser disables or enables a user, or takes the user's number.
func (c *call) changeUser(id string) error {
	var disabled *bool
	var noPhone null
	p := readJSON(c.w, c.r, map[string]any{"disabled": &disabled, "phone": &noPhone})
	if p == nil && (disabled != nil) == bool(noPhone) {
		p = problem.Invalid("Send either disabled, which is true or false, or phone, which is null.")
	}
	if p != nil {
		return c.refuse(p)
	}
	ctx, done := c.seenThrough()
	defer done()
	what, ended, err := "enable", session.Ended{}, error(nil)
	switch {
	case bool(noPhone):
		what = "take phone"
		ended, err = c.Accounts.TakePhone(ctx, id, c.now)
	case *disabled:
		what = "disable"
		ended, err = c.Accounts.Disable(ctx, id, c.now)
	default:
		err = c.Accounts.Enable(ctx, id)
	}
	switch {
	case errors.Is(err, user.ErrUnknown):
		return c.noSuchUser()
	case errors.Is(err, user.ErrPhoneFixed):
		return c.refuse(problem.New(problem.NotHere))
	}
	return c.served(what, id, ended, err)
}

// eraseUser erases a user, even an unknown one.
func (c *call) eraseUser(id string) error {
	ctx, done := c.seenThrough()
	defer done()
	ended, err := c.Accounts.Erase(ctx, id, c.now)
	return c.served("erase", id, ended, err)
}

// failed logs what the directory or the store could not do, and returns the problem for the
// client.
func (c *call) failed(doing string, err error) *problem.Problem {
	if errors.Is(err, account.ErrDirectory) {
		return c.directoryOrStoreFailed(doing, err)
	}
	return c.storeFailed(doing, err)
}

// unavailable returns the problem for an operation that the directory or the store could not
// complete.
func unavailable(err error) *problem.Problem {
	switch {
	case errors.Is(err, user.ErrMisconfigured):
		return problem.New(problem.Misconfigured)
	case errors.Is(err, account.ErrDirectory) && !login.OfStore(err):
		return problem.New(problem.DirectoryUnavailable)
	}
	return problem.New(problem.StoreUnavailable)
}

// lookup finds and shows users.
func (c *call) lookup() account.Lookup {
	return account.Lookup{Directory: c.Directory, Store: c.Store, External: c.External}
}

// showUser shows a user, and logs it under what the backend asked for.
func (c *call) showUser(what, id string) error {
	shown, err := c.lookup().Show(c.r.Context(), id, c.now)
	switch {
	case errors.Is(err, user.ErrUnknown):
		return c.noSuchUser()
	case err != nil:
		return c.refuse(c.failed("looking up a user", err))
	}
	c.shown(what, id)
	return c.answer(http.StatusOK, "application/json", shown.Record())
}
