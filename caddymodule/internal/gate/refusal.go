package gate

import (
	"errors"
	"net/http"
	"time"
)

// The codes of the refusals. They are part of the HTTP API.
const (
	CodeInvalidRequest   = "invalid_request"    // 400: two credentials, or a malformed method
	CodeTokenMissing     = "token_missing"      // 401: no Authorization
	CodeTokenInvalid     = "token_invalid"      // 401: an invalid token, or an Authorization that is not ours
	CodeTokenExpired     = "token_expired"      // 401: valid but for its age
	CodeTokenRevoked     = "token_revoked"      // 401: its session has ended
	CodeCrossSite        = "cookie_cross_site"  // 403: a cookie that another site's page may have sent
	CodeMethodNotAllowed = "method_not_allowed" // 405: TRACE
	CodeStoreUnavailable = "store_unavailable"  // 503: the keys or the revocations are not loaded yet
	CodeMisconfigured    = "misconfigured"      // 503: only the operator can fix it
)

var (
	// ErrRevoked is the error of [Tokens].Verify for a token that is valid but whose
	// session has ended.
	ErrRevoked = errors.New("the token's session has ended")
	// ErrUnavailable is the error of [Tokens].Verify while it cannot decide:
	// the keys or the revocations have not been loaded yet.
	ErrUnavailable = errors.New("tokens cannot be verified yet")
	// ErrMisconfigured is the error of [Tokens].Verify while only the operator can
	// change that it cannot decide.
	ErrMisconfigured = errors.New("tokens cannot be verified: the gateway is misconfigured")
)

// retryAfter is the delay that a 503 asks of a client: about the duration of one
// attempt to reach the store.
const retryAfter = 2 * time.Second

// The challenges of RFC 6750, section 3. A request without any credential gets
// no error code, as the RFC asks.
const (
	challengeMissing = `Bearer realm="wx-auth"`
	challengeRequest = `Bearer realm="wx-auth", error="invalid_request", error_description="show one credential, once"`
	challengeInvalid = `Bearer realm="wx-auth", error="invalid_token", error_description="the token is not valid"`
	challengeExpired = `Bearer realm="wx-auth", error="invalid_token", error_description="the token has expired"`
	challengeRevoked = `Bearer realm="wx-auth", error="invalid_token", error_description="the session has ended"`
)

// allowed is the Allow header, which a 405 must have (RFC 9110, section 15.5.6). The
// upstream may support every method but TRACE and CONNECT.
const allowed = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"

// Refusal is the answer to a request that is refused.
type Refusal struct {
	Status     int           // HTTP status
	Code       string        // one of the codes of this package
	Detail     string        // a sentence for the client's developer
	Challenge  string        // the WWW-Authenticate header; empty: none
	Allow      string        // the Allow header; empty: none
	RetryAfter time.Duration // the Retry-After header; 0: none
}

// notHTTP returns the refusal for a request that cannot be expressed in HTTP/1.1.
func notHTTP() *Refusal {
	return &Refusal{Status: http.StatusBadRequest, Code: CodeInvalidRequest, Detail: "The method is malformed: it contains characters that no method may contain."}
}

// Refuse returns the refusal for a code.
func Refuse(code string) *Refusal {
	switch code {
	case CodeInvalidRequest:
		return &Refusal{
			Status: http.StatusBadRequest, Code: code, Challenge: challengeRequest,
			Detail: "The request has more than one credential. Send one token, in one place.",
		}
	case CodeTokenMissing:
		return &Refusal{
			Status: http.StatusUnauthorized, Code: code, Challenge: challengeMissing,
			Detail: "This needs a token: send it as \"Authorization: Bearer <token>\".",
		}
	case CodeTokenExpired:
		return &Refusal{
			Status: http.StatusUnauthorized, Code: code, Challenge: challengeExpired,
			Detail: "The token has expired. Refresh it; if that fails, log in silently.",
		}
	case CodeTokenRevoked:
		return &Refusal{
			Status: http.StatusUnauthorized, Code: code, Challenge: challengeRevoked,
			Detail: "The token's session has ended. Log in silently.",
		}
	case CodeCrossSite:
		// The status is not 401, because refreshing or logging in again would not help.
		return &Refusal{
			Status: http.StatusForbidden, Code: code,
			Detail: "The cookie is ignored in this request, because a page of another site may have sent it: " +
				"send Sec-Fetch-Site same-origin or same-site, or this site's Origin, as browsers do; or send the token in Authorization.",
		}
	case CodeMethodNotAllowed:
		return &Refusal{
			Status: http.StatusMethodNotAllowed, Code: code, Allow: allowed,
			Detail: "TRACE is not allowed: its answer would show what the gateway adds to a request.",
		}
	case CodeStoreUnavailable:
		return &Refusal{
			Status: http.StatusServiceUnavailable, Code: code, RetryAfter: retryAfter,
			Detail: "The gateway cannot verify tokens yet. Try again after Retry-After.",
		}
	case CodeMisconfigured:
		return &Refusal{
			Status: http.StatusServiceUnavailable, Code: code, RetryAfter: retryAfter,
			Detail: "The gateway is misconfigured. Its operator finds the reason in the log.",
		}
	default:
		return &Refusal{
			Status: http.StatusUnauthorized, Code: CodeTokenInvalid, Challenge: challengeInvalid,
			Detail: "The token is not valid. Refresh it; if that fails, log in silently.",
		}
	}
}
