package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// login takes the mini program's codes and answers a token: the phone login,
// or without phoneCode the silent one.
func (c *call) login() error {
	if tooEarly(c.r) {
		return newProblem(codeTooEarly).write(c.w, c.r)
	}
	req, p := c.loginRequest()
	if p != nil {
		if p.Status == http.StatusBadRequest {
			p = p.withRenew(nil)
		}
		return p.write(c.w, c.r)
	}
	limit := c.limit()
	if p := limit.refusal(); p != nil {
		return p.write(c.w, c.r)
	}
	req.Client = limit.who
	a := &attempt{request: requestID(c.r), limit: limit}
	res, err := c.live.chain.Login(context.WithValue(c.r.Context(), attemptKey{}, a), req)
	if err != nil {
		return loginProblem(err).write(c.w, c.r)
	}
	out := c.pair(res.Session, res.Token, res.RefreshToken)
	out.UserInfo = userInfo(res.User)
	return c.answerPair(out)
}

// loginProblem is what the client is told of a login that did not succeed.
func loginProblem(err error) *problem {
	var e *login.Error
	switch {
	case errors.As(err, &e):
	case errors.As(err, new(*login.Panic)):
		return newProblem(codeInternal)
	default:
		e = &login.Error{Code: login.WeChatTimeout} // the client has gone: nobody reads it
	}
	p := newProblem(string(e.Code))
	p.retryAfter = e.RetryAfter
	switch p.Status {
	case http.StatusBadRequest, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		p = p.withRenew(e.Renew)
	}
	return p
}

func (c *call) loginRequest() (login.Request, *problem) {
	req := login.Request{UserAgent: c.r.UserAgent(), Address: clientIP(c.r)}
	var appid string
	p := readJSON(c.w, c.r, map[string]any{"code": &req.Code, "phoneCode": &req.PhoneCode, "appid": &appid})
	if p != nil {
		return req, p
	}
	if req.Code == "" {
		return req, invalid("code is missing: send what wx.login gave.")
	}
	app, p := c.site.app(appid, c.r)
	req.App, req.WeChat = app, c.site.set.WeChat.nameOf(app.ID)
	return req, p
}

// app chooses the mini program that the codes belong to: the one named in the
// body, else the one that the Referer hints at, else the only one.
func (s *site) app(appid string, r *http.Request) (wechat.App, *problem) {
	if appid != "" {
		if a, ok := s.apps[appid]; ok {
			return a, nil
		}
		return wechat.App{}, invalid("appid names a mini program that is not served here.")
	}
	if rest, ok := strings.CutPrefix(r.Referer(), "https://servicewechat.com/"); ok {
		hint, _, _ := strings.Cut(rest, "/")
		if a, ok := s.apps[hint]; ok {
			return a, nil
		}
	}
	if len(s.apps) > 1 {
		return wechat.App{}, invalid("appid is missing: several mini programs are served here.")
	}
	for _, a := range s.apps {
		return a, nil
	}
	return wechat.App{}, newProblem(string(login.Misconfigured))
}

// userInfo is what an answer tells of a user. Our members win over what the
// directory adds.
func userInfo(u user.User) map[string]any {
	info := make(map[string]any, len(u.Info)+5)
	for k, v := range u.Info {
		info[k] = v
	}
	info["id"] = u.ID
	info["isNew"] = u.New
	delete(info, "phoneNumber")
	delete(info, "purePhoneNumber")
	delete(info, "countryCode")
	if !u.Phone.IsZero() {
		info["phoneNumber"] = u.Phone.E164()
		info["purePhoneNumber"] = u.Phone.National
		info["countryCode"] = u.Phone.Country
	}
	return info
}

// loginLimit is login_rate as it applies to one request.
type loginLimit struct {
	site *site
	now  time.Time
	who  netip.Prefix
	off  bool
}

// limit finds out whom to count.
func (c *call) limit() *loginLimit {
	l := &loginLimit{site: c.site, now: c.now, off: c.site.set.LoginRate.Count == 0}
	if l.off {
		return l
	}
	var known bool
	if l.who, known = c.who(); !known {
		c.site.warnNoProxies()
		l.off = true
	}
	return l
}

// who is the client as limits count it. Where the peer has a proxy's kind of
// address and Caddy does not trust it, everybody seems to be one client: then it
// is not known.
func (c *call) who() (netip.Prefix, bool) {
	if private(peer(c.r)) && !trustedProxy(c.r) {
		return netip.Prefix{}, false
	}
	addr, _ := netip.ParseAddr(clientIP(c.r))
	return login.Subscriber(addr), true
}

func (l *loginLimit) refusal() *problem {
	if l.off {
		return nil
	}
	rate := l.site.set.LoginRate
	wait := l.site.shared.logins.Refused.Wait(rate, l.who, l.now)
	if wait <= 0 {
		return nil
	}
	left, reset := l.site.shared.logins.Refused.Remaining(rate, l.who, l.now)
	return limited("login", rate, wait, left, reset)
}

// limited is the answer to who must wait, with the RateLimit header fields
// (draft-ietf-httpapi-ratelimit-headers).
func limited(policy string, rate login.Rate, wait time.Duration, left int, reset time.Duration) *problem {
	p := newProblem(string(login.RateLimited))
	p.retryAfter = wait
	p.rateLimit = fmt.Sprintf(`"%s";r=%d;t=%d`, policy, left, int(math.Ceil(reset.Seconds())))
	p.rateLimitPolicy = fmt.Sprintf(`"%s";q=%d;w=%d`, policy, rate.Count, int(rate.Per.Seconds()))
	return p
}

func (l *loginLimit) count() {
	if !l.off {
		l.site.shared.logins.Refused.Count(l.site.set.LoginRate, l.who, l.now)
	}
}

// tooEarly reports whether the request came as TLS early data, which anyone
// who recorded it can send again: to us, or to a proxy before us, which then
// says so. Whatever else the header says, and however often, means the same (RFC
// 8470, section 5.1): a proxy may have put its own beside the client's.
func tooEarly(r *http.Request) bool {
	return r.TLS != nil && !r.TLS.HandshakeComplete || len(r.Header["Early-Data"]) > 0
}

// clientIP is the client's address as Caddy knows it: a header counts only from
// a proxy that Caddy was told to trust.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

func peer(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// carrierNAT is where some clouds' load balancers come from (RFC 6598).
var carrierNAT = netip.MustParsePrefix("100.64.0.0/10")

// private reports whether an address is of the kind that proxies have. A unix
// socket, which has none, is too.
func private(a netip.Addr) bool {
	return !a.IsValid() || a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || carrierNAT.Contains(a)
}

// trustedProxy reports whether Caddy takes the peer for one of its trusted
// proxies. (Whether it has any is not to be seen: Caddy forgets a server's
// TrustedProxiesRaw once it is loaded.)
func trustedProxy(r *http.Request) bool {
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted
}

// warnNoProxies says once for each configuration that login_rate is off.
func (s *site) warnNoProxies() {
	if s.warned.CompareAndSwap(false, true) {
		s.log.Warn("login_rate, and the limit of wrong service keys, are off: requests come from a loopback, private or link-local address that is none of Caddy's trusted proxies, so all clients look like one",
			zap.String("remedy", "behind a load balancer set trusted_proxies in the global options: servers { trusted_proxies static private_ranges }"))
	}
}
