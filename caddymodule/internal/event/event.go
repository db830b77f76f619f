// Package event defines the events that operators can handle with Caddy's events app.
// It knows nothing of Caddy. Each event has one constructor, so that no event contains
// an unmasked phone number.
package event

import (
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Event is an event with its data.
type Event struct {
	name string
	data map[string]any
}

// Name returns the name to which event handlers subscribe.
func (e Event) Name() string { return e.name }

// Data returns the data for event handlers.
func (e Event) Data() map[string]any { return e.data }

// Login returns the event for a login.
func Login(u user.User, s session.Session) Event {
	return Event{"wx_auth_login", loginData(u, s)}
}

// UserCreated returns the event for a login that created a user.
func UserCreated(u user.User, s session.Session) Event {
	return Event{"wx_auth_user_created", loginData(u, s)}
}

// PhoneRebound returns the event for a login that has bound a phone number to another WeChat
// account. It contains the sessions that ended because of that.
func PhoneRebound(u user.User, s session.Session, ended session.Ended) Event {
	data := loginData(u, s)
	data["ended"] = ended.IDs
	return Event{"wx_auth_phone_rebound", data}
}

// PhoneChanged returns the event for a user who has changed their phone number.
func PhoneChanged(u user.User, s session.Session) Event {
	return Event{"wx_auth_phone_changed", loginData(u, s)}
}

func loginData(u user.User, s session.Session) map[string]any {
	data := map[string]any{"user": u.ID, "session": s.ID, "appid": s.AppID}
	if !u.Phone.IsZero() {
		data["phone"] = u.Phone.Masked()
	}
	return data
}

// Refused returns the event for a refused login; kind is phone, silent or test.
func Refused(appid string, code problem.Code, kind string) Event {
	return Event{"wx_auth_refused", map[string]any{"appid": appid, "code": string(code), "kind": kind}}
}

// Revoked returns the event for a user's ended sessions, or nil if no session ended. If very many
// ended, the event names only the first ones.
func Revoked(userID string, ended session.Ended, reason session.Reason) []Event {
	if ended.Count == 0 {
		return nil
	}
	return []Event{{"wx_auth_revoked", map[string]any{
		"user": userID, "sessions": ended.IDs, "count": ended.Count, "reason": string(reason),
	}}}
}

// ReuseDetected returns the event for a refresh token that was probably stolen.
func ReuseDetected(s session.Session) Event {
	return Event{"wx_auth_reuse_detected", map[string]any{"user": s.UserID, "session": s.ID, "appid": s.AppID}}
}

// UserDisabled returns the event for a user whom the backend disabled.
func UserDisabled(id string) Event {
	return Event{"wx_auth_user_disabled", map[string]any{"user": id}}
}

// UserEnabled returns the event for a user whom the backend enabled again.
func UserEnabled(id string) Event {
	return Event{"wx_auth_user_enabled", map[string]any{"user": id}}
}

// PhoneTaken returns the event for a user whose number was taken away.
func PhoneTaken(id string) Event {
	return Event{"wx_auth_phone_changed", map[string]any{"user": id}}
}

// UserErased returns the event for an erased user. It contains the sessions that ended.
func UserErased(id string, ended session.Ended) Event {
	return Event{"wx_auth_user_erased", map[string]any{"user": id, "sessions": ended.IDs, "count": ended.Count}}
}
