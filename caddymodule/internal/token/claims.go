package token

import (
	"errors"
	"time"
)

// The values that a token's header can have as its "typ".
const (
	TypeAccessToken = "at+jwt" // RFC 9068, the default
	TypeJWT         = "JWT"    // for verifiers that do not know at+jwt
)

// MaxSize is the length of the longest token, in bytes, that is minted or parsed.
const MaxSize = 8 << 10

var (
	// ErrInvalid is the error for every token that is not valid, whatever the reason.
	// Callers must not be able to distinguish the reasons.
	ErrInvalid = errors.New("the token is not valid")
	// ErrExpired is the error for a token whose only fault is its age.
	ErrExpired = errors.New("the token has expired")
	// ErrRevoked is the error for a token that is valid but whose session has ended.
	ErrRevoked = errors.New("the token's session has ended")
	// ErrTooLarge is the error for claims that do not fit in [MaxSize] bytes.
	ErrTooLarge = errors.New("the token would be larger than 8 KiB")
)

// Claims are the claims that a token is minted with. A verified token is represented by
// an [Identity] instead.
type Claims struct {
	ID        string    // jti; minted at random if empty
	Issuer    string    // iss
	Subject   string    // sub: the user's id
	Audience  []string  // aud
	AppID     string    // client_id: the mini program
	SessionID string    // sid
	OpenID    string    // openid
	UnionID   string    // unionid; empty if WeChat returned none
	IssuedAt  time.Time // iat, in whole seconds
	Expires   time.Time // exp, in whole seconds
	// AuthTime is auth_time, in whole seconds: when this openid last logged in with a
	// phone number. Zero means that it never did, and the claim is then absent.
	AuthTime time.Time
	// Phone is the user's number in E.164. It is sealed in the token.
	Phone string
	// Test is the mark of a test login, sealed in the token. It is empty in other tokens.
	// See [TestLogin].
	Test string
	// Extra holds the directory's claims about the user. They are sealed in the token,
	// as JSON.
	Extra map[string]any
	// Plain holds further claims, which everybody with the token can read.
	Plain map[string]any
}
