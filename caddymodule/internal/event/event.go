// Package event has the events that operators can handle with Caddy's events app. It
// knows nothing of Caddy. Each event has one constructor, so no phone number gets into
// one unmasked.
package event

import (
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Event is something that happened.
type Event struct {
	name string
	data map[string]any
}

// Name is what a handler of events subscribes to.
func (e Event) Name() string { return e.name }

// Data is what it gets to know.
func (e Event) Data() map[string]any { return e.data }

// Login returns the event that a user logged in.
func Login(u user.User, s session.Session) Event {
	return Event{"wx_auth_login", loginData(u, s)}
}

// UserCreated returns the event that a login made a new user.
func UserCreated(u user.User, s session.Session) Event {
	return Event{"wx_auth_user_created", loginData(u, s)}
}

// PhoneRebound returns the event that a phone number came with another WeChat account,
// and which sessions ended by that.
func PhoneRebound(u user.User, s session.Session, ended session.Ended) Event {
	data := loginData(u, s)
	data["ended"] = ended.IDs
	return Event{"wx_auth_phone_rebound", data}
}

func loginData(u user.User, s session.Session) map[string]any {
	data := map[string]any{"user": u.ID, "session": s.ID, "appid": s.AppID}
	if !u.Phone.IsZero() {
		data["phone"] = u.Phone.Masked()
	}
	return data
}

// Refused returns the event that a login, of kind phone or silent, was refused.
func Refused(appid string, code problem.Code, kind string) Event {
	return Event{"wx_auth_refused", map[string]any{"appid": appid, "code": string(code), "kind": kind}}
}

// Revoked returns the event that sessions of a user ended; none if none did. Of many
// sessions only the first are named.
func Revoked(userID string, ended session.Ended, reason session.Reason) []Event {
	if ended.Count == 0 {
		return nil
	}
	return []Event{{"wx_auth_revoked", map[string]any{
		"user": userID, "sessions": ended.IDs, "count": ended.Count, "reason": string(reason),
	}}}
}

// ReuseDetected returns the event that a refresh token was probably stolen.
func ReuseDetected(s session.Session) Event {
	return Event{"wx_auth_reuse_detected", map[string]any{"user": s.UserID, "session": s.ID, "appid": s.AppID}}
}

// UserDisabled returns the event that the backend disabled a user.
func UserDisabled(id string) Event {
	return Event{"wx_auth_user_disabled", map[string]any{"user": id}}
}

// UserEnabled returns the event that the backend enabled a user again.
func UserEnabled(id string) Event {
	return Event{"wx_auth_user_enabled", map[string]any{"user": id}}
}

// UserErased returns the event that a user was erased, with the sessions that ended.
func UserErased(id string, ended session.Ended) Event {
	return Event{"wx_auth_user_erased", map[string]any{"user": id, "sessions": ended.IDs, "count": ended.Count}}
}
