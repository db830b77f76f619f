package gate

import (
	"errors"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
)

var (
	// ErrUnavailable is the error of [Tokens].Verify while it cannot decide, because the keys
	// or the revocations have not been loaded yet.
	ErrUnavailable = errors.New("tokens cannot be verified yet")
	// ErrMisconfigured is the error of [Tokens].Verify while it cannot decide for a reason
	// that only the operator can fix.
	ErrMisconfigured = errors.New("tokens cannot be verified: the gateway is misconfigured")
)

// retryAfter is the delay that a 503 asks for: about the duration of one attempt to reach the
// store.
const retryAfter = 2 * time.Second

// allowed is the Allow header, which a 405 must have (RFC 9110, section 15.5.6). The
// upstream may support every method but TRACE and CONNECT.
const allowed = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"

// refuse returns the decision to refuse a request with a code.
func refuse(code problem.Code) Decision { return Decision{Refusal: problem.New(code)} }

// refuseTwo returns the decision on a request with more than one credential.
func refuseTwo() Decision { return Decision{Refusal: problem.TwoCredentials()} }

// refuseTrace returns the decision on a TRACE request.
func refuseTrace() Decision {
	p := problem.New(problem.MethodNotAllowed).WithDetail("TRACE is not allowed: its answer would show what the gateway adds to a request.")
	p.Allow = allowed
	return Decision{Refusal: p}
}

// refuseMethod returns the decision on a request that cannot be expressed in HTTP/1.1.
func refuseMethod() Decision {
	return Decision{Refusal: problem.Invalid("The method is malformed: it contains characters that no method may contain.")}
}

// refuseUnverified returns the decision on a token that cannot be verified.
func refuseUnverified(err error) Decision {
	p := problem.New(problem.StoreUnavailable).WithDetail("The gateway cannot verify tokens yet. Try again after Retry-After.")
	if errors.Is(err, ErrMisconfigured) {
		p = problem.New(problem.Misconfigured)
	}
	p.RetryAfter = retryAfter
	return Decision{Refusal: p}
}
