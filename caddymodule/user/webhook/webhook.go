// Package webhook is a directory of users behind a team's own backend, which is
// asked by signed POST requests (Standard Webhooks 1.0.0,
// https://www.standardwebhooks.com). It knows nothing of Caddy, of tokens or of
// WeChat's API.
//
// The body of a request is one of
//
//	{"type":"user.login","appid","openid","unionid","phone","country","national","userId","rebound"}
//	{"type":"user.check","userId"}
//	{"type":"user.erase","userId"}
//
// where what is not known is null. A login or a check is answered with status 200
// (201: this login made the user) and
//
//	{"id": "…", "userInfo": {…}, "claims": {…}, "disabled": false}
//
// of which only id must be there; an erasure with any 2xx. Status 404 says that
// there is no such user, and of a login with a phone number that none is made.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Timeout bounds one question, with its second try.
const Timeout = 3 * time.Second

// Directory asks a backend. It implements [user.Directory].
//
// What cannot be asked again with hope (a redirect, a refusal, an answer that
// makes no sense) is [user.ErrMisconfigured]. What may pass (no answer in time,
// a server error) is any other error.
type Directory struct {
	// URL is where the backend takes the requests.
	URL string
	// Secrets sign: each request has one signature for each of them, so that they
	// can be changed one side at a time. At least one.
	Secrets []Secret
	// Transport makes the requests; see [NewTransport].
	Transport http.RoundTripper
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// event is the body of a request about a user who is known.
type event struct {
	Type   string `json:"type"`
	UserID string `json:"userId"`
}

// login is the body of a request about who logs in. What is null is not known:
// databases compare nothing with it.
type login struct {
	Type     string  `json:"type"`
	AppID    string  `json:"appid"`
	OpenID   string  `json:"openid"`
	UnionID  *string `json:"unionid"`
	Phone    *string `json:"phone"`
	Country  *string `json:"country"`
	National *string `json:"national"`
	UserID   *string `json:"userId"`
	Rebound  bool    `json:"rebound"`
}

// Login asks for the user, with the same webhook-id for every try of one login.
func (d *Directory) Login(ctx context.Context, l user.Login) (user.User, error) {
	status, body, err := d.ask(ctx, "msg_"+l.ID, login{
		Type: "user.login", AppID: l.AppID, OpenID: l.OpenID, UnionID: known(l.UnionID),
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

// Check asks whether the user is still welcome.
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

// Erase tells that the user is to be erased.
func (d *Directory) Erase(ctx context.Context, id string) error {
	status, _, err := d.ask(ctx, newID(), event{"user.erase", id})
	if err != nil || gone(status) || status/100 == 2 {
		return err
	}
	return judge(status)
}

func known(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// gone reports whether the backend knows no such user.
func gone(status int) bool { return status == http.StatusNotFound || status == http.StatusGone }

// judge is the error of an answer that is no user.
func judge(status int) error {
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
