package api

import (
	"context"
	"net/http"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// changed is the answer to a change of number. The refresh token stays as it is.
type changed struct {
	Token     string         `json:"token"`
	ExpiresIn int64          `json:"expiresIn"` // seconds
	UserInfo  map[string]any `json:"userInfo"`
}

// changePhone takes a phone code and gives its number to the caller.
func (c *call) changePhone() error {
	if tooEarly(c.r) {
		return c.refuse(problem.New(problem.TooEarly))
	}
	var req login.ChangeRequest
	caller, p := c.caller()
	if p == nil {
		req, p = c.changeRequest(caller)
	}
	if p != nil {
		if p.Status == http.StatusBadRequest || p.Status == http.StatusServiceUnavailable {
			p = p.WithRenew(nil) // the code was not sent to WeChat
		}
		return c.refuse(p)
	}
	network, known := c.client()
	if known {
		req.Client = network
	}
	a := &attempt{request: c.requestID(), limit: c.limitOf(req.SessionID, network, known)}
	req.Admit = func() error {
		if err := c.mayAsk("phone", req.SessionID); err != nil {
			return err
		}
		return a.limit.reserve()
	}
	res, err := c.Chain.ChangePhone(context.WithValue(c.r.Context(), attemptKey{}, a), req)
	if err != nil {
		return c.refuse(loginProblem(err))
	}
	pair := c.pair(res.Session, res.Token, "")
	c.setCookie(pair.Token, int(pair.ExpiresIn))
	return c.answer(http.StatusOK, "application/json", changed{pair.Token, pair.ExpiresIn, account.UserInfo(res.User)})
}

// changeRequest reads the body. The app is the one of the caller's token.
func (c *call) changeRequest(caller *token.Identity) (login.ChangeRequest, *problem.Problem) {
	req := login.ChangeRequest{Request: login.Request{Address: c.address()}, SessionID: caller.SessionID(), UserID: caller.Subject(), OpenID: caller.OpenID()}
	if p := readJSON(c.w, c.r, map[string]any{"phoneCode": &req.PhoneCode}); p != nil {
		return req, p
	}
	switch {
	case req.PhoneCode == "":
		return req, problem.Invalid("phoneCode is missing: send what the phone button gave.")
	case !isCode(req.PhoneCode):
		return req, problem.Invalid("phoneCode must be what the phone button gave: 1 to 256 visible ASCII characters.")
	}
	app, ok := c.Apps[caller.AppID()]
	if !ok { // its session was opened by a site with other apps
		return req, problem.New(problem.TokenInvalid)
	}
	req.App, req.WeChat = app.App, app.WeChat
	return req, nil
}

// OnPhoneChange is called once for each change of number that has ended, as OnDone is for
// a login. The number before the change is in no log.
func (s *Server) OnPhoneChange(ctx context.Context, req login.ChangeRequest, res login.Result, err error) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return
	}
	s.settle(a, res, err)
	fields := []zap.Field{
		zap.String("user", req.UserID), zap.String("session", req.SessionID), zap.String("appid", req.App.ID),
		zap.String("address", req.Address), zap.String("requestId", a.request), zap.Object("steps", a),
	}
	if err != nil {
		s.logFailed("change of number", err, fields)
		return
	}
	s.worked()
	fields = append(fields, zap.String("phone", res.User.Phone.Masked()))
	if res.Replayed {
		s.Log.Info("change of number", append(fields, zap.Bool("replayed", true))...)
		return
	}
	s.Log.Info("change of number", fields...)
	s.Emit(event.PhoneChanged(res.User, res.Session))
}
