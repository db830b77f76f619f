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
	logins    ratelimit.Limiter[string]       // logins that WeChat refused, see limit
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

// loginLimit applies login_rate to one login or change of number.
type loginLimit struct {
	limiter *ratelimit.Limiter[string]
	// counts lists the counters in which the attempt is reserved. If it is empty, the limit is off.
	counts []count
}

// count is the count of one client, or of one session, and the rate that bounds it.
type count struct {
	key  string
	rate ratelimit.Rate
}

// sessionShare is how many times login_rate WeChat may refuse the logins with refresh
// tokens from one address.
const sessionShare = 4

// limit returns the limit for a login from a network, if that is known. A login without
// one of our refresh tokens is counted by its address. A login with one is counted by
// its session, whatever the address owes, so that others at the same address cannot lock
// its device out. The MAC keeps a client from naming another's session. But one client
// may have the refresh tokens of many sessions, which are good for this after the
// sessions have ended. So such logins are also counted together by their address, at
// sessionShare times the rate. However many tokens a client has, it gets
// 1 + sessionShare times the rate.
func (c *call) limit(network netip.Prefix, known bool, refreshToken string) *loginLimit {
	if id, ours := c.Sessions.Keys.SessionOf(refreshToken); ours {
		return c.limitOf(id, network, known)
	}
	l := &loginLimit{limiter: &c.State.logins}
	if known && c.LoginRate.Count > 0 {
		l.counts = []count{{network.String(), c.LoginRate}}
	}
	return l
}

// limitOf returns the limit for a session at a network, if that is known. It counts
// changes of number together with the session's logins.
func (c *call) limitOf(sessionID string, network netip.Prefix, known bool) *loginLimit {
	l := &loginLimit{limiter: &c.State.logins}
	rate := c.LoginRate
	if rate.Count == 0 {
		return l
	}
	l.counts = []count{{"session " + sessionID, rate}}
	if known {
		all := ratelimit.Rate{Count: sessionShare * rate.Count, Per: rate.Per}
		l.counts = append(l.counts, count{"sessions at " + network.String(), all})
	}
	return l
}

// reserve lets the login begin, or returns a tooMany. WeChat's answer decides whether
// the login counts, see settle.
func (l *loginLimit) reserve() error {
	now := time.Now()
	for i, c := range l.counts {
		if r := l.limiter.Reserve(c.rate, c.key, now); r != nil {
			for _, reserved := range l.counts[:i] {
				l.limiter.Release(reserved.key)
			}
			return tooMany{"login", c.rate, *r}
		}
	}
	return nil
}

// settle ends what reserve began. Only a login that WeChat refused is counted.
func (l *loginLimit) settle(refused, succeeded bool) {
	now := time.Now()
	for _, c := range l.counts {
		switch {
		case refused:
			l.limiter.Fail(c.rate, c.key, now)
		case succeeded:
			l.limiter.Succeed(c.key, now)
		default:
			l.limiter.Release(c.key)
		}
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
