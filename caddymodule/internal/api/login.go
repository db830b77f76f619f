package api

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/metrics"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/span"
)

// login takes the mini program's codes and answers with a token. With a phoneCode it is
// a phone login, otherwise a silent one.
func (c *call) login() error {
	if a, p := c.app("", c.r); p == nil {
		c.tried.app = a.ID // unless the body names another one
	}
	if tooEarly(c.r) {
		return c.refuse(problem.New(problem.TooEarly))
	}
	req, p := c.loginRequest()
	if p != nil {
		if p.Status == http.StatusBadRequest {
			p = p.WithRenew(nil)
		}
		return c.refuse(p)
	}
	if c.Opened == nil {
		return c.refuse(c.unopened().WithRenew(nil)) // the client may send the same codes again
	}
	if c.testSecret != "" {
		return c.testLogin(req)
	}
	network, known := c.client()
	if known {
		req.Client = network
	}
	limit := c.limit(network, known, req.RefreshToken)
	req.Admit = limit.reserve
	req.MayAsk = func(openid string) error { return c.loginMayAsk(req.App.ID, openid) }
	a := &attempt{request: c.requestID(), trace: span.TraceID(c.r.Context()), limit: limit}
	res, err := c.Chain.Login(context.WithValue(c.r.Context(), attemptKey{}, a), req)
	if err != nil {
		c.tried.done = errors.As(err, new(*login.Error)) || !errors.As(err, new(tooMany))
		return c.refuse(loginProblem(err))
	}
	out := c.pair(res.Session, res.Token, res.RefreshToken)
	out.UserInfo = account.UserInfo(res.User)
	if delete(out.UserInfo, "moved"); res.Moved {
		out.UserInfo["moved"] = true
	}
	return c.answerPair(out)
}

// loginProblem returns the answer to a failed login.
func loginProblem(err error) *problem.Problem {
	var e *login.Error
	var much tooMany
	switch {
	case errors.As(err, &much):
		return much.problem()
	case errors.As(err, &e):
	case errors.As(err, new(*login.Panic)):
		return problem.New(problem.InternalError)
	default:
		e = &login.Error{Code: problem.WeChatTimeout} // the client has gone, so nobody reads this answer
	}
	p := problem.New(e.Code)
	p.RetryAfter = e.RetryAfter
	switch p.Status {
	case http.StatusBadRequest, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		p = p.WithRenew(e.Renew)
	}
	return p
}

func (c *call) loginRequest() (login.Request, *problem.Problem) {
	req := login.Request{UserAgent: c.r.UserAgent(), Address: c.address()}
	var appid string
	p := readJSON(c.w, c.r, map[string]any{"code": &req.Code, "phoneCode": &req.PhoneCode, "appid": &appid, "refreshToken": (*optional)(&req.RefreshToken), "testLogin": &c.testSecret})
	if p != nil {
		return req, p
	}
	app, p := c.app(appid, c.r)
	c.tried.app, c.tried.kind = app.ID, kindOf(req)
	if c.testSecret != "" {
		c.tried.kind = metrics.Test
	}
	switch {
	case c.testSecret != "" && req.Code+req.PhoneCode != "":
		return req, problem.Invalid("Send either testLogin or code.")
	case c.testSecret != "":
	case req.Code == "":
		return req, problem.Invalid("code is missing: send what wx.login gave.")
	case !isCode(req.Code):
		return req, problem.Invalid("code must be what wx.login gave: 1 to 256 visible ASCII characters. (In DevTools without an AppID it is a mock code with blanks.)")
	case req.PhoneCode != "" && !isCode(req.PhoneCode):
		return req, problem.Invalid("phoneCode must be what the phone button gave: 1 to 256 visible ASCII characters.")
	}
	req.App, req.WeChat = app.App, app.WeChat
	return req, p
}

// maxCode bounds a one-time code. WeChat's codes have 32 to 64 characters.
const maxCode = 256

// isCode reports whether s may be one of WeChat's codes. WeChat's edge servers might refuse a
// request with any other text, or take it for an attack.
func isCode(s string) bool {
	return s != "" && len(s) <= maxCode && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// app returns the mini program to which the codes belong: the one named in the body,
// else the one in the Referer, else the only one.
func (s *Server) app(appid string, r *http.Request) (App, *problem.Problem) {
	if appid != "" {
		if a, ok := s.Apps[appid]; ok {
			return a, nil
		}
		return App{}, problem.Invalid("appid names a mini program that is not served here.")
	}
	if rest, ok := strings.CutPrefix(r.Referer(), "https://servicewechat.com/"); ok {
		hint, _, _ := strings.Cut(rest, "/")
		if a, ok := s.Apps[hint]; ok {
			return a, nil
		}
	}
	if len(s.Apps) > 1 {
		return App{}, problem.Invalid("appid is missing: several mini programs are served here.")
	}
	for _, a := range s.Apps {
		return a, nil
	}
	return App{}, problem.New(problem.Misconfigured)
}

// tooEarly reports whether the request came as TLS early data, which an attacker can record
// and send again. A proxy that received it as early data adds a header. Any value of the
// header, and any number of them, means the same (RFC 8470, section 5.1), because a proxy may
// have added its own to the client's.
func tooEarly(r *http.Request) bool {
	return r.TLS != nil && !r.TLS.HandshakeComplete || len(r.Header["Early-Data"]) > 0
}
