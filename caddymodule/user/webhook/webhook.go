// Package webhook is a directory of users in the operator's own backend. It sends signed POST
// requests to the backend (Standard Webhooks 1.0.0, https://www.standardwebhooks.com). It knows
// nothing of Caddy, of tokens or of WeChat's API.
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
// in which only id is required. The answer to an erasure is any 2xx. user.phone gives a user
// another number, or takes it away (null). The answer is 200 with the same "phone", or 409 if the
// number belongs to another user. Status 404 means that there is no such user. As the answer to a
// login with a phone number it also means that no user is created.
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
// It returns [user.ErrMisconfigured] for a fault that a retry cannot fix: a redirect, a refusal, a
// malformed answer. It returns another error for a temporary fault: a timeout, a server error.
type Directory struct {
	// URL is the address of the backend's endpoint.
	URL string
	// Secrets sign the requests. There must be at least one. Each request has one signature for
	// each secret, so that the gateway and the backend can change the secret one after the other.
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

// login is the body of a request about a login. An unknown value is null and not an empty string,
// which could match a row of a database by accident.
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

// Login requests the user who logs in. All attempts at one login have the same webhook-id.
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
		return misconfigured("it answered %d, a redirect, which is not followed: write the URL to which it redirects", status)
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return misconfigured("it answered %d: make sure that it has the same secret, and checks the signature over the unchanged body", status)
	}
	return misconfigured("it answered %d instead of 200 or 404", status)
}

func misconfigured(format string, args ...any) error {
	return fmt.Errorf("the users' webhook: "+format+": %w", append(args, user.ErrMisconfigured)...)
}

var errTooLarge = errors.New("larger than 64 KiB")

// Interface guard
var _ user.Directory = (*Directory)(nil)
