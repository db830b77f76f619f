package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/api"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/conn"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/gate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
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
		s.log.Error("a request reached a second wx_auth: put one on each way, and let paths differ by public, optional and the matcher",
			zap.String("requestId", requestID(r)), zap.String("remedy", "remove one of the two wx_auth from the way of this request"))
		return s.api.Refuse(w, r, problem.New(problem.Misconfigured).WithStatus(http.StatusInternalServerError))
	}
	caddyhttp.SetVar(r.Context(), passedVar, true)

	in := h.enter(r)
	if in.ours {
		if in.route.Quiet {
			caddyhttp.SetVar(in.r.Context(), caddyhttp.LogSkipVar, true)
		}
		return s.api.Serve(w, in.r, in.route)
	}
	if in.Refusal != nil {
		s.api.Metrics.Refused(in.Refusal.Code)
		return s.api.Refuse(w, in.r, in.Refusal)
	}
	setPlaceholders(in.r, in.Caller)
	if in.Caller == nil {
		return forward(w, r, in.r, next)
	}
	if conn.Upgrades(in.r) {
		// What asks for an upgrade may be an upload all the same.
		serve := func(w http.ResponseWriter, to *http.Request) error { return forward(w, r, to, next) }
		return conn.ServeUpgrade(w, in.r, keeper{s, in.Caller}, serve)
	}
	return forward(w, r, in.r, next)
}

// keeper ends a connection with the caller's token and with its session.
type keeper struct {
	site   *site
	caller *token.Identity
}

// Watch implements [conn.Keeper].
func (k keeper) Watch(connection interface{ End(why error) }) conn.Watched {
	return k.site.state.Revoked.Watch(k.caller.SessionID(), k.caller.Expires(), connection)
}

// Answer keeps the credential out of the header that says what was agreed on.
func (k keeper) Answer(h http.Header) { k.site.gate.DropEcho(h) }

// forward passes a request on. A body that cannot be read to its end is the client's
// fault, and the answer says so: Caddy's proxy would take it for a failure of the
// upstream, answer 502, and might count it against the upstream (fail_duration).
// Caddy's error routes, which may hold a proxy too, go on with the given request.
func forward(w http.ResponseWriter, given, r *http.Request, next caddyhttp.Handler) error {
	body := conn.NewUpload(r)
	if body == nil {
		return next.ServeHTTP(w, r)
	}
	given.Body, r.Body = body, body
	answer := body.Answer(w)
	err := next.ServeHTTP(answer, r)
	cause := body.Failed()
	if cause == nil {
		return err
	}
	given.Body, given.ContentLength = http.NoBody, 0 // the rest of it must not be read
	delete(given.Header, "Content-Length")
	if answer.HeldBack() {
		err = caddyhttp.Error(conn.StatusClosed, cause) // which keeps a status of its own, such as 413
	}
	he, ok := errors.AsType[caddyhttp.HandlerError](err)
	if !ok || he.StatusCode < conn.StatusClosed {
		return err
	}
	he.StatusCode = body.Status()
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close") // nothing says where the next request begins
		conn.CloseInSteps(w)
	}
	return he
}

// entry is a request after the gate has decided.
type entry struct {
	r     *http.Request // to go on with
	ours  bool          // it is for one of our endpoints
	route api.Route
	gate.Decision
}

// enter decides on a request. Whatever panics here, it does not go on.
func (h *Handler) enter(r *http.Request) (in entry) {
	in.r = r
	defer func() {
		if p := recover(); p != nil {
			in.ours, in.Decision = false, gate.Decision{Refusal: h.site.api.Panicked("panic at the gate", p, zap.String("requestId", requestID(r)), zap.String("address", clientIP(r)))}
		}
	}()
	in.route, in.ours = h.site.api.Route(r) // before Prepare takes away what it looks at
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	in.r = h.site.gate.Prepare(r, trusted)
	if in.ours && (in.route.Verify || r.Method != http.MethodTrace) {
		return in
	}
	in.ours = false
	h.site.Ready(r.Context())
	query := r.URL.RawQuery
	in.Decision = h.site.gate.Enter(in.r, h.protects, time.Now())
	if r.URL.RawQuery != query {
		in.r = hideQuery(in.r)
	}
	return in
}

// hideQuery makes the request as it is now the original one, too: FastCGI and
// rewrites pass that on, and it has the token that was taken from the query. Its
// URL is changed in place, as Caddy gives error handlers the original one again.
func hideQuery(r *http.Request) *http.Request {
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok || original.URL == nil {
		return r
	}
	original.URL.RawQuery = r.URL.RawQuery
	original.RequestURI = original.URL.RequestURI()
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.request.orig_uri", original.RequestURI) // it looks at the request that it was made with
	}
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

// claimPlaceholder begins the names of the directory's claims.
const claimPlaceholder = "http.auth.user.claims."

// setPlaceholders makes the caller's identity known to the directives that
// follow. The values are looked up when they are asked for, which most requests
// never do; what another handler has set under these names before goes. Without an
// identity they are empty rather than unset: Caddy leaves unknown placeholders in the
// text verbatim, which an upstream would take for a user's id.
func setPlaceholders(r *http.Request, caller *token.Identity) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	if caller == nil {
		repl.Map(ofNobody)
		return
	}
	repl.DeleteByPrefix("http.auth.user.")
	repl.Map(func(key string) (any, bool) {
		if field, ok := placeholders[key]; ok {
			return field(caller), true
		}
		if claim, ok := strings.CutPrefix(key, claimPlaceholder); ok {
			return gate.ClaimValue(caller, claim), true
		}
		return nil, false
	})
}

func ofNobody(key string) (any, bool) {
	_, ok := placeholders[key]
	return "", ok || strings.HasPrefix(key, claimPlaceholder)
}

// clientIP is the client's address as Caddy resolves it: a header counts only from a
// proxy that Caddy trusts.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// trustedProxy reports whether Caddy takes the peer for one of its trusted proxies.
func trustedProxy(r *http.Request) bool {
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted
}

// requestID returns the id that Caddy gives the request. The access log shows it, too.
func requestID(r *http.Request) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	id, _ := repl.GetString("http.request.uuid")
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(zap.String("requestId", id))
	}
	return id
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
