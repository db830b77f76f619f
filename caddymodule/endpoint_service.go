package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// wrongKeyRate is how many wrong service keys a client may show. Beyond it none
// is taken, not even the right one.
var wrongKeyRate = ratelimit.Rate{Count: 10, Per: time.Minute}

// serviceKey checks that the request is the backend's own, and not a recorded one.
func (c *call) serviceKey() *problem.Problem {
	if tooEarly(c.r) {
		return problem.New(problem.TooEarly)
	}
	right := c.showsServiceKey()
	if network, known := c.client(); known {
		// A wrong key is counted in the moment in which it is looked at: of many at
		// once no more than the rate learn that they are wrong.
		limiter, check := &c.site.shared.wrongKeys, (*ratelimit.Limiter[netip.Prefix]).Take
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
	c.site.log.Warn("a request without the service key for a service endpoint",
		zap.String("address", clientIP(c.r)), zap.String("request", requestID(c.r)))
	return problem.New(problem.ServiceKeyInvalid)
}

func (c *call) showsServiceKey() bool {
	shown := c.r.Header["Authorization"]
	if len(shown) != 1 {
		return false
	}
	scheme, key, _ := strings.Cut(shown[0], " ")
	return strings.EqualFold(scheme, "Bearer") && c.site.set.Service.is(strings.TrimLeft(key, " "))
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
		return refuse(c.w, c.r, p)
	}
	ctx, done := c.seenThrough()
	defer done()
	if userID != "" {
		return c.endAllOf(ctx, "revoke", userID, nil)
	}
	s, err := c.site.store.Session(ctx, sessionID)
	if errors.Is(err, session.ErrNotFound) {
		p := problem.New(problem.NotFound)
		p.Detail = "There is no such session, or it was over so long ago that it is forgotten."
		return refuse(c.w, c.r, p)
	}
	if err == nil {
		_, err = c.endOne(ctx, s.ID, s.UserID, session.ReasonRevoked)
	}
	if err != nil {
		return refuse(c.w, c.r, c.storeFailed("revoking a session", err))
	}
	c.served("revoke", s.UserID, session.Ended{Count: 1, IDs: []string{s.ID}})
	return answer(c.w, c.r, http.StatusNoContent, "", nil)
}

// served logs what was done for the backend.
func (c *call) served(what, userID string, ended session.Ended) {
	c.site.log.Info("service: "+what, zap.String("user", userID), zap.Int("ended", ended.Count), zap.Strings("sessions", ended.IDs),
		zap.String("address", clientIP(c.r)), zap.String("request", requestID(c.r)))
}

// endAllOf ends a user's sessions, after what else was to be done about them. It
// logs what it did, emits the event that it is given, if any, and answers the
// backend: 204 only when all sessions have ended. After a 503 the same call goes
// on with those that are left.
func (c *call) endAllOf(ctx context.Context, what, userID string, ev *event) error {
	ended, err := c.live.sessions.EndUser(ctx, userID, session.ReasonRevoked, c.now)
	if err != nil {
		c.emitEnded(userID, ended, session.ReasonRevoked)
		return refuse(c.w, c.r, c.storeFailed("service: "+what, err))
	}
	c.served(what, userID, ended)
	if ev != nil {
		c.site.emit(*ev)
	}
	c.emitEnded(userID, ended, session.ReasonRevoked)
	return answer(c.w, c.r, http.StatusNoContent, "", nil)
}

// serviceUser shows, disables, enables or erases a user. An id with characters
// that no segment of a path has comes percent-encoded.
func (c *call) serviceUser() error {
	id, err := url.PathUnescape(c.id)
	if err != nil || !user.ValidID(id) {
		return c.noSuchUser()
	}
	switch c.r.Method {
	case http.MethodPatch:
		return c.setDisabled(id)
	case http.MethodDelete:
		return c.eraseUser(id)
	}
	return c.showUser(id)
}

func (c *call) noSuchUser() error {
	p := problem.New(problem.NotFound)
	p.Detail = "There is no such user."
	return refuse(c.w, c.r, p)
}

