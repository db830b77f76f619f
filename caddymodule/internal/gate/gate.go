package gate

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// Tokens verifies tokens.
type Tokens interface {
	// Ours reports whether a token begins with a header that we write. While no keys
	// are loaded, any header of the same form counts.
	Ours(token string) bool
	// Verify returns the identity in a valid token. The errors are [token.ErrExpired],
	// [token.ErrRevoked], and [ErrUnavailable] while it cannot decide; every other error
	// means that the token is not valid. A token that is certainly not ours is invalid
	// even while keys or revocations are missing.
	Verify(token string, now time.Time) (*token.Identity, error)
}

// Settings are the settings of a directive about requests.
type Settings struct {
	Headers  []Header      // identity headers; nil: [DefaultHeaders]
	Public   []Rule        // requests that need no token
	Optional []Rule        // requests that need no token, but get the identity of the token that they present
	Require  []Requirement // conditions that callers must meet on some paths
	Pass     []string      // names under x-wx- that a trusted proxy may send to the upstream
	// ForwardToken leaves a valid token in Authorization for the upstream. An invalid
	// one is removed all the same, as is a token in any other source.
	ForwardToken bool
	Sources      Sources // the places besides Authorization that may hold a token
}

// Gate decides which requests proceed, and with which identity. It does not change, and
// is safe for concurrent use.
type Gate struct {
	headers      []identityHeader
	otherNames   []string // the names of identity headers without ownPrefix, in lower case
	rules        rules
	requirements requirements
	passed       []string // in lower case
	forwardToken bool
	sources      Sources
	tokens       Tokens
}

// New returns a gate. Its error names the faulty setting and the correct form.
func New(s Settings, tokens Tokens) (*Gate, error) {
	if s.Headers == nil {
		s.Headers = DefaultHeaders()
	}
	headers, others, err := compileHeaders(s.Headers)
	if err != nil {
		return nil, err
	}
	rs, err := compileRules(s.Public, s.Optional)
	if err != nil {
		return nil, err
	}
	passed, err := checkPassed(s.Pass, headers)
	if err != nil {
		return nil, err
	}
	required, err := compileRequirements(s.Require, s.Public, s.Optional)
	if err != nil {
		return nil, err
	}
	return &Gate{headers: headers, otherNames: others, rules: rs, requirements: required, passed: passed, forwardToken: s.ForwardToken, sources: s.Sources, tokens: tokens}, nil
}

// Decision is the decision on a request.
type Decision struct {
	Caller  *token.Identity  // the authenticated caller; nil: anonymous
	Refusal *problem.Problem // the answer to a request that is refused; nil: the request proceeds
}

// Enter decides whether a request, which [Gate.Prepare] has returned, proceeds. A
// request that proceeds is ready for the upstream: it has the identity headers of its
// token and not the token itself. Without an identity, it has no header that would make
// an upstream treat it as another method.
//
// protect is the matcher, which reports whether the request needs a token. It is called
// only for canonical paths that no rule matches. If it is nil or returns an error, the
// request needs a token.
func (g *Gate) Enter(r *http.Request, protect func(*http.Request) (bool, error), now time.Time) Decision {
	// The answer to TRACE echoes the request as the upstream received it, including
	// everything that was added on the way. Some servers accept methods in any case.
	if strings.EqualFold(r.Method, http.MethodTrace) {
		return refuseTrace()
	}
	if !isToken(r.Method) { // possible over HTTP/2; a proxy cannot forward it
		return refuseMethod()
	}
	var buf [4]presented
	all := g.presented(buf[:0], r, true)
	if slices.ContainsFunc(all, conflicting) {
		return refuseTwo()
	}
	var d Decision
	escaped, canonical := Path(r)
	var at place
	if len(g.requirements) > 0 {
		at = g.requirements.placeOf(r, escaped, canonical)
	}
	access := g.access(r, &at, canonical, len(all) > 0, protect)
	switch {
	case access == public:
		d = g.passPublic(r, all, now)
	case len(all) > 1:
		// Two credentials are refused even if they are equal: no decision may depend on
		// which of them this gate or an upstream reads.
		return refuseTwo()
	case access == optional:
		d = g.passOptional(r, one(all), now)
	default:
		d = g.authenticate(r, one(all), now)
		if d.Refusal == nil {
			d.Refusal = at.check(d.Caller, now)
		}
	}
	if d.Refusal != nil {
		return d
	}
	if d.Caller == nil {
		dropOverrides(r.Header)
		return d
	}
	switch from := all[0].from; {
	case from == fromHeader && g.forwardToken:
	case from == fromCookie:
		// The check for forgery used the request's actual method, so no header may
		// replace that method later.
		dropOverrides(r.Header)
		fallthrough
	default:
		g.drop(r, from)
	}
	g.SetIdentity(r.Header, d.Caller)
	return d
}

