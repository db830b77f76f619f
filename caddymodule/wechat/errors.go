package wechat

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Call names one of WeChat's calls, in errors, logs and metrics.
type Call string

// The three calls of a phone login.
const (
	CallSession Call = "jscode2session"
	CallToken   Call = "access_token" // stable_token, token or the external source
	CallPhone   Call = "getuserphonenumber"
)

// Renew names a code that the mini program must fetch again.
type Renew string

// These are the two codes of a phone login, named as in the login's request.
const (
	RenewCode      Renew = "code"      // wx.login
	RenewPhoneCode Renew = "phoneCode" // the phone button
)

// Kind is the meaning of an [Error] for a caller that must decide what to do.
type Kind int

// The kinds of failure.
const (
	KindLoginCode   Kind = iota + 1 // the login code is bad, expired or used
	KindPhoneCode                   // the phone code is bad, expired or used
	KindMismatch                    // the two codes belong to different users
	KindBlocked                     // WeChat's risk control blocks this user
	KindBusy                        // WeChat answered "busy" three times
	KindQuota                       // a quota is used up, see RetryAfter
	KindOperator                    // only the operator can fix it, see Advice
	KindBug                         // WeChat calls our request malformed
	KindBadAnswer                   // the answer is not WeChat's, or makes no sense
	KindTimeout                     // no answer in time
	KindUnreachable                 // no connection, or it broke before the answer
	KindCanceled                    // the caller's context was cancelled
	KindRefused                     // WeChat's edge server refused the request itself, see Status
)

var kindNames = [...]string{
	KindLoginCode: "login code", KindPhoneCode: "phone code", KindMismatch: "mismatch",
	KindBlocked: "blocked", KindBusy: "busy", KindQuota: "quota", KindOperator: "operator",
	KindBug: "bug", KindBadAnswer: "bad answer", KindTimeout: "timeout",
	KindUnreachable: "unreachable", KindCanceled: "canceled", KindRefused: "request refused",
}

// String returns the kind in words.
func (k Kind) String() string {
	if k > 0 && int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "kind " + strconv.Itoa(int(k))
}

// Client reports whether WeChat refuses something that the mini program or its user
// presented.
func (k Kind) Client() bool {
	return k == KindLoginCode || k == KindPhoneCode || k == KindMismatch || k == KindBlocked
}

// Operator reports whether only the operator can fix it.
func (k Kind) Operator() bool { return k == KindOperator }

// WeChat reports whether WeChat failed, or the connection to it. A circuit breaker
// should count such a failure if no client's input caused it (see [Error.Unprovoked]).
// A used-up quota is not among these failures, because it says when to try again.
func (k Kind) WeChat() bool {
	return k == KindBusy || k == KindBadAnswer || k == KindTimeout || k == KindUnreachable
}

// Error is a failed call. It is always used as *Error.
//
// No field holds a secret, a code, a token or a URL. IP is for the operator's log only:
// no string that the error produces contains it.
type Error struct {
	Call   Call
	Kind   Kind
	Code   int    // WeChat's errcode; 0: not a business error
	Status int    // the HTTP status, if it was not 200
	RID    string // WeChat's id of the request, for WeChat's support
	IP     string // our own address as WeChat saw it, with 40164 and similar errcodes
	Host   string // the API host that was asked last

	// Renew lists the codes to fetch again. If it is empty, the same codes may be sent
	// again.
	Renew []Renew
	// RetryAfter is how long to wait before another attempt; 0 means unknown.
	RetryAfter time.Duration
	// Unanswered means that a code was sent but no answer came, and that the second
	// attempt brought no answer either, or WeChat called the code used. The answer was
	// lost on the way, so the mini program is not at fault.
	Unanswered bool
	// Repeated means that this failure has been returned before: several callers waited
	// for the same fetch, or calls are paused and the error comes from memory. One log
	// line is enough for all of them.
	Repeated bool
	// Advice says what the operator can do. It is empty if there is nothing to do.
	Advice string

	reason string // in our own fixed words, never text from outside
	cause  error  // a context's error, or nil
	// unconnected means that no connection could be opened.
	unconnected bool
}

// Unprovoked reports that nothing that a mini program sends can have caused the failure:
// either there was no connection, or the call was the access-token call. A circuit breaker may
// count such a failure whichever client met it.
func (e *Error) Unprovoked() bool { return e.unconnected || e.Call == CallToken }

// Error describes the failure for a log.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "wechat %s", e.Call)
	if e.Host != "" {
		fmt.Fprintf(&b, " at %s", e.Host)
	}
	fmt.Fprintf(&b, ": %s", e.Kind)
	if e.Status != 0 {
		fmt.Fprintf(&b, ": HTTP status %d", e.Status)
	}
	if e.Code != 0 {
		fmt.Fprintf(&b, ": errcode %d", e.Code)
	}
	if e.reason != "" {
		fmt.Fprintf(&b, ": %s", e.reason)
	}
	if e.Unanswered {
		b.WriteString(" (the code was sent and not answered)")
	}
	if e.RID != "" {
		fmt.Fprintf(&b, " (rid: %s)", e.RID)
	}
	return b.String()
}

// PerMinute reports whether the used-up quota is the quota of a minute, rather than of a day.
func (e *Error) PerMinute() bool { return e.Code == minuteQuota }

// GoString returns the same as Error: %#v would otherwise print IP.
func (e *Error) GoString() string { return "&wechat.Error{" + e.Error() + "}" }

// Unwrap returns the context's error if that ended the call, or nil.
func (e *Error) Unwrap() error { return e.cause }

// repeated returns a copy with Repeated set.
func (e *Error) repeated() *Error {
	r := *e
	r.Repeated = true
	return &r
}
