package caddymodule

import (
	"context"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// passedVar marks a request that a wx_auth has dealt with.
const passedVar = "wx_auth.passed"

// ServeHTTP is the way of a request: what a client must not say is removed;
// our endpoints are served; all else goes on by the gate's rules.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	s := h.site
	if caddyhttp.GetVar(r.Context(), passedVar) != nil {
		// The second one would remove what the first has set.
		s.log.Error("a request reached a second wx_auth: put one on each way, and let paths differ by public, optional and the matcher")
		return newProblem(string(login.Misconfigured)).as(http.StatusInternalServerError).write(w, r)
	}
	caddyhttp.SetVar(r.Context(), passedVar, true)

	r = s.gate.Prepare(r)
	if rest, ours := s.underPrefix(r); ours && r.Method != http.MethodTrace {
		return s.serveEndpoint(w, r, rest)
	}
	s.ready(r.Context())
	query := r.URL.RawQuery
	v := s.gate.Enter(r, h.protects, time.Now())
	if v.Refusal != nil {
		s.metrics.refusals.WithLabelValues(v.Refusal.Code).Inc()
		return refused(v.Refusal).write(w, r)
	}
	if r.URL.RawQuery != query {
		r = hideQuery(r)
	}
	if v.Caller == nil {
		return next.ServeHTTP(w, r)
	}
	setPlaceholders(r, v.Caller)
	if upgrades(r) {
		return s.serveUpgrade(w, r, v.Caller, next)
	}
	return next.ServeHTTP(w, r)
}

// hideQuery makes the request as it is now the original one, too: FastCGI and
// rewrites pass that on, and it has the token that was taken from the query.
func hideQuery(r *http.Request) *http.Request {
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok || original.URL == nil {
		return r
	}
	u := *original.URL
	u.RawQuery = r.URL.RawQuery
	original.URL, original.RequestURI = &u, u.RequestURI()
	return r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, original))
}

// protects asks the directive's matcher.
func (h *Handler) protects(r *http.Request) (bool, error) {
	if len(h.matcher) == 0 {
		return true, nil
	}
	return h.matcher.MatchWithError(r)
}

// placeholders are the fields of the caller's identity that the directives that
// follow can use, by what stands behind {http.auth.user.
var placeholders = map[string]func(*token.Identity) string{
	"http.auth.user.id":      (*token.Identity).Subject,
	"http.auth.user.openid":  (*token.Identity).OpenID,
	"http.auth.user.appid":   (*token.Identity).AppID,
	"http.auth.user.unionid": (*token.Identity).UnionID,
	"http.auth.user.session": (*token.Identity).SessionID,
	"http.auth.user.phone":   (*token.Identity).Phone,
}

// setPlaceholders makes the caller's identity known to the directives that
// follow. The values are looked up when they are asked for, which most requests
// never do; what another handler has set under these names before goes.
func setPlaceholders(r *http.Request, caller *token.Identity) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	repl.DeleteByPrefix("http.auth.user.")
	repl.Map(func(key string) (any, bool) {
		field, ok := placeholders[key]
		if !ok {
			return nil, false
		}
		return field(caller), true
	})
}

// as changes the problem's status.
func (p *problem) as(status int) *problem {
	p.Status = status
	return p
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
