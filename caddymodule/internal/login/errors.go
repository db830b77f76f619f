package login

import (
	"errors"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// Error is a login that did not succeed.
type Error struct {
	// Code says why, to the client.
	Code problem.Code
	// Renew names the codes that the client must renew before it tries again:
	// "code", "phoneCode", both or none. None means: send the same again.
	Renew []string
	// RetryAfter is how long to wait before the next try; zero: no need to.
	RetryAfter time.Duration
	// Refused reports that WeChat, or its edge, refused what the client sent: the
	// limit on failed logins counts that. A code that got lost between WeChat and
	// us is not the client's fault and does not count.
	Refused bool
	// Cause is for the operator's log. It holds no code, token or secret.
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

// fromStore turns an error of the store into a login's.
func fromStore(err error) *Error {
	if errors.Is(err, user.ErrMisconfigured) { // by its encryption key
		return refuse(problem.Misconfigured, err)
	}
	e := refuse(problem.StoreUnavailable, err)
	e.RetryAfter = busyRetry
	return e
}

// fromDirectory turns an error of the directory into a login's.
func fromDirectory(err error) *Error {
	switch {
	case errors.Is(err, user.ErrUnknown):
		return refuse(problem.PhoneRequired, nil)
	case errors.Is(err, user.ErrRegistrationClosed):
		return refuse(problem.RegistrationClosed, nil)
	case errors.Is(err, user.ErrMisconfigured):
		return refuse(problem.Misconfigured, err)
	}
	e := refuse(problem.DirectoryUnavailable, err)
	e.RetryAfter = busyRetry
	return e
}

// fromWeChat turns WeChat's error, or one of the way to it, into a login's.
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

// refusal reports whether WeChat may have refused what the client sent. Where that
// is in doubt the limit counts it: a client could send it all day.
func refusal(we *wechat.Error) bool {
	switch we.Kind {
	case wechat.KindLoginCode, wechat.KindPhoneCode, wechat.KindMismatch, wechat.KindBlocked, wechat.KindRefused, wechat.KindBug:
		return true
	case wechat.KindOperator:
		return len(we.Renew) > 0 // 40013 may be our appid, or a code of another mini program
	case wechat.KindBadAnswer:
		return we.Code != 0 // an errcode that we do not know
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