func (c *call) setDisabled(id string) error {
	var disabled *bool
	if p := readJSON(c.w, c.r, map[string]any{"disabled": &disabled}); p != nil {
		return refuse(c.w, c.r, p)
	}
	if disabled == nil {
		return refuse(c.w, c.r, problem.Invalid("disabled is missing: send true or false."))
	}
	ctx, done := c.seenThrough()
	defer done()
	err := c.site.directory.SetDisabled(ctx, id, *disabled)
	switch {
	case errors.Is(err, user.ErrUnknown):
		return c.noSuchUser()
	case err != nil:
		return refuse(c.w, c.r, c.storeFailed("disabling a user", err))
	case *disabled:
		// Afterwards: from here on, no login opens another.
		return c.endAllOf(ctx, "disable", id, &event{"wx_auth_user_disabled", map[string]any{"user": id}})
	}
	c.served("enable", id, session.Ended{})
	c.site.emit(event{"wx_auth_user_enabled", map[string]any{"user": id}})
	return answer(c.w, c.r, http.StatusNoContent, "", nil)
}

// eraseUser erases a user, known or not.
func (c *call) eraseUser(id string) error {
	ctx, done := c.seenThrough()
	defer done()
	ended, err := c.erase(ctx, id)
	if err != nil {
		c.storeFailed("erasing a user", err)
		return refuse(c.w, c.r, unavailable(err))
	}
	c.served("erase", id, ended)
	return answer(c.w, c.r, http.StatusNoContent, "", nil)
}

// erase ends a user's sessions at once, and then erases the user.
func (c *call) erase(ctx context.Context, id string) (ended session.Ended, err error) {
	if ended, err = c.live.sessions.ForgetUser(ctx, id, c.now); err != nil {
		return ended, err
	}
	if err := c.site.directory.Erase(ctx, id); err != nil {
		return ended, errors.Join(errDirectory, err)
	}
	c.site.emit(event{"wx_auth_user_erased", map[string]any{"user": id, "sessions": ended.IDs, "count": ended.Count}})
	return ended, nil
}

// unavailable is what is told of an erasure that failed: try again.
func unavailable(err error) *problem.Problem {
	switch {
	case errors.Is(err, user.ErrMisconfigured):
		return problem.New(problem.Misconfigured)
	case errors.Is(err, errDirectory):
		return problem.New(problem.DirectoryUnavailable)
	}
	return problem.New(problem.StoreUnavailable)
}

// openid is one of a user's aliases.
type openid struct {
	AppID   string `json:"appid"`
	OpenID  string `json:"openid"`
	UnionID string `json:"unionid,omitempty"`
	// PhoneLoginAt is when it last logged in with a phone number.
	PhoneLoginAt time.Time `json:"phoneLoginAt"`
	// Suspended: another WeChat account has logged in with the user's number since,
	// so this one does not log in silently.
	Suspended bool `json:"suspended,omitempty"`
}

func (c *call) showUser(id string) error {
	ctx := c.r.Context()
	u, err := c.site.directory.Check(ctx, id)
	switch {
	case errors.Is(err, user.ErrUnknown):
		return c.noSuchUser()
	case err != nil:
		c.storeFailed("looking up a user", err)
		return refuse(c.w, c.r, unavailable(errors.Join(errDirectory, err)))
	}
	bindings, err := c.site.store.UserBindings(ctx, id)
	if err != nil {
		return refuse(c.w, c.r, c.storeFailed("looking up a user's openids", err))
	}
	sessions, err := c.site.store.UserSessions(ctx, id, c.now)
	if err != nil {
		return refuse(c.w, c.r, c.storeFailed("looking up a user's sessions", err))
	}
	openids := make([]openid, 0, len(bindings))
	for _, b := range bindings {
		openids = append(openids, openid{b.AppID, b.OpenID, b.UnionID, b.PhoneAt.UTC(), b.State == user.Suspended})
		if u.Phone.IsZero() { // the directory returns none: it is one from WeChat
			u.Phone = b.Phone
		}
	}
	devices := make([]device, 0, len(sessions))
	for _, s := range sessions {
		devices = append(devices, deviceOf(s))
	}
	info := userInfo(u)
	delete(info, "isNew")
	info["disabled"], info["openids"], info["sessions"] = u.Disabled, openids, devices
	if !u.CreatedAt.IsZero() {
		info["createdAt"] = u.CreatedAt.UTC()
	}
	return answer(c.w, c.r, http.StatusOK, "application/json", info)
}
