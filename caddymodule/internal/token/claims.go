package token

import (
	"errors"
	"time"
)

// The types that a token's header can name (its "typ").
const (
	TypeAccessToken = "at+jwt" // RFC 9068, the default
	TypeJWT         = "JWT"    // for verifiers that know no other
)

// MaxSize is the longest token, in bytes, that is minted or looked at.
const MaxSize = 8 << 10

var (
	// ErrInvalid is the error for every token that is not good, whatever the
	// reason: callers must not be able to tell the reasons apart.
	ErrInvalid = errors.New("the token is not valid")
	// ErrExpired is the error for a token that is good but for its age.
	ErrExpired = errors.New("the token has expired")
	// ErrTooLarge is the error for claims that do not fit in [MaxSize] bytes.
	ErrTooLarge = errors.New("the token would be larger than 8 KiB")
)

// Claims is what a token is minted to say. What a verified token says is an
// [Identity].
type Claims struct {
	ID        string    // jti; minted at random if empty
	Issuer    string    // iss
	Subject   string    // sub: the user's id
	Audience  []string  // aud
	AppID     string    // client_id: the mini program
	SessionID string    // sid
	OpenID    string    // openid
	UnionID   string    // unionid; empty if WeChat told none
	IssuedAt  time.Time // iat, in whole seconds
	Expires   time.Time // exp, in whole seconds
	// Phone is the user's number in E.164. It travels sealed.
	Phone string
	// Extra is what the directory said of the user. It travels sealed, as JSON.
	Extra map[string]any
	// Plain holds claims of other names that everybody with the token can read.
	Plain map[string]any
}
