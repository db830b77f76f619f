package api

import (
	"net/http"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
)

// A client sends very many wrong secrets. The handlers of events, such as a command that the
// operator wrote, run for the few that were compared, and not for each request.
func TestRefusedTestLoginsBeyondTheRate(t *testing.T) {
	s := serve(t, nil)
	emitted := 0
	s.Emit = func(events ...event.Event) { emitted += len(events) }
	limited := 0
	for range 40 {
		if s.post("/auth/wx", `{"appid":"`+servedApp+`","testLogin":"a guess"}`).Code == http.StatusTooManyRequests {
			limited++
		}
	}
	if limited == 0 || emitted != 40-limited {
		t.Errorf("%d were beyond the rate, %d events", limited, emitted)
	}
}
