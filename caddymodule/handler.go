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
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// passedVar marks a request that has passed a wx_auth.
const passedVar = "wx_auth.passed"

// ServeHTTP first removes the headers that a client must not set. Then it serves our
// endpoints, and passes other requests on by the gate's rules.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	s := h.site
	if caddyhttp.GetVar(r.Context(), passedVar) != nil {
		// A second wx_auth would remove the identity headers that the first has set.
		s.log.Error("a request reached a second wx_auth: keep one on each route, and let paths differ by public, optional and the matcher",
			zap.String("requestId", requestID(r)), remedy.SecondDirective.Field("remove one of the two wx_auth from the route of this request"))
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
		// A request that asks for an upgrade may also be an upload, so both wrappers apply.
		serve := func(w http.ResponseWriter, to *http.Request) error { return forward(w, r, to, next) }
		return conn.ServeUpgrade(w, in.r, keeper{s, in.Caller}, serve)
	}
	return forward(w, r, in.r, next)
}

// keeper ends a connection together with the caller's token and session.
type keeper struct {
	site   *site
	caller *token.Identity
}

// Watch implements [conn.Keeper].
func (k keeper) Watch(connection interface{ End(why error) }) conn.Watched {
	return k.site.state.Revoked.Watch(k.caller.SessionID(), k.caller.Expires(), connection)
}

// Answer removes the credential from the response header that names the WebSocket sub-protocol
// agreed on.
func (k keeper) Answer(h http.Header) { k.site.gate.DropEcho(h) }

// forward passes a request on. If its body cannot be read to the end, that is the client's
// fault, and the response says so: Caddy's proxy would take it for a failure of the upstream,
// answer 502, and might count it against the upstream (fail_duration). Caddy's error routes
// continue with the given request, and may hold a proxy too.
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
	given.Body, given.ContentLength = http.NoBody, 0 // the error routes must not read the rest of it
	delete(given.Header, "Content-Length")
	if answer.HeldBack() {
		err = caddyhttp.Error(conn.StatusClosed, cause) // an error that has a status, such as 413, keeps it
	}
	he, ok := errors.AsType[caddyhttp.HandlerError](err)
	if !ok || he.StatusCode < conn.StatusClosed {
		return err
	}
	he.StatusCode = body.Status()
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close") // the next request's first byte cannot be found
		conn.CloseInSteps(w)
	}
	return he
}

// entry is a request together with the gate's decision about it.
type entry struct {
	r     *http.Request // the request to continue with
	ours  bool          // it is for one of our endpoints
	route api.Route
	gate.Decision
}

// enter decides on a request. If anything here panics, the request is refused.
func (h *Handler) enter(r *http.Request) (in entry) {
	in.r = r
	defer func() {
		if p := recover(); p != nil {
			in.ours, in.Decision = false, gate.Decision{Refusal: h.site.api.Panicked("panic at the gate", p, zap.String("requestId", requestID(r)), zap.String("address", clientIP(r)))}
		}
	}()
	in.route, in.ours = h.site.api.Route(r) // before Prepare removes headers that Route reads
	in.r = h.site.gate.Prepare(r, trustedProxy(r))
	if in.ours {
		return in
	}
	h.site.Ready(r.Context())
	query := r.URL.RawQuery
	in.Decision = h.site.gate.Enter(in.r, h.protects, time.Now())
	if r.URL.RawQuery != query {
		in.r = hideQuery(in.r)
	}
	return in
}

// hideQuery replaces Caddy's record of the original request by the request as it is now.
// FastCGI and rewrites pass the original on, and its query still has the token. The URL is
// changed in place, because Caddy gives error handlers the original request.
func hideQuery(r *http.Request) *http.Request {
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok || original.URL == nil {
		return r
	}
	original.URL.RawQuery = r.URL.RawQuery
	original.RequestURI = original.URL.RequestURI()
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.request.orig_uri", original.RequestURI) // this placeholder reads the request that the replacer was made with
	}
	return r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, original))
}

// protects reports whether the directive's matcher matches the request.
func (h *Handler) protects(r *http.Request) (bool, error) {
	if len(h.matcher) == 0 {
		return true, nil
	}
	return h.matcher.MatchWithError(r)
}

// placeholders are the caller's fields that later directives can use, by the placeholder's name.
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

// setPlaceholders makes the caller's identity known to later directives. Values are looked up
// only when a directive asks for them, which is rare. Whatever another handler has set under
// these names is removed. Without an identity the placeholders are empty rather than unset:
// Caddy leaves unknown placeholders in the text verbatim, and an upstream would take that text
// for a user's id.
func setPlaceholders(r *http.Request, caller *token.Identity) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	if caller == nil {
		repl.Map(anonymousPlaceholders)
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

func anonymousPlaceholders(key string) (any, bool) {
	_, ok := placeholders[key]
	return "", ok || strings.HasPrefix(key, claimPlaceholder)
}

// clientIP returns the client's address as Caddy resolves it. Caddy takes it from a header
// only if the peer is a trusted proxy.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// trustedProxy reports whether the peer is one of Caddy's trusted proxies.
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
