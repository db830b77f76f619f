// Package problem holds the errors that clients get. Its catalogue, codes.go, defines
// for each code the HTTP status and what the client's developer should do. The gate,
// the login chain and the endpoints make a [Problem] with a code, and package api
// writes it.
package problem

import (
	"net/http"
	"time"
)

// Problem is an error in the form in which clients get it: RFC 9457's
// application/problem+json.
type Problem struct {
	Title     string    `json:"title"`
	Status    int       `json:"status"`
	Detail    string    `json:"detail"`
	Code      Code      `json:"code"`
	RequestID string    `json:"requestId"`
	Renew     *[]string `json:"renew,omitempty"`  // only in answers to a login
	Reason    string    `json:"reason,omitempty"` // only in session_ended of a refresh

	// The following fields become headers.
	Challenge  string        `json:"-"` // WWW-Authenticate; empty: none
	Allow      string        `json:"-"` // the Allow header, which a 405 must have
	RetryAfter time.Duration `json:"-"` // zero: two seconds, for a 429 or 503
	// RateLimit and RateLimitPolicy are the headers of
	// draft-ietf-httpapi-ratelimit-headers.
	RateLimit, RateLimitPolicy string `json:"-"`
}

const realm = `Bearer realm="wx-auth"`

// New returns the problem for a code, with the status and text in the catalogue.
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

// WithDetail replaces the catalogue's sentence by a more precise one.
func (p *Problem) WithDetail(detail string) *Problem {
	p.Detail = detail
	return p
}

// WithRenew lists the codes that the client must fetch again. An empty list means that
// it should send the same request again.
func (p *Problem) WithRenew(codes []string) *Problem {
	if codes == nil {
		codes = []string{}
	}
	p.Renew = &codes
	return p
}
