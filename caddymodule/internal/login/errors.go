package login

import (
	"errors"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// Error is the error of a failed login.
type Error struct {
	// Code is the code for the client.
	Code problem.Code
	// Renew names the codes that the client must renew before the next attempt: "code",
	// "phoneCode", both or none. None means that the client should send the same codes
	// again.
	Renew []string
	// RetryAfter is how long to wait before the next attempt. Zero means that no wait
	// is needed.
	RetryAfter time.Duration
	// Refused means that WeChat or its edge server refused what the client sent; the
	// limit on failed logins counts these. A code that was lost between WeChat and us
	// is not the client's fault and is not counted.
	Refused bool
	// Cause is for the operator's log. It contains no code, token or secret.
	Cause error
}

func (e *Error) Error() string {
	if e.Cause == nil {
		return string(e.Code)
	}
	return string(e.Code) + ": " + e.Cause.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// refuse returns the error for code, with the codes that the client must renew.
func refuse(code problem.Code, cause error, renew ...wechat.Renew) *Error {
	e := &Error{Code: code, Cause: cause, Renew: []string{}}
	for _, r := range renew {
		e.Renew = append(e.Renew, string(r))
	}
	return e
}

// busyRetry is how long a client is asked to wait when the error does not say.
const busyRetry = 2 * time.Second

// fromStore converts an error of the store.
func fromStore(err error) *Error {
	if errors.Is(err, user.ErrMisconfigured) { // such as a wrong encryption key
		return refuse(problem.Misconfigured, err)
	}
	e := refuse(problem.StoreUnavailable, err)
	e.RetryAfter = busyRetry
	return e
}

// fromDirectory converts an error of the directory.
func fromDirectory(err error) *Error {
	switch {
	case errors.Is(err, user.ErrUnknown):
		return refuse(problem.PhoneRequired, nil)
	case errors.Is(err, user.ErrRegistrationClosed):
		return refuse(problem.RegistrationClosed, nil)
	case errors.Is(err, user.ErrMisconfigured):
		return refuse(problem.Misconfigured, err)
	}
	if OfStore(err) {
		return fromStore(err) // the directory is in the store, or asks it first
	}
	e := refuse(problem.DirectoryUnavailable, err)
	e.RetryAfter = busyRetry
	return e
}

// OfStore reports whether our store, and no external directory, is unavailable.
func OfStore(err error) bool { return errors.As(err, new(interface{ OfStore() })) }

// fromWeChat converts an error of WeChat, or of the connection to it.
func fromWeChat(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	if errors.Is(err, wechat.ErrSharedTokens) {
		return fromStore(err)
	}
	var we *wechat.Error
	if !errors.As(err, &we) {
		e := refuse(problem.WeChatUnavailable, err)
		e.RetryAfter = busyRetry
		return e
	}
	e = refuse(codeOf(we.Kind), err, we.Renew...)
	e.RetryAfter = we.RetryAfter
	e.Refused = we.Call != wechat.CallToken && !we.Unanswered && refusal(we)
	if (e.Code == problem.WeChatUnavailable || e.Code == problem.Misconfigured) && e.RetryAfter == 0 {
		e.RetryAfter = busyRetry
	}
	return e
}

// refusal reports whether WeChat may have refused what the client sent. A doubtful case
// counts as a refusal, because a client could cause it all day.
func refusal(we *wechat.Error) bool {
	switch we.Kind {
	case wechat.KindLoginCode, wechat.KindPhoneCode, wechat.KindMismatch, wechat.KindBlocked, wechat.KindRefused, wechat.KindBug:
		return true
	case wechat.KindOperator:
		return len(we.Renew) > 0 // 40013 may be about our appid, or about a code of another mini program
	case wechat.KindBadAnswer:
		return we.Code != 0 // an unknown errcode
	}
	return false
}

func codeOf(k wechat.Kind) problem.Code {
	switch k {
	case wechat.KindLoginCode:
		return problem.LoginCodeInvalid
	case wechat.KindPhoneCode, wechat.KindMismatch:
		return problem.PhoneCodeInvalid
	case wechat.KindBlocked:
		return problem.UserBlocked
	case wechat.KindBusy, wechat.KindQuota, wechat.KindUnreachable:
		return problem.WeChatUnavailable
	case wechat.KindOperator, wechat.KindBug:
		return problem.Misconfigured
	case wechat.KindTimeout, wechat.KindCanceled:
		return problem.WeChatTimeout
	default:
		return problem.WeChatError
	}
}
