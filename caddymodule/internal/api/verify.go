package api

import (
	"net/http"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
)

// isVerify reports whether a path under our prefix is the endpoint of forward auth.
// What follows it is ignored, because Envoy appends the path of the request that it
// asks about.
func isVerify(rest string) bool {
	below, ok := strings.CutPrefix(rest, "/verify")
	return ok && (below == "" || below[0] == '/')
}

// verify decides on the token alone, for proxies that protect other services. The
// identity is in the headers of the answer, so the host keeps the request out of the
// access log. The answer is 204, 401 or 403: nginx's auth_request treats every other
// status as an error.
func (c *call) verify() error {
	c.warnUnrequired()
	// Whether a cookie counts depends on the method of the request that the proxy asks
	// about, which only the proxy knows. Without it, the request may be one that
	// changes something. A client gains nothing by making the method up, because it
	// needs the cookie for that.
	asked := *c.r
	asked.Method = c.r.Header.Get("X-Forwarded-Method")
	v := c.Gate.Authenticate(&asked, c.now)
	if v.Refusal != nil {
		return c.refuse(v.Refusal.WithStatus(http.StatusUnauthorized))
	}
	if c.route.aliased {
		return c.refuse(problem.New(problem.Forbidden).WithDetail("The request has a header whose name some backends take for an identity header's."))
	}
	if c.route.overclaimed {
		return c.refuse(problem.New(problem.Forbidden).WithDetail("The request has too many headers whose names begin with X-WX-."))
	}
	h := c.w.Header()
	c.Gate.SetIdentity(h, v.Caller)
	if names := c.Gate.Unset(h, c.r.Header, c.route.claimed); names != "" {
		h.Set("X-Envoy-Auth-Headers-To-Remove", names)
	}
	return c.answer(http.StatusNoContent, "", nil)
}

// warnUnrequired logs, once for each configuration, that a proxy asks about requests whose
// paths are never compared with the site's requirements.
func (s *Server) warnUnrequired() {
	if s.Gate.Requires() && s.warnedUnrequired.CompareAndSwap(false, true) {
		s.Log.Warn("/verify was asked at a site with require: it decides on the token alone, so no require holds for that request",
			remedy.RequireUnenforced.Field("check the identity headers in the proxy or the service that asks, or put wx_auth in front of that service"))
	}
}
