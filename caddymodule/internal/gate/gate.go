package gate

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// Tokens verifies tokens.
type Tokens interface {
	// Ours reports whether a token begins with a header that we write. While
	// no keys are loaded, a header of the form of ours will do.
	Ours(token string) bool
	// Verify returns what a good token says; callers do not change it. The
	// errors are [token.ErrExpired], [ErrRevoked], and [ErrUnavailable] while it
	// cannot decide; all others mean that the token is not good. A token that
	// is known not to be ours is not good, whatever else is missing.
	Verify(token string, now time.Time) (*token.Claims, error)
}

// Settings is what a directive says of requests.
type Settings struct {
	Headers  []Header // identity headers; nil: [DefaultHeaders]
	Public   []Rule   // need no token
	Optional []Rule   // need no token, get the identity of the token they have
	// ForwardToken leaves a good token of ours in the request. A bad one is
	// removed all the same.
	ForwardToken bool
}

// Gate decides which requests go on, and with whose identity. It does not
// change, and is safe for concurrent use.
type Gate struct {
	headers      []identityHeader
	otherNames   []string // of headers, in lower case, those without ownPrefix
	rules        rules
	forwardToken bool
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
	return &Gate{headers: headers, otherNames: others, rules: rs, forwardToken: s.ForwardToken, tokens: tokens}, nil
}

// Verdict is what becomes of a request.
type Verdict struct {
	Claims  *token.Claims // who is calling; nil: nobody we know
	Refusal *Refusal      // the answer, if the request does not go on
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
	cred := ParseCredential(r.Header)
	if cred.Kind == Conflicting {
		return Verdict{Refusal: refuse(CodeInvalidRequest)}
	}
	var v Verdict
	switch g.access(r, cred, protect) {
	case public:
		g.passPublic(r, cred, now)
	case optional:
		v = g.passOptional(cred, now)
	default:
		v = g.authenticate(cred, now)
	}
	if v.Refusal != nil {
		return v
	}
	if v.Claims == nil {
		dropMethodOverrides(r.Header)
		return v
	}
	if !g.forwardToken {
		delete(r.Header, "Authorization")
	}
	g.SetIdentity(r.Header, v.Claims)
	return v
}

// Authenticate decides on the token of a request alone, as for a protected
// path, and leaves the request as it is.
func (g *Gate) Authenticate(r *http.Request, now time.Time) Verdict {
	return g.authenticate(ParseCredential(r.Header), now)
}

// access returns whether a request needs a token.
func (g *Gate) access(r *http.Request, cred Credential, protect func(*http.Request) (bool, error)) access {
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
	if cred.Kind == None && isPreflight(r) {
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
// unless it is good and the upstream is to have it; an Authorization that is not
// ours is none of our business.
func (g *Gate) passPublic(r *http.Request, cred Credential, now time.Time) {
	if cred.Kind != Bearer || !g.tokens.Ours(cred.Token) {
		return
	}
	if g.forwardToken && !cred.Malformed {
		if _, err := g.tokens.Verify(cred.Token, now); err == nil {
			return
		}
	}
	delete(r.Header, "Authorization")
}

// passOptional lets a request on with the identity of its token, or anonymously
// if it shows none of ours. A bad token of ours is refused: its user would
// otherwise be a stranger all of a sudden, and the client not know why.
func (g *Gate) passOptional(cred Credential, now time.Time) Verdict {
	if cred.Kind != Bearer {
		return Verdict{}
	}
	v := g.authenticate(cred, now)
	// A token that cannot be verified yet may be ours, so that is said first.
	if v.Refusal != nil && v.Refusal.Status == http.StatusUnauthorized && !g.tokens.Ours(cred.Token) {
		return Verdict{}
	}
	return v
}

// authenticate decides where a token is needed.
func (g *Gate) authenticate(cred Credential, now time.Time) Verdict {
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
	claims, err := g.tokens.Verify(cred.Token, now)
	switch {
	case err == nil && claims != nil:
		return Verdict{Claims: claims}
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
