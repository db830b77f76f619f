package api

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/outage"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// State is the state of the limits, which exists once per store for all sites and
// configurations. The zero value is ready to use.
type State struct {
	logins    ratelimit.Limiter[string]       // logins that WeChat refused, by client or session
	refreshes ratelimit.Limiter[string]       // refreshes that advanced, by session
	asks      ratelimit.Limiter[string]       // calls to an external directory, by purpose and session or WeChat account
	wrongKeys ratelimit.Limiter[netip.Prefix] // wrong service keys, by client
	// wrongTests counts wrong secrets of the test login, by client.
	wrongTests ratelimit.Limiter[netip.Prefix]
	// rightTests counts test logins with the right secret, by the user's number.
	rightTests ratelimit.Limiter[user.Phone]

	health health

	streaks   streaks
	directory outage.Outage
}

// loginLimit applies login_rate to one login.
type loginLimit struct {
	server *Server
	key    string // the key by which the login is counted; empty: the limit is off
}

// limit returns the limit for a login from a network, if that is known. A login with
// one of our refresh tokens is counted by its session, so that others at the same
// address cannot lock its device out.
func (c *call) limit(network netip.Prefix, known bool, refreshToken string) *loginLimit {
	if id, ours := c.Sessions.Keys.SessionOf(refreshToken); ours {
		return c.limitOf(id)
	}
	l := &loginLimit{server: c.Server}
	if known && c.LoginRate.Count > 0 {
		l.key = network.String()
	}
	return l
}

// limitOf returns the limit for a session. It counts changes of number together with the
// session's logins.
func (c *call) limitOf(sessionID string) *loginLimit {
	l := &loginLimit{server: c.Server}
	if c.LoginRate.Count > 0 {
		l.key = "session " + sessionID
	}
	return l
}

// reserve lets the login begin, or returns a tooMany. WeChat's answer decides whether
// the login counts, see settle.
func (l *loginLimit) reserve() error {
	if l.key == "" {
		return nil
	}
	rate := l.server.LoginRate
	if r := l.server.State.logins.Reserve(rate, l.key, time.Now()); r != nil {
		return tooMany{"login", rate, *r}
	}
	return nil
}

// settle ends what reserve began. Only a login that WeChat refused is counted.
func (l *loginLimit) settle(refused, succeeded bool) {
	if l.key == "" {
		return
	}
	limiter := &l.server.State.logins
	switch {
	case refused:
		limiter.Fail(l.server.LoginRate, l.key, time.Now())
	case succeeded:
		limiter.Succeed(l.key, time.Now())
	default:
		limiter.Release(l.key)
	}
}

// directoryRate limits how often one session may cause a call to an external directory,
// separately for /me and for refreshes, and how often the logins of one WeChat account may. The
// directory may be somebody's backend, and nothing else limits requests with a good token,
// repeats of a refresh token within its grace, or logins that WeChat does not refuse.
var directoryRate = ratelimit.Rate{Count: 30, Per: time.Minute}

// mayAsk returns a tooMany if the session must not cause a call to the directory now.
func (c *call) mayAsk(purpose, sessionID string) error {
	return c.ask(purpose+" "+sessionID, c.now)
}

// loginMayAsk returns a tooMany if a WeChat account must not cause a call to the directory now.
func (c *call) loginMayAsk(appid, openid string) error {
	return c.ask("login "+appid+" "+openid, time.Now()) // the login may be older than its last question
}

func (c *call) ask(key string, now time.Time) error {
	if !c.External {
		return nil
	}
	if r := c.State.asks.Take(directoryRate, key, now); r != nil {
		return tooMany{"directory", directoryRate, *r}
	}
	return nil
}

// tooMany is the error for an attempt beyond a rate.
type tooMany struct {
	policy string
	rate   ratelimit.Rate
	ratelimit.Refusal
}

func (t tooMany) Error() string { return "beyond the rate of " + t.policy }

// problem returns the answer, with the RateLimit header fields
// (draft-ietf-httpapi-ratelimit-headers).
func (t tooMany) problem() *problem.Problem {
	p := problem.New(problem.RateLimited)
	p.RetryAfter = t.Wait
	p.RateLimit = fmt.Sprintf(`"%s";r=%d;t=%d`, t.policy, t.Left, int(math.Ceil(t.Reset.Seconds())))
	p.RateLimitPolicy = fmt.Sprintf(`"%s";q=%d;w=%d`, t.policy, t.rate.Count, int(t.rate.Per.Seconds()))
	return p
}
