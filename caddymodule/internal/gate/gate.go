package gate

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// Tokens verifies tokens.
type Tokens interface {
	// Ours reports whether a token begins with a header that we write. While
	// no keys are loaded, a header of the form of ours will do.
	Ours(token string) bool
	// Verify returns what a good token says of its caller. The
	// errors are [token.ErrExpired], [ErrRevoked], and [ErrUnavailable] while it
	// cannot decide; all others mean that the token is not good. A token that
	// is known not to be ours is not good, whatever else is missing.
	Verify(token string, now time.Time) (*token.Identity, error)
}

// Settings is what a directive says of requests.
type Settings struct {
	Headers  []Header // identity headers; nil: [DefaultHeaders]
	Public   []Rule   // need no token
	Optional []Rule   // need no token, get the identity of the token they have
	// ForwardToken leaves a good token of ours in Authorization. A bad one is
	// removed all the same, as is any in the other sources.
	ForwardToken bool
	Sources      Sources // where a token may stand beside Authorization
}

// Gate decides which requests go on, and with whose identity. It does not
// change, and is safe for concurrent use.
type Gate struct {
	headers      []identityHeader
	otherNames   []string // of headers, in lower case, those without ownPrefix
	rules        rules
	forwardToken bool
	sources      Sources
	tokens       Tokens
}

// New makes a gate. The error says what is wrong with the settings, and what to
// write instead.
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
	return &Gate{headers: headers, otherNames: others, rules: rs, forwardToken: s.ForwardToken, sources: s.Sources, tokens: tokens}, nil
}

// Verdict is what becomes of a request.
type Verdict struct {
	Caller  *token.Identity // who is calling; nil: nobody we know
	Refusal *Refusal        // the answer, if the request does not go on
}

// Enter decides whether a request, which [Gate.Prepare] has returned, goes on.
// If it does, it is ready for the upstream: with the identity headers of its
// token, without the token, and, if it has no identity, without anything that
// would make it act as another method.
//
// protect is the matcher: whether the request needs a token. It is asked only
// for canonical paths that no rule names; nil, and an error, mean that it does.
func (g *Gate) Enter(r *http.Request, protect func(*http.Request) (bool, error), now time.Time) Verdict {
	// The answer to TRACE is the request as the upstream got it, with whatever
	// was added on the way. Some servers take methods in any case.
	if strings.EqualFold(r.Method, http.MethodTrace) {
		return Verdict{Refusal: refuse(CodeMethodNotAllowed)}
	}
	if !isToken(r.Method) { // HTTP/2 lets it through; no proxy can send it on
		return Verdict{Refusal: notHTTP()}
	}
	var buf [4]shown
	all := g.shown(buf[:0], r, true)
	if slices.ContainsFunc(all, conflicting) {
		return Verdict{Refusal: refuse(CodeInvalidRequest)}
	}
	var v Verdict
	access := g.access(r, len(all) > 0, protect)
	switch {
	case access == public:
		v = g.passPublic(r, all, now)
	case len(all) > 1:
		// Two credentials, even if they are equal: nothing must depend on which
		// of them is looked at, here or behind.
		return Verdict{Refusal: refuse(CodeInvalidRequest)}
	case access == optional:
		v = g.passOptional(r, one(all), now)
	default:
		v = g.authenticate(r, one(all), now)
	}
	if v.Refusal != nil {
		return v
	}
	if v.Caller == nil {
		dropOverrides(r.Header)
		return v
	}
	switch from := all[0].from; {
	case from == fromHeader && g.forwardToken:
	case from == fromCookie:
		// Whether it may be forged was decided by the method it has.
		dropOverrides(r.Header)
		fallthrough
	default:
		g.drop(r, from)
	}
	g.SetIdentity(r.Header, v.Caller)
	return v
}

// Authenticate decides on the token of a request alone, as for a protected
// path, and leaves the request as it is. It is for our endpoints, where nothing
// is upgraded: of the other sources it knows the cookie.
func (g *Gate) Authenticate(r *http.Request, now time.Time) Verdict {
	cred, refusal := g.Shown(r)
	if refusal != nil {
		return Verdict{Refusal: refusal}
	}
	return g.verify(cred, now)
}

