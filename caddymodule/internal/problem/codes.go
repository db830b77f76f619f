package problem

import (
	"maps"
	"net/http"
	"slices"
)

// Code is the stable, machine-readable name of a problem. Clients decide on it; a code
// never changes its meaning.
type Code string

// These are the codes. They are part of the HTTP API.
const (
	// These are codes of every endpoint that takes a body.
	InvalidRequest       Code = "invalid_request" // also two credentials, or a malformed method
	BodyTooLarge         Code = "body_too_large"
	UnsupportedMediaType Code = "unsupported_media_type"
	TooEarly             Code = "too_early"
	RateLimited          Code = "rate_limited"

	// These are codes of a login.
	LoginCodeInvalid   Code = "login_code_invalid"
	PhoneCodeInvalid   Code = "phone_code_invalid"
	PhoneRequired      Code = "phone_required"
	RegistrationClosed Code = "registration_closed"
	UserDisabled       Code = "user_disabled" // also at a refresh
	UserBlocked        Code = "user_blocked"
	NewOpenIDDenied    Code = "new_openid_denied"
	TestLoginInvalid   Code = "test_login_invalid"
	TestLoginExpired   Code = "test_login_expired"
	TestLoginTaken     Code = "test_login_taken"
	WeChatUnavailable  Code = "wechat_unavailable"
	WeChatError        Code = "wechat_error"
	WeChatTimeout      Code = "wechat_timeout"

	// These are further codes of a change of number.
	PhoneTaken        Code = "phone_taken"
	PhoneChangeClosed Code = "phone_change_closed"

	// These codes are about systems that the gateway depends on.
	Misconfigured        Code = "misconfigured" // only the operator can fix it
	DirectoryUnavailable Code = "directory_unavailable"
	StoreUnavailable     Code = "store_unavailable"

	// These are codes of a refresh or a logout.
	RefreshInvalid Code = "refresh_invalid"
	SessionEnded   Code = "session_ended"
	ReuseDetected  Code = "reuse_detected"

	// These are codes of a protected request. A code that begins with token_ means:
	// refresh, and if that fails, log in silently. No other code means that.
	TokenMissing    Code = "token_missing" // no Authorization
	TokenInvalid    Code = "token_invalid" // or an Authorization that is not ours
	TokenExpired    Code = "token_expired" // valid except for its age
	TokenRevoked    Code = "token_revoked" // its session has ended
	CookieCrossSite Code = "cookie_cross_site"
	Forbidden       Code = "forbidden"
	// PhoneLoginRequired means that a login with the phone number would be enough.
	PhoneLoginRequired Code = "phone_login_required"

	// These are codes of the other endpoints.
	NotFound          Code = "not_found"
	MethodNotAllowed  Code = "method_not_allowed"
	ServiceKeyInvalid Code = "service_key_invalid"
	NotHere           Code = "not_here" // only the external directory knows it
	PushRefused       Code = "push_refused"
	InternalError     Code = "internal_error"
)

// entry holds what all problems with one code have in common.
type entry struct {
	status int
	// detail is a sentence for the client's developer: what is wrong and what to do.
	detail string
	// challenge is added to WWW-Authenticate, as in RFC 6750, section 3. If it is
	// empty, only the realm is sent: a request without any credential gets no error
	// code, as the RFC asks.
	challenge string
}

