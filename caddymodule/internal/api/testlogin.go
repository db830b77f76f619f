package api

import (
	"errors"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/metrics"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// TestLogin is the login without WeChat, for reviewers and end-to-end tests.
type TestLogin struct {
	Secret func(shown string) bool // reports whether a string is the secret
	Phone  user.Phone              // of the user who is logged in
	Until  time.Time               // the end of the last day
}

// wrongTestRate limits how many wrong secrets a client may send. Where clients cannot be told
// apart, it limits all of them together. Beyond it every secret is refused, even the right
// one. Other logins do not count.
var wrongTestRate = ratelimit.Rate{Count: 10, Per: time.Minute}

// rightTestRate limits the test logins of one user. All who have the secret share it, whatever
// their addresses: with a secret that leaked, somebody could otherwise fill the store, and ask
// an external directory, without a limit. A suite of tests stays below it.
var rightTestRate = ratelimit.Rate{Count: 120, Per: time.Minute}

// testLogin logs in the user of the site's test login. A site without a test login answers as
// it does to a wrong secret.
func (c *call) testLogin(req login.Request) error {
	ctx, done := c.seenThrough()
	defer done()
	p := c.checkTestSecret()
	if p != nil {
		return c.testRefused(req, p, nil)
	}
	res, err := c.Chain.TestLogin(ctx, req, c.TestLogin.Phone)
	if err != nil {
		return c.testRefused(req, loginProblem(err), err)
	}
	c.Metrics.Login(req.App.ID, metrics.Test, "")
	c.Log.Info("login", zap.String("kind", metrics.Test), zap.String("appid", req.App.ID), zap.String("user", res.User.ID), zap.Bool("new", res.User.New),
		zap.String("session", res.Session.ID), zap.String("phone", res.User.Phone.Masked()), zap.String("address", c.address()), zap.String("requestId", c.requestID()))
	var events []event.Event
	if res.User.New {
		events = append(events, event.UserCreated(res.User, res.Session))
	}
	events = append(events, event.Revoked(res.User.ID, res.Surplus, session.ReasonMax)...)
	c.Emit(append(events, event.Login(res.User, res.Session))...)
	out := c.pair(res.Session, res.Token, res.RefreshToken)
	out.UserInfo = account.UserInfo(res.User)
	delete(out.UserInfo, "moved")
	return c.answerPair(out)
}

// checkTestSecret returns the refusal of a request with a wrong secret, after the last day, or
// beyond a rate.
func (c *call) checkTestSecret() *problem.Problem {
	right := c.TestLogin != nil && c.TestLogin.Secret(c.testSecret)
	network, known := c.client()
	if !known {
		network = netip.Prefix{} // all clients together
	}
	// As with the service key, a wrong secret is counted at the moment of the comparison.
	check := (*ratelimit.Limiter[netip.Prefix]).Take
	if right {
		check = (*ratelimit.Limiter[netip.Prefix]).Check
	}
	if r := check(&c.State.wrongTests, wrongTestRate, network, c.now); r != nil {
		return tooMany{"test_login", wrongTestRate, *r}.problem()
	}
	switch {
	case !right:
		return problem.New(problem.TestLoginInvalid)
	case !c.now.Before(c.TestLogin.Until):
		return problem.New(problem.TestLoginExpired)
	}
	if r := c.State.rightTests.Take(rightTestRate, c.TestLogin.Phone, c.now); r != nil {
		return tooMany{"test_login", rightTestRate, *r}.problem()
	}
	return nil
}

// testRefused logs and counts a test login that was refused, and answers it.
func (c *call) testRefused(req login.Request, p *problem.Problem, err error) error {
	c.tried.done = true
	c.Metrics.Login(req.App.ID, metrics.Test, p.Code)
	if p.Code != problem.RateLimited {
		// Beyond the rate no event is emitted, as with other logins: anyone could otherwise
		// trigger event handlers as often as they like.
		c.Emit(event.Refused(req.App.ID, p.Code, metrics.Test))
	}
	fields := []zap.Field{zap.String("kind", metrics.Test), zap.String("appid", req.App.ID), zap.String("code", string(p.Code)),
		zap.String("address", c.address()), zap.String("requestId", c.requestID())}
	level := severity(p.Code)
	var e *login.Error
	if errors.As(err, &e) && e.Cause != nil {
		fields = append(fields, zap.NamedError("cause", e.Cause), remedyFor(p.Code, e.Cause))
		if p.Code == problem.StoreUnavailable || p.Code == problem.DirectoryUnavailable {
			level = c.levelOf(level, string(p.Code))
		}
	}
	c.Log.Log(level, "login refused", fields...)
	return c.refuse(p)
}
