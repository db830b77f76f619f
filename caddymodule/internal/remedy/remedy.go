// Package remedy writes into a log line what an operator can do about a fault, and where
// to read more. It holds the headings; the texts stay with the faults.
package remedy

import (
	"errors"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Heading is a heading of docs/troubleshooting.md, written as in a link to it. The
// Chinese page has the same names.
type Heading string

// These are the headings, in the page's order. A fault with a cause of its own has a
// heading of its own.
const (
	Errcode            Heading = "by-wechats-error-code"
	StoreAway          Heading = "the-store-is-away"
	StoreReadOnly      Heading = "the-store-cannot-be-written"
	StoreLost          Heading = "the-store-is-lost"
	StoreUnusable      Heading = "the-store-does-not-fit-the-configuration"
	StoreMoved         Heading = "the-store-was-moved"
	StoreShared        Heading = "sites-share-a-store"
	StoreOfPod         Heading = "an-sqlite-file-in-kubernetes"
	KeyMissing         Heading = "an-encryption-key-is-missing"
	ClockWrong         Heading = "the-clock-is-wrong"
	WeChatAway         Heading = "wechat-cannot-be-reached"
	WeChatNonsense     Heading = "the-answer-is-not-wechats"
	DirectoryAway      Heading = "the-directory-of-users-is-away"
	DirectoryUnusable  Heading = "what-the-directory-says-cannot-be-used"
	DirectoryChanged   Heading = "the-directory-may-mean-other-people"
	ClientUnknown      Heading = "the-addresses-of-clients-are-not-known"
	SecondDirective    Heading = "a-request-reaches-a-second-wx_auth"
	SettingUseless     Heading = "a-setting-has-no-effect"
	RequireUnenforced  Heading = "require-does-not-hold-for-verify"
	PushRefused        Heading = "a-message-push-is-refused"
	ErasureIncomplete  Heading = "user-data-was-not-deleted"
	ServiceKeyWrong    Heading = "a-request-lacks-the-service-key"
	RefreshTokenReused Heading = "a-refresh-token-was-shown-again"
	TestLoginOver      Heading = "the-test-login-has-expired"
	Bug                Heading = "a-panic"
)

// page is the page that has the headings.
const page = "docs/troubleshooting.md#"

// Field returns the log fields `remedy`, with what to do, and `see`, with the heading.
func (h Heading) Field(text string) zap.Field { return zap.Inline(line{text, h}) }

// Of is Field for an error. An error that has a remedy or a heading of its own decides;
// otherwise it is text, and h.
func (h Heading) Of(err error, text string) zap.Field {
	var r interface{ Remedy() string }
	if errors.As(err, &r) {
		text = r.Remedy()
	}
	var about interface{ Heading() Heading }
	if errors.As(err, &about) {
		h = about.Heading()
	}
	return h.Field(text)
}

// line is the two fields.
type line struct {
	text string
	see  Heading
}

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (l line) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("remedy", l.text)
	enc.AddString("see", page+string(l.see))
	return nil
}