// Authenticate decides on the token of a request alone, as for a protected path, and
// leaves the request unchanged. It is for our own endpoints. They upgrade no
// connections, so of the other sources only the cookie counts.
func (g *Gate) Authenticate(r *http.Request, now time.Time) Decision {
	cred, refusal := g.Credential(r)
	if refusal != nil {
		return Decision{Refusal: refusal}
	}
	return g.verify(cred, now)
}

// Credential returns the one credential of a request to our endpoints, or the refusal if the
// request has no usable one.
func (g *Gate) Credential(r *http.Request) (Credential, *problem.Problem) {
	var buf [4]presented
	all := g.presented(buf[:0], r, false)
	if len(all) > 1 || slices.ContainsFunc(all, conflicting) {
		return Credential{}, problem.TwoCredentials()
	}
	cred := one(all)
	if cred.from == fromCookie && mayBeForged(r) {
		return Credential{}, problem.New(problem.CookieCrossSite)
	}
	return cred.Credential, nil
}

// isToken reports whether a method is a token, as the grammar of HTTP requires (RFC
// 9110, section 5.6.2).
func isToken(method string) bool {
	for i := range len(method) {
		if !tokenChars[method[i]] {
			return false
		}
	}
	return method != ""
}

var tokenChars = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~")

func conflicting(s presented) bool { return s.Kind == Conflicting }

// one returns the credential of a list that has at most one.
func one(all []presented) presented {
	if len(all) == 0 {
		return presented{}
	}
	return all[0]
}

// access returns whether a request needs a token.
func (g *Gate) access(r *http.Request, at *place, canonical, credential bool, protect func(*http.Request) (bool, error)) access {
	if !canonical {
		return protected
	}
	if len(at.required) > 0 {
		if at.canonical && !credential && isPreflight(r) {
			return public
		}
		return protected
	}
	// For a canonical path, r.URL.Path is the only decoded form.
	if a := g.rules.find(r.Method, r.URL.Path); a != unmatched {
		return a
	}
	if protect != nil {
		if needed, err := protect(r); err == nil && !needed {
			return public
		}
	}
	if !credential && isPreflight(r) {
		return public
	}
	return protected
}

// isPreflight reports whether a request is a CORS preflight (Fetch standard), by which a
// browser asks whether a page of another origin may send a request. Browsers send no
// credential with a preflight, so requiring one would refuse every such page. A request that
// has a credential is no preflight.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" &&
		r.Header.Get("Access-Control-Request-Method") != ""
}

// passPublic lets a request proceed without an identity. It removes our tokens, except
// a valid one that the upstream is to receive. Credentials that are not ours are left
// alone. Two of our tokens are refused here too.
func (g *Gate) passPublic(r *http.Request, all []presented, now time.Time) Decision {
	ours := all[:0]
	for _, s := range all {
		if s.Kind == Bearer && g.tokens.Ours(s.Token) {
			ours = append(ours, s)
		}
	}
	if len(ours) > 1 {
		return refuseTwo()
	}
	for _, s := range ours {
		if s.from == fromHeader && g.forwardToken && !s.Malformed {
			if _, err := g.tokens.Verify(s.Token, now); err == nil {
				continue
			}
		}
		g.drop(r, s.from)
	}
	return Decision{}
}

// passOptional lets a request proceed with the identity of its token, or anonymously if
// it presents none of our tokens. If our token is invalid, the request is refused: the
// user would otherwise be logged out without the client noticing.
func (g *Gate) passOptional(r *http.Request, cred presented, now time.Time) Decision {
	if cred.Kind != Bearer {
		return Decision{}
	}
	d := g.authenticate(r, cred, now)
	// A token that cannot be verified yet may be ours, so that refusal is returned in
	// any case.
	if d.Refusal != nil && d.Refusal.Status == http.StatusUnauthorized && !g.tokens.Ours(cred.Token) {
		return Decision{}
	}
	return d
}

// authenticate decides on a request that needs a token.
func (g *Gate) authenticate(r *http.Request, cred presented, now time.Time) Decision {
	if cred.from == fromCookie && mayBeForged(r) {
		return refuse(problem.CookieCrossSite)
	}
	return g.verify(cred.Credential, now)
}

// verify decides on a credential.
func (g *Gate) verify(cred Credential, now time.Time) Decision {
	switch cred.Kind {
	case None:
		return refuse(problem.TokenMissing)
	case Conflicting:
		return refuseTwo()
	case Other:
		return refuse(problem.TokenInvalid)
	}
	if cred.Malformed {
		return refuse(problem.TokenInvalid)
	}
	caller, err := g.tokens.Verify(cred.Token, now)
	switch {
	case err == nil && caller != nil:
		return Decision{Caller: caller}
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrMisconfigured):
		return refuseUnverified(err)
	case errors.Is(err, token.ErrExpired):
		return refuse(problem.TokenExpired)
	case errors.Is(err, token.ErrRevoked):
		return refuse(problem.TokenRevoked)
	default:
		return refuse(problem.TokenInvalid)
	}
}
