package caddymodule

import (
	"fmt"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
)

// event is something that happened. Phone numbers in it are masked.
type event struct {
	name string
	data map[string]any
}

// emit tells Caddy's events app, if there are handlers for events, what
// happened, in this order. The answer is settled by then: a handler can change
// nothing of it, nor hold it up.
func (s *site) emit(events ...event) {
	if s.events == nil {
		return
	}
	go func() {
		defer func() {
			if p := recover(); p != nil { // no server recovers it here
				s.log.Error("panic in a handler of events", zap.String("kind", fmt.Sprintf("%T", p)), zap.Stack("stack"))
			}
		}()
		for _, e := range events {
			e.data["issuer"] = s.set.Token.Issuer
			s.events.Emit(s.ctx, e.name, e.data)
		}
	}()
}

// emitEnded emits that sessions of a user ended, if any did. Of many only the
// first are named.
func (c *call) emitEnded(userID string, ended session.Ended, reason session.Reason) {
	if events := endedEvent(userID, ended, reason); len(events) > 0 {
		c.site.emit(events...)
	}
}

// endedEvent is the event that sessions ended; none without sessions.
func endedEvent(userID string, ended session.Ended, reason session.Reason) []event {
	if ended.Count == 0 {
		return nil
	}
	return []event{{"wx_auth_revoked", map[string]any{
		"user": userID, "sessions": ended.IDs, "count": ended.Count, "reason": string(reason),
	}}}
}

// emitLogin tells of a login that succeeded. Its codes sent again are no other
// login.
func (s *site) emitLogin(res login.Result) {
	if res.Replayed {
		return
	}
	var events []event
	data := func() map[string]any {
		d := map[string]any{"user": res.User.ID, "session": res.Session.ID, "appid": res.Session.AppID}
		if !res.User.Phone.IsZero() {
			d["phone"] = res.User.Phone.Masked()
		}
		return d
	}
	if res.User.New {
		events = append(events, event{"wx_auth_user_created", data()})
	}
	if res.Rebound {
		d := data()
		d["ended"] = named(res.Ended)
		events = append(events, event{"wx_auth_phone_rebound", d})
	}
	var replaced session.Ended
	if res.Replaced != "" {
		replaced.Add(res.Replaced)
	}
	events = append(events, endedEvent(res.User.ID, replaced, session.ReasonReplaced)...)
	events = append(events, endedEvent(res.User.ID, res.Surplus, session.ReasonMax)...)
	s.emit(append(events, event{"wx_auth_login", data()})...)
}

// named returns the first of the ids: a log line or an event names a bounded number.
func named(ids []string) []string {
	var ended session.Ended
	ended.Add(ids...)
	return ended.IDs
}
