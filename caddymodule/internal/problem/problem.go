// Package problem has the errors that clients get. Its catalogue, codes.go, says what
// each code means in HTTP and what the client's developer should do. Whoever refuses
// something, the gate, a login or an endpoint, makes a [Problem] with a code; package api
// writes it.
package problem

import (
	"net/http"
	"time"
)

// Problem is an error as clients get it: RFC 9457's application/problem+json.
type Problem struct {
	Title     string    `json:"title"`
	Status    int       `json:"status"`
	Detail    string    `json:"detail"`
	Code      Code      `json:"code"`
	RequestID string    `json:"requestId"`
	Renew     *[]string `json:"renew,omitempty"`  // only in the answers of a login
	Reason    string    `json:"reason,omitempty"` // only in a refresh's session_ended

	// The rest goes into headers.
	Challenge  string        `json:"-"` // WWW-Authenticate; empty: none
	Allow      string        `json:"-"` // the Allow header, which a 405 must have
	RetryAfter time.Duration `json:"-"` // zero: two seconds, of a 429 or 503
	// RateLimit and RateLimitPolicy are those of draft-ietf-httpapi-ratelimit-headers.
	RateLimit, RateLimitPolicy string `json:"-"`
}

const realm = `Bearer realm="wx-auth"`

// New returns the problem for a code as the catalogue has it.
func New(code Code) *Problem {
	e, ok := codes[code]
	if !ok {
		code, e = InternalError, codes[InternalError]
	}
	p := &Problem{Code: code, Status: e.status, Title: http.StatusText(e.status), Detail: e.detail}
	if e.challenge != "" {
		p.Challenge = realm + ", " + e.challenge
	} else if e.status == http.StatusUnauthorized {
		p.Challenge = realm // every 401 has a challenge (RFC 9110, section 15.5.2)
	}
	return p
}

// Invalid returns a 400 whose detail says what is wrong with the body.
func Invalid(detail string) *Problem { return New(InvalidRequest).WithDetail(detail) }

// TwoCredentials returns the refusal of a request with more than one credential.
func TwoCredentials() *Problem {
	p := Invalid("The request has more than one credential. Send one token, in one place.")
	p.Challenge = realm + `, error="invalid_request", error_description="show one credential, once"`
	return p
}

// WithStatus changes the status.
func (p *Problem) WithStatus(status int) *Problem {
	p.Status, p.Title = status, http.StatusText(status)
	if status == http.StatusUnauthorized && p.Challenge == "" {
		p.Challenge = realm
	}
	return p
}

// WithDetail says more exactly than the catalogue what is wrong.
func (p *Problem) WithDetail(detail string) *Problem {
	p.Detail = detail
	return p
}

// WithRenew names the codes to fetch again; none means: send the same request again.
func (p *Problem) WithRenew(codes []string) *Problem {
	if codes == nil {
		codes = []string{}
	}
	p.Renew = &codes
	return p
}