// codes is the catalogue of all codes.
var codes = map[Code]entry{
	InvalidRequest:       {status: http.StatusBadRequest, detail: "The request body is not what this endpoint takes."},
	BodyTooLarge:         {status: http.StatusRequestEntityTooLarge, detail: "The body is larger than 4 KiB."},
	UnsupportedMediaType: {status: http.StatusUnsupportedMediaType, detail: "Send the body as application/json."},
	TooEarly:             {status: http.StatusTooEarly, detail: "This request must not be sent as TLS early data: send it again when the TLS handshake is complete."},
	RateLimited:          {status: http.StatusTooManyRequests, detail: "Too many tries. Wait as long as Retry-After says."},

	LoginCodeInvalid:   {status: http.StatusBadRequest, detail: "The login code is invalid, expired or used. Call wx.login again and send the new code."},
	PhoneCodeInvalid:   {status: http.StatusBadRequest, detail: "The phone code is invalid, expired, used, or belongs to another user. Renew what renew names and try again."},
	PhoneRequired:      {status: http.StatusForbidden, detail: "This WeChat user is not known yet, or the last phone login is too long ago. Show the phone button and send phoneCode too."},
	RegistrationClosed: {status: http.StatusForbidden, detail: "This phone number belongs to no user, and this gateway registers no new users, or none with numbers of that country."},
	UserDisabled:       {status: http.StatusForbidden, detail: "This user is disabled."},
	UserBlocked:        {status: http.StatusForbidden, detail: "WeChat's risk control blocks this user."},
	NewOpenIDDenied:    {status: http.StatusForbidden, detail: "This phone number already belongs to another WeChat user of this mini program."},
	TestLoginInvalid:   {status: http.StatusUnauthorized, detail: "This is not the secret of a test login here."},
	TestLoginExpired:   {status: http.StatusForbidden, detail: "The date of the test login is over. The gateway's operator can set another one."},
	TestLoginTaken:     {status: http.StatusForbidden, detail: "A WeChat account is, or was, bound to the user with the test login's number. Use another number for the test login."},
	WeChatUnavailable:  {status: http.StatusServiceUnavailable, detail: "WeChat does not take logins right now. Try again after Retry-After."},
	WeChatError:        {status: http.StatusBadGateway, detail: "WeChat gave an answer that makes no sense. Renew what renew names and try again."},
	WeChatTimeout:      {status: http.StatusGatewayTimeout, detail: "WeChat did not answer in time. Renew what renew names and try again."},

	PhoneTaken:        {status: http.StatusConflict, detail: "This phone number belongs to another user. Choose another number, or log in with this one."},
	PhoneChangeClosed: {status: http.StatusForbidden, detail: "Phone numbers cannot be changed here, or not with this login."},

	Misconfigured:        {status: http.StatusServiceUnavailable, detail: "The gateway is misconfigured. Its operator finds the reason in the log."},
	DirectoryUnavailable: {status: http.StatusServiceUnavailable, detail: "The user directory does not answer. Try again after Retry-After."},
	StoreUnavailable:     {status: http.StatusServiceUnavailable, detail: "The store does not answer. Try again after Retry-After."},

	RefreshInvalid: {status: http.StatusUnauthorized, detail: "This is not a refresh token of ours. Log in silently."},
	SessionEnded:   {status: http.StatusUnauthorized, detail: "This session has ended. Log in silently."},
	ReuseDetected:  {status: http.StatusUnauthorized, detail: "This refresh token was used before: it may have been stolen, so the session was ended. Log in silently."},

	TokenMissing: {status: http.StatusUnauthorized, detail: `This needs a token: send it as "Authorization: Bearer <token>".`},
	TokenInvalid: {
		status: http.StatusUnauthorized, detail: "The token is not valid. Refresh it; if that fails, log in silently.",
		challenge: `error="invalid_token", error_description="the token is not valid"`,
	},
	TokenExpired: {
		status: http.StatusUnauthorized, detail: "The token has expired. Refresh it; if that fails, log in silently.",
		challenge: `error="invalid_token", error_description="the token has expired"`,
	},
	TokenRevoked: {
		status: http.StatusUnauthorized, detail: "The token's session has ended. Log in silently.",
		challenge: `error="invalid_token", error_description="the session has ended"`,
	},
	// The status is not 401, because refreshing or logging in again would not help.
	CookieCrossSite: {
		status: http.StatusForbidden,
		detail: "The cookie is ignored in this request, because a page of another site may have sent it: " +
			"send Sec-Fetch-Site same-origin or same-site, or this site's Origin, as browsers do; or send the token in Authorization.",
	},
	Forbidden: {status: http.StatusForbidden, detail: "This user may not call this path."},
	PhoneLoginRequired: {
		status: http.StatusForbidden,
		detail: "This needs a recent login with the phone number. Log in with the phone button, then try again.",
	},

	NotFound:          {status: http.StatusNotFound, detail: "There is no such endpoint."},
	MethodNotAllowed:  {status: http.StatusMethodNotAllowed, detail: "This endpoint does not take this method."},
	NotHere:           {status: http.StatusConflict, detail: "Users are in an external directory, and only that directory knows their phone numbers: ask it."},
	ServiceKeyInvalid: {status: http.StatusUnauthorized, detail: "This is not the service key."},
	PushRefused:       {status: http.StatusForbidden, detail: "This is not one of WeChat's messages for this mini program. The gateway's operator finds the reason in the log."},
	InternalError:     {status: http.StatusInternalServerError, detail: "Something went wrong in the gateway."},
}

// Codes returns all codes of the catalogue, for metrics.
func Codes() []Code { return slices.Sorted(maps.Keys(codes)) }
