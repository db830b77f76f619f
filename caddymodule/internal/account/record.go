package account

import (
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// UserInfo returns a user as answers contain it. Our members take precedence over the
// directory's.
func UserInfo(u user.User) map[string]any {
	info := make(map[string]any, len(u.Info)+5)
	for k, v := range u.Info {
		info[k] = v
	}
	info["id"] = u.ID
	info["isNew"] = u.New
	delete(info, "phoneNumber")
	delete(info, "purePhoneNumber")
	delete(info, "countryCode")
	if !u.Phone.IsZero() {
		info["phoneNumber"] = u.Phone.E164()
		info["purePhoneNumber"] = u.Phone.National
		info["countryCode"] = u.Phone.Country
	}
	return info
}

// Record returns a user as the backend and operators see it.
func Record(u user.User) map[string]any {
	info := UserInfo(u)
	delete(info, "isNew")
	info["disabled"] = u.Disabled
	if !u.CreatedAt.IsZero() {
		info["createdAt"] = u.CreatedAt.UTC()
	}
	return info
}

// openid is one of a user's openids.
type openid struct {
	AppID   string `json:"appid"`
	OpenID  string `json:"openid"`
	UnionID string `json:"unionid,omitempty"`
	// PhoneLoginAt is the time of its last login with a phone number.
	PhoneLoginAt time.Time `json:"phoneLoginAt"`
	// Suspended means that another WeChat account has logged in with the user's number
	// since, so this one cannot log in silently.
	Suspended bool `json:"suspended,omitempty"`
}

// Device is a session as its user, the backend and operators see it.
type Device struct {
	ID          string    `json:"id"`
	Current     *bool     `json:"current,omitempty"` // only the user sees it
	AppID       string    `json:"appid"`
	CreatedAt   time.Time `json:"createdAt"`
	RefreshedAt time.Time `json:"refreshedAt"`
	UserAgent   string    `json:"userAgent"`
	Address     string    `json:"address"`
}

// DeviceOf returns a session as a Device.
func DeviceOf(s session.Session) Device {
	return Device{
		ID: s.ID, AppID: s.AppID, CreatedAt: s.CreatedAt.UTC(), RefreshedAt: s.RefreshedAt.UTC(),
		UserAgent: s.UserAgent, Address: s.Address,
	}
}

// Record returns the user with openids and sessions.
func (s Shown) Record() map[string]any {
	openids := make([]openid, 0, len(s.Bindings))
	for _, b := range s.Bindings {
		openids = append(openids, openid{b.AppID, b.OpenID, b.UnionID, b.PhoneAt.UTC(), b.State == user.Suspended})
	}
	devices := make([]Device, 0, len(s.Sessions))
	for _, one := range s.Sessions {
		devices = append(devices, DeviceOf(one))
	}
	info := Record(s.User)
	info["openids"], info["sessions"] = openids, devices
	return info
}

var bindingStates = map[user.BindingState]string{user.Active: "active", user.Suspended: "suspended", user.Detached: "detached", user.Withdrawn: "detached", user.Cancelled: "detached"}

// Record returns an export as JSON.
func (x Export) Record(id string) map[string]any {
	out := map[string]any{"id": id, "disabled": x.Disabled}
	if x.User != nil {
		out = Record(*x.User)
	}
	if !x.ErasedAt.IsZero() {
		out["erasedAt"] = x.ErasedAt.UTC()
	}
	openids := []map[string]any{}
	for _, b := range x.Bindings {
		one := map[string]any{"appid": b.AppID, "openid": b.OpenID, "state": bindingStates[b.State]}
		put(one, "unionid", b.UnionID)
		put(one, "phoneNumber", b.Phone.E164())
		putTime(one, "phoneLoginAt", b.PhoneAt)
		putTime(one, "authTime", b.AuthAt)
		openids = append(openids, one)
	}
	former := []map[string]any{}
	for _, f := range x.Former {
		one := map[string]any{"appid": f.AppID, "openid": f.OpenID, "leftAt": f.LeftAt.UTC()}
		put(one, "unionid", f.UnionID)
		former = append(former, one)
	}
	sessions := []map[string]any{}
	for _, s := range x.Sessions {
		one := map[string]any{"id": s.ID, "issuer": s.Issuer, "appid": s.AppID, "createdAt": s.CreatedAt.UTC(), "refreshedAt": s.RefreshedAt.UTC()}
		for name, value := range map[string]string{"openid": s.OpenID, "unionid": s.UnionID, "audience": s.Audience,
			"userAgent": s.UserAgent, "address": s.Address, "endReason": string(s.EndReason)} {
			put(one, name, value)
		}
		putTime(one, "expiresAt", s.ExpiresAt)
		putTime(one, "endedAt", s.EndedAt)
		if s.Test != "" {
			one["test"] = true
		}
		sessions = append(sessions, one)
	}
	out["openids"], out["formerOpenids"], out["sessions"] = openids, former, sessions
	return out
}

func put(to map[string]any, name, value string) {
	if value != "" {
		to[name] = value
	}
}

func putTime(to map[string]any, name string, at time.Time) {
	if !at.IsZero() {
		to[name] = at.UTC()
	}
}
