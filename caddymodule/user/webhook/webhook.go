// Package webhook is a directory of users in a team's own backend, which receives
// signed POST requests (Standard Webhooks 1.0.0, https://www.standardwebhooks.com). It
// knows nothing of Caddy, of tokens or of WeChat's API.
//
// The body of a request is one of
//
//	{"type":"user.login","appid","openid","unionid","phone","country","national","userId","rebound"}
//	{"type":"user.check","userId"}
//	{"type":"user.erase","userId"}
//	{"type":"user.phone","userId","phone","country","national"}
//
// with null for every unknown value. The answer to a login or a check has status 200
// (or 201 if this login created the user) and the body
//
//	{"id": "…", "userInfo": {…}, "claims": {…}, "disabled": false}
//
// in which only id is required. The answer to an erasure is any 2xx. The answer to
// user.phone, by which a user gets another number or (null) none, is 200 with the same
// "phone", or 409 if the number is another user's. Status 404 means
// that there is no such user and, for a login with a phone number, that none is
// created.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Timeout bounds one request, including its second attempt.
const Timeout = 3 * time.Second

// Directory sends its requests to a backend. It implements [user.Directory].
//
// A fault that a retry cannot fix (a redirect, a refusal, a malformed answer) is
// [user.ErrMisconfigured]. A fault that may pass (a timeout, a server error) is any
// other error.
type Directory struct {
	// URL is the address of the backend's endpoint.
	URL string
	// Secrets sign the requests: each request has one signature for each secret, so
	// that both sides can change the secret one after the other. There must be at least
	// one.
	Secrets []Secret
	// Transport sends the requests; see [NewTransport].
	Transport http.RoundTripper
	// Now returns the current time. Nil means time.Now.
	Now func() time.Time
}

// event is the body of a request about a known user.
type event struct {
	Type   string `json:"type"`
	UserID string `json:"userId"`
}

// login is the body of a request about a login. null means unknown: no row of a
// database matches it by accident, as it would match an empty string.
type login struct {
	Type     string  `json:"type"`
	AppID    string  `json:"appid"`
	OpenID   *string `json:"openid"`
	UnionID  *string `json:"unionid"`
	Phone    *string `json:"phone"`
	Country  *string `json:"country"`
	National *string `json:"national"`
	UserID   *string `json:"userId"`
	Rebound  bool    `json:"rebound"`
}

// Login requests the user. All attempts at one login have the same webhook-id.
func (d *Directory) Login(ctx context.Context, l user.Login) (user.User, error) {
	status, body, err := d.ask(ctx, "msg_"+l.ID, login{
		Type: "user.login", AppID: l.AppID, OpenID: known(l.OpenID), UnionID: known(l.UnionID),
		Phone: known(l.Phone.E164()), Country: known(l.Phone.Country), National: known(l.Phone.National),
		UserID: known(l.UserID), Rebound: l.Rebound,
	})
	switch {
	case err != nil:
		return user.User{}, err
	case gone(status) && l.Silent():
		return user.User{}, user.ErrUnknown
	case gone(status):
		return user.User{}, user.ErrRegistrationClosed
	}
	u, err := read(status, body)
	u.New = status == http.StatusCreated
	return u, err
}

// Check requests the user, to find out whether they may still use the service.
func (d *Directory) Check(ctx context.Context, id string) (user.User, error) {
	if id == "" {
		return user.User{}, user.ErrUnknown
	}
	status, body, err := d.ask(ctx, newID(), event{"user.check", id})
	switch {
	case err != nil:
		return user.User{}, err
	case gone(status):
		return user.User{}, user.ErrUnknown
	}
	return read(status, body)
}

// Erase requests the erasure of the user.
func (d *Directory) Erase(ctx context.Context, id string) error {
	status, _, err := d.ask(ctx, newID(), event{"user.erase", id})
	if err != nil || gone(status) || status/100 == 2 {
		return err
	}
	return statusError(status)
}

func known(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// gone reports whether a status means that the backend has no such user.
func gone(status int) bool { return status == http.StatusNotFound || status == http.StatusGone }

// statusError returns the error for an answer without a user.
func statusError(status int) error {
	switch {
	case status >= 500 && status != http.StatusNotImplemented,
		status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status == http.StatusTooEarly:
		return fmt.Errorf("the users' webhook answered %d", status)
	case status/100 == 3:
		return misconfigured("it answered %d, a redirect, which is not followed: write the URL that answers itself", status)
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return misconfigured("it answered %d: does it have the same secret, and check the signature over the body as it was sent?", status)
	}
	return misconfigured("it answered %d, where 200 or 404 was expected", status)
}

func misconfigured(format string, args ...any) error {
	return fmt.Errorf("the users' webhook: "+format+": %w", append(args, user.ErrMisconfigured)...)
}

var errTooLarge = errors.New("larger than 64 KiB")

// Interface guard
var _ user.Directory = (*Directory)(nil)
