package api

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
)

// State is what must be one per store, for all sites and configurations. The zero value
// is ready to use.
type State struct {
	logins    ratelimit.Limiter[string]       // that WeChat refused, by client or session
	refreshes ratelimit.Limiter[string]       // that advanced, by session
	asks      ratelimit.Limiter[string]       // of an external directory, by purpose and session
	wrongKeys ratelimit.Limiter[netip.Prefix] // wrong service keys, by client

	health health
}

// loginLimit is login_rate as it applies to one login.
type loginLimit struct {
	server *Server
	key    string // what the login counts by; empty: the limit is off
}

// limit returns the limit of a login from a network, if that is known. A login with
// one of our refresh tokens counts by its session: what others do from the same address
// does not keep its device out.
func (c *call) limit(network netip.Prefix, known bool, refreshToken string) *loginLimit {
	l := &loginLimit{server: c.Server}
	if c.LoginRate.Count == 0 {
		return l
	}
	if id, ours := c.Sessions.Keys.SessionOf(refreshToken); ours {
		l.key = "session " + id
	} else if known {
		l.key = network.String()
	}
	return l
}

// reserve lets the login begin, or refuses it with a tooMany. WeChat's answer
// decides whether it counts, see settle.
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

// settle ends what reserve began. What counts is that WeChat refused the login.
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

// directoryRate is how often one session may have an external directory asked, by
// /me and by refreshes each. The directory may be somebody's backend; and neither a
// good token nor the same refresh token, shown again within its grace, has a rate of
// its own.
var directoryRate = ratelimit.Rate{Count: 30, Per: time.Minute}

// mayAsk reports whether a session may have the directory asked now; if not, with a
// tooMany.
func (c *call) mayAsk(purpose, sessionID string) error {
	if !c.LimitDirectory {
		return nil
	}
	if r := c.State.asks.Take(directoryRate, purpose+" "+sessionID, c.now); r != nil {
		return tooMany{"directory", directoryRate, *r}
	}
	return nil
}

// tooMany is the error of an attempt beyond a rate.
type tooMany struct {
	policy string
	rate   ratelimit.Rate
	ratelimit.Refusal
}

func (t tooMany) Error() string { return "beyond the rate of " + t.policy }

// problem is the answer to it, with the RateLimit header fields
// (draft-ietf-httpapi-ratelimit-headers).
func (t tooMany) problem() *problem.Problem {
	p := problem.New(problem.RateLimited)
	p.RetryAfter = t.Wait
	p.RateLimit = fmt.Sprintf(`"%s";r=%d;t=%d`, t.policy, t.Left, int(math.Ceil(t.Reset.Seconds())))
	p.RateLimitPolicy = fmt.Sprintf(`"%s";q=%d;w=%d`, t.policy, t.rate.Count, int(t.rate.Per.Seconds()))
	return p
}
