package caddymodule

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
)

// problem is an error as clients get it: RFC 9457's application/problem+json.
// Renew is present in the answers of a login only, Reason in a refresh's
// session_ended.
type problem struct {
	Title     string    `json:"title"`
	Status    int       `json:"status"`
	Detail    string    `json:"detail"`
	Code      string    `json:"code"`
	RequestID string    `json:"requestId"`
	Renew     *[]string `json:"renew,omitempty"`
	Reason    string    `json:"reason,omitempty"`

	retryAfter time.Duration
	challenge  string
	allow      string

	rateLimit, rateLimitPolicy string
}

// The codes that are not a login's own.
const (
	codeForbidden        = "forbidden"
	codeNotFound         = "not_found"
	codeMethodNotAllowed = "method_not_allowed"
	codeTooLarge         = "body_too_large"
	codeMediaType        = "unsupported_media_type"
	codeTooEarly         = "too_early"
	codeRefreshInvalid   = "refresh_invalid"
	codeSessionEnded     = "session_ended"
	codeReuseDetected    = "reuse_detected"
	codeServiceKey       = "service_key_invalid"
	codePushRefused      = "push_refused"
	codeInternal         = "internal_error"
)

// outcome is what a code means in HTTP, and what its developer should do.
type outcome struct {
	status int
	detail string
}

var outcomes = map[string]outcome{
	string(login.InvalidRequest):       {400, "The request body is not what this endpoint takes."},
	string(login.LoginCodeInvalid):     {400, "The login code is invalid, expired or used. Call wx.login again and send the new code."},
	string(login.PhoneCodeInvalid):     {400, "The phone code is invalid, expired, used, or belongs to another user. Renew what renew names and try again."},
	string(login.PhoneRequired):        {403, "This WeChat user is not known yet, or the last phone login is too long ago. Show the phone button and send phoneCode too."},
	string(login.RegistrationClosed):   {403, "This phone number belongs to no user, and new users are not taken, or none with numbers of its country."},
	string(login.UserDisabled):         {403, "This user is disabled."},
	string(login.UserBlocked):          {403, "WeChat's risk control blocks this user."},
	string(login.NewOpenIDDenied):      {403, "This phone number already belongs to another WeChat user of this mini program."},
	string(login.RateLimited):          {429, "Too many tries. Wait as long as Retry-After says."},
	string(login.WeChatUnavailable):    {503, "WeChat does not take logins right now. Try again after Retry-After."},
	string(login.WeChatError):          {502, "WeChat gave an answer that makes no sense. Renew what renew names and try again."},
	string(login.WeChatTimeout):        {504, "WeChat did not answer in time. Renew what renew names and try again."},
	string(login.Misconfigured):        {503, "The gateway is misconfigured. Its operator finds the reason in the log."},
	string(login.DirectoryUnavailable): {503, "The user directory does not answer. Try again after Retry-After."},
	string(login.StoreUnavailable):     {503, "The store does not answer. Try again after Retry-After."},
	codeForbidden:                      {403, "The request has a header whose name some backends take for an identity header's."},
	codeNotFound:                       {404, "There is no such endpoint."},
	codeMethodNotAllowed:               {405, "This endpoint does not take this method."},
	codeTooLarge:                       {413, "The body is larger than 4 KiB."},
	codeMediaType:                      {415, "Send the body as application/json."},
	codeTooEarly:                       {425, "Not in early data: send it again when the TLS handshake is complete."},
	codeRefreshInvalid:                 {401, "This is not a refresh token of ours. Log in silently."},
	codeSessionEnded:                   {401, "This session has ended. Log in silently."},
	codeReuseDetected:                  {401, "This refresh token was used before: it may have been stolen, so the session was ended. Log in silently."},
	codeServiceKey:                     {401, "This is not the service key."},
	codePushRefused:                    {403, "This is not a message of WeChat's for this mini program. The gateway's operator finds the reason in the log."},
	codeInternal:                       {500, "Something went wrong in the gateway."},
}

// newProblem returns the problem for code with its status and sentence.
func newProblem(code string) *problem {
	o, ok := outcomes[code]
	if !ok {
		code, o = codeInternal, outcomes[codeInternal]
	}
	return &problem{Code: code, Status: o.status, Detail: o.detail}
}

// invalid returns a 400 whose detail says what is wrong with the body.
func invalid(detail string) *problem {
	p := newProblem(string(login.InvalidRequest))
	p.Detail = detail
	return p
}

// withRenew names the codes to fetch again; none means: send the same request again.
func (p *problem) withRenew(codes []string) *problem {
	if codes == nil {
		codes = []string{}
	}
	p.Renew = &codes
	return p
}

// write answers the request with the problem. It returns nil: nothing is left to do
// for the request but, over HTTP/1.1, to discard the rest of its body.
func (p *problem) write(w http.ResponseWriter, r *http.Request) error {
	p.Title = http.StatusText(p.Status)
	p.RequestID = requestID(r)
	h := w.Header()
	if p.Status == http.StatusUnauthorized {
		// Every 401 has a challenge (RFC 9110, section 15.5.2).
		h.Set("WWW-Authenticate", cmp.Or(p.challenge, `Bearer realm="wx-auth"`))
	} else if p.challenge != "" {
		h.Set("WWW-Authenticate", p.challenge)
	}
	if p.allow != "" {
		h.Set("Allow", p.allow)
	}
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(p.retryAfter.Seconds()))))
	} else if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests {
		h.Set("Retry-After", "2")
	}
	if p.rateLimit != "" {
		h.Set("RateLimit", p.rateLimit)
		h.Set("RateLimit-Policy", p.rateLimitPolicy)
	}
	if !stillSending(r) {
		return answer(w, r, p.Status, "application/problem+json", p)
	}
	h.Set("Connection", "close")
	err := answer(w, r, p.Status, "application/problem+json", p)
	discardUnread(w, r)
	return err
}

// answer writes v as JSON, or nothing but the status if v is nil. Caches must not
// keep it, whatever a directive before us sets for the whole site.
func answer(w http.ResponseWriter, r *http.Request, status int, contentType string, v any) error {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if v == nil {
		w.WriteHeader(status)
		return nil
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false) // it is read by programs and their developers
	if err := enc.Encode(v); err != nil {
		return err
	}
	body := text.Bytes()
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if held(w) {
		h.Del("Content-Length") // of our body, which may give way to another one
	}
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client may be gone; nothing depends on it
	}
	return nil
}

// requestID returns the id that Caddy gives the request, which its logs can
// show as {http.request.uuid}.
func requestID(r *http.Request) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	id, _ := repl.GetString("http.request.uuid")
	return id
}
