package api

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
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

// Somebody has the secret of the test login and opens sessions from many addresses as fast as they
// can. A suite of tests has logins enough; beyond them, the holders of the secret wait, and nobody
// else does.
func TestRightTestLoginsAreLimited(t *testing.T) {
	reviewers := user.Phone{Country: "86", National: "13000000000"}
	s := serve(t, nil, func(s *Settings) {
		s.TestLogin = &TestLogin{Secret: func(shown string) bool { return shown == "the secret" }, Phone: reviewers, Until: time.Now().Add(time.Hour)}
	})
	address := "198.51.100.0"
	s.Host.ClientIP = func(*http.Request) string { return address }
	body := func(secret string) string { return `{"appid":"` + servedApp + `","testLogin":"` + secret + `"}` }
	opened := 0
	w := s.post("/auth/wx", body("the secret"))
	for ; w.Code == http.StatusOK && opened < 1000; w = s.post("/auth/wx", body("the secret")) {
		opened++
		address = fmt.Sprintf("198.51.100.%d", opened%256)
	}
	wait, err := strconv.Atoi(w.Header().Get("Retry-After"))
	if w.Code != http.StatusTooManyRequests || !strings.Contains(w.Body.String(), `"rate_limited"`) || err != nil || wait < 1 || wait > 60 {
		t.Errorf("%d %s %v", w.Code, w.Body, w.Header())
	}
	if opened < 120 {
		t.Errorf("a suite of tests may log in %d times", opened)
	}
	if w := s.post("/auth/wx", body("a guess")); w.Code != http.StatusUnauthorized {
		t.Errorf("a wrong secret: %d %s", w.Code, w.Body)
	}
	s.logIn(servedApp, "alice")
	s.TestLogin.Phone.National = "13000000001"
	if w := s.post("/auth/wx", body("the secret")); w.Code != http.StatusOK {
		t.Errorf("a test login of another number: %d %s", w.Code, w.Body)
	}
}
