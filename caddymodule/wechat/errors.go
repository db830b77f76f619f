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

// Renew names a code that the mini program must fetch anew.
type Renew string

// The two codes of a phone login, by their names in the login's request.
const (
	RenewCode      Renew = "code"      // wx.login
	RenewPhoneCode Renew = "phoneCode" // the phone button
)

// Kind is what an [Error] means to a caller that has to decide on it.
type Kind int

// The kinds of failure.
const (
	KindLoginCode   Kind = iota + 1 // the login code is bad, expired or used
	KindPhoneCode                   // the phone code is bad, expired or used
	KindMismatch                    // the two codes are not one user's
	KindBlocked                     // WeChat's risk control blocks this user
	KindBusy                        // WeChat said "busy" three times
	KindQuota                       // a quota is used up, see RetryAfter
	KindOperator                    // only the operator can fix it, see Advice
	KindBug                         // WeChat calls our request malformed
	KindBadAnswer                   // not an answer of WeChat's API, or one that makes no sense
	KindTimeout                     // no answer in time
	KindUnreachable                 // no connection, or it broke before the answer
	KindCanceled                    // the caller's context was cancelled
	KindRefused                     // WeChat's edge refused the request itself, see Status
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

// Client reports whether the mini program, or its user, showed what WeChat refuses.
func (k Kind) Client() bool {
	return k == KindLoginCode || k == KindPhoneCode || k == KindMismatch || k == KindBlocked
}

// Operator reports whether only the operator can fix it.
func (k Kind) Operator() bool { return k == KindOperator }

// WeChat reports whether WeChat, or the way to it, failed: what a circuit
// breaker should count, if no client's input has caused it (see [Error.Unprovoked]).
// A used-up quota is not among these, as it says when to try again.
func (k Kind) WeChat() bool {
	return k == KindBusy || k == KindBadAnswer || k == KindTimeout || k == KindUnreachable
}

// Error is a failed call. It is always used as *Error.
//
// No field holds a secret, a code, a token or a URL. IP is for the operator's
// log only and is in no string that the error makes of itself.
type Error struct {
	Call   Call
	Kind   Kind
	Code   int    // WeChat's errcode; 0: not a business error
	Status int    // the HTTP status, when it was not 200
	RID    string // WeChat's id of the request, for its support
	IP     string // our own address as WeChat saw it, with 40164 and its kin
	Host   string // the API host that was asked last

	// Renew lists the codes to fetch anew; none: the same may be sent again.
	Renew []Renew
	// RetryAfter is how long to wait before another try; 0: nothing is known.
	RetryAfter time.Duration
	// Unanswered: a code was sent and no answer came, and the second try brought
	// none either or called the code used. It was lost on the way, which is
	// nobody's fault at the mini program.
	Unanswered bool
	// Repeated: this failure has been returned before. It is the answer of one
	// fetch to everyone who waited for it, or is given from memory while calls
	// are paused. One log line is enough.
	Repeated bool
	// Advice tells the operator what to do; "" where there is nothing to do.
	Advice string

	reason string // in our own fixed words, never text from outside
	cause  error  // a context's error, or nil
	// unconnected: there was no connection to send anything on.
	unconnected bool
}

// Unprovoked reports whether nothing that a mini program sends can have caused the
// failure: there was no connection, or the call was that for the access token. A
// circuit breaker may count such a failure whichever client met it.
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

// PerMinute reports whether the quota of a minute is used up, not that of a day.
func (e *Error) PerMinute() bool { return e.Code == minuteQuota }

// GoString is Error: %#v would otherwise print IP.
func (e *Error) GoString() string { return "&wechat.Error{" + e.Error() + "}" }

// Unwrap returns the context's error if that ended the call, else nil.
func (e *Error) Unwrap() error { return e.cause }

// repeated returns a copy that is marked as returned before.
func (e *Error) repeated() *Error {
	r := *e
	r.Repeated = true
	return &r
}