// Shown returns the one credential of a request to our endpoints, or why it
// cannot count.
func (g *Gate) Shown(r *http.Request) (Credential, *Refusal) {
	var buf [4]shown
	all := g.shown(buf[:0], r, false)
	if len(all) > 1 || slices.ContainsFunc(all, conflicting) {
		return Credential{}, refuse(CodeInvalidRequest)
	}
	cred := one(all)
	if cred.from == fromCookie && mayBeForged(r) {
		return Credential{}, refuse(CodeCrossSite)
	}
	return cred.Credential, nil
}

// isToken reports whether a method is one (RFC 9110, section 5.6.2).
func isToken(method string) bool {
	for i := range len(method) {
		if !tokenChars[method[i]] {
			return false
		}
	}
	return method != ""
}

var tokenChars = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~")

func conflicting(s shown) bool { return s.Kind == Conflicting }

// one is the only credential of a list that has one at most.
func one(all []shown) shown {
	if len(all) == 0 {
		return shown{}
	}
	return all[0]
}

// access returns whether a request needs a token.
func (g *Gate) access(r *http.Request, credential bool, protect func(*http.Request) (bool, error)) access {
	if _, canonical := Path(r); !canonical {
		return protected
	}
	// Of a canonical path, Path is the decoded form: there is no other.
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

// isPreflight reports whether a request asks what a page of another origin may
// do (Fetch standard, "CORS-preflight request"). Browsers send no credential
// with it, so none can be asked for; one that has a credential is no preflight.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" &&
		r.Header.Get("Access-Control-Request-Method") != ""
}

// passPublic lets a request on without an identity. A token of ours is removed,
// unless it is good and the upstream is to have it; what is not ours is none of
// our business. Two of ours are refused here too.
func (g *Gate) passPublic(r *http.Request, all []shown, now time.Time) Verdict {
	ours := all[:0]
	for _, s := range all {
		if s.Kind == Bearer && g.tokens.Ours(s.Token) {
			ours = append(ours, s)
		}
	}
	if len(ours) > 1 {
		return Verdict{Refusal: refuse(CodeInvalidRequest)}
	}
	for _, s := range ours {
		if s.from == fromHeader && g.forwardToken && !s.Malformed {
			if _, err := g.tokens.Verify(s.Token, now); err == nil {
				continue
			}
		}
		g.drop(r, s.from)
	}
	return Verdict{}
}

// passOptional lets a request on with the identity of its token, or anonymously
// if it shows none of ours. A bad token of ours is refused: its user would
// otherwise be a stranger all of a sudden, and the client not know why.
func (g *Gate) passOptional(r *http.Request, cred shown, now time.Time) Verdict {
	if cred.Kind != Bearer {
		return Verdict{}
	}
	v := g.authenticate(r, cred, now)
	// A token that cannot be verified yet may be ours, so that is said first.
	if v.Refusal != nil && v.Refusal.Status == http.StatusUnauthorized && !g.tokens.Ours(cred.Token) {
		return Verdict{}
	}
	return v
}

// authenticate decides where a token is needed.
func (g *Gate) authenticate(r *http.Request, cred shown, now time.Time) Verdict {
	if cred.from == fromCookie && mayBeForged(r) {
		return Verdict{Refusal: refuse(CodeCrossSite)}
	}
	return g.verify(cred.Credential, now)
}

// verify decides on a credential.
func (g *Gate) verify(cred Credential, now time.Time) Verdict {
	switch cred.Kind {
	case None:
		return Verdict{Refusal: refuse(CodeTokenMissing)}
	case Conflicting:
		return Verdict{Refusal: refuse(CodeInvalidRequest)}
	case Other:
		return Verdict{Refusal: refuse(CodeTokenInvalid)}
	}
	if cred.Malformed {
		return Verdict{Refusal: refuse(CodeTokenInvalid)}
	}
	caller, err := g.tokens.Verify(cred.Token, now)
	switch {
	case err == nil && caller != nil:
		return Verdict{Caller: caller}
	case errors.Is(err, ErrUnavailable):
		return Verdict{Refusal: refuse(CodeStoreUnavailable)}
	case errors.Is(err, token.ErrExpired):
		return Verdict{Refusal: refuse(CodeTokenExpired)}
	case errors.Is(err, ErrRevoked):
		return Verdict{Refusal: refuse(CodeTokenRevoked)}
	default:
		return Verdict{Refusal: refuse(CodeTokenInvalid)}
	}
}
