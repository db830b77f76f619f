package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// members is an external directory whose users have their number as the id. It returns no
// numbers.
type members struct {
	mu     sync.Mutex
	known  map[string]bool
	broken bool
	locked bool // all users are disabled
}

var errBroken = errors.New("the members' service is away")

func (m *members) Login(_ context.Context, l user.Login) (user.User, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := l.UserID
	if !l.Silent() {
		id = l.Phone.National
		m.known[id] = true
	}
	if !m.known[id] {
		return user.User{}, user.ErrUnknown
	}
	return user.User{ID: id, Disabled: m.locked}, nil
}

func (m *members) Check(_ context.Context, id string) (user.User, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.broken:
		return user.User{}, errBroken
	case !m.known[id]:
		return user.User{}, user.ErrUnknown
	}
	return user.User{ID: id, Disabled: m.locked}, nil
}

func (m *members) Erase(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return errBroken
	}
	delete(m.known, id)
	return nil
}

func (m *members) breaks(broken bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = broken
}

func (m *members) knows(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known[id]
}

func serveMembers(t *testing.T) (*served, *members) {
	t.Helper()
	m := &members{known: make(map[string]bool)}
	return serve(t, m), m
}

func (s *served) service(method, path, body string) *httptest.ResponseRecorder {
	s.t.Helper()
	return s.do(with(serviceKey, httptest.NewRequest(method, "/auth/wx/service/"+path, strings.NewReader(body))))
}

// An operator reads in the log what to do about a directory that is away. The line must not send
// them to the database, which works, and must not make the next failure of the database look
// like one that is known.
func TestServiceLogsTheDirectorysRemedy(t *testing.T) {
	for method, doing := range map[string]string{http.MethodGet: "looking up a user", http.MethodDelete: "service: erase"} {
		s, m := serveMembers(t)
		s.logIn(pushedApp, "ann")
		m.breaks(true)
		if w := s.service(method, "users/"+number, ""); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "directory_unavailable") {
			t.Errorf("%s: %d %s", method, w.Code, w.Body)
		}
		lines := s.logs.FilterMessage(doing + ": the user directory does not answer").FilterField(remedy.DirectoryAway.Field(remedyDirectory))
		if lines.Len() != 1 {
			t.Errorf("%s: %v", method, s.logs.All())
		}
		if level := s.levelOf(zapcore.ErrorLevel, string(problem.StoreUnavailable)); level != zapcore.ErrorLevel {
			t.Errorf("%s: the store's next failure is logged at %s", method, level)
		}
	}
}

// renumbered is members whose numbers can be changed.
type renumbered struct{ *members }

func (renumbered) ChangePhone(context.Context, string, user.Phone) error { return nil }

// A team locks a user in its own directory, and another system acts on wx_auth_revoked. Whichever
// request learns of it first ends the user's sessions, and the event names them.
func TestDirectorysLockIsAnEvent(t *testing.T) {
	for what, try := range map[string]func(s *served, p pair) *httptest.ResponseRecorder{
		"refresh": func(s *served, p pair) *httptest.ResponseRecorder {
			return s.post("/auth/wx/refresh", `{"refreshToken":"`+p.RefreshToken+`"}`)
		},
		"login": func(s *served, _ pair) *httptest.ResponseRecorder {
			return s.post("/auth/wx", s.loginBody(pushedApp, "ann"))
		},
		"test login": func(s *served, _ pair) *httptest.ResponseRecorder {
			return s.post("/auth/wx", `{"appid":"`+servedApp+`","testLogin":"the secret"}`)
		},
		"change of number": func(s *served, p pair) *httptest.ResponseRecorder {
			return s.do(with(p.Token, httptest.NewRequest(http.MethodPost, "/auth/wx/phone", strings.NewReader(`{"phoneCode":"c"}`))))
		},
	} {
		m := &members{known: make(map[string]bool)}
		s := serve(t, renumbered{m}, func(s *Settings) {
			s.TestLogin = &TestLogin{Secret: func(shown string) bool { return shown == "the secret" }, Phone: user.Phone{Country: "86", National: number}, Until: time.Now().Add(time.Hour)}
		})
		var mu sync.Mutex
		var revoked []event.Event
		s.Emit = func(events ...event.Event) {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range events {
				if e.Name() == "wx_auth_revoked" {
					revoked = append(revoked, e)
				}
			}
		}
		s.opened.Accounts.Emit = s.Emit
		p := s.logIn(pushedApp, "ann")
		m.mu.Lock()
		m.locked = true
		m.mu.Unlock()
		for range 2 { // the second finds no session to end
			if w := try(s, p); w.Code/100 != 4 || s.alive(p) {
				t.Errorf("%s: %d %s, alive %v", what, w.Code, w.Body, s.alive(p))
			}
		}
		mu.Lock()
		if len(revoked) != 1 || revoked[0].Data()["user"] != number || revoked[0].Data()["count"] != 1 || revoked[0].Data()["reason"] != "revoked" {
			t.Errorf("%s: %v", what, revoked)
		}
		mu.Unlock()
	}
}

// A backend repeats a call whose answer was lost. The log counts the sessions that each call has
// ended, and not one that had ended before.
func TestServiceLogsWhatItEnded(t *testing.T) {
	s := serve(t, nil)
	p := s.logIn(servedApp, "ann")
	var sessions struct{ Sessions []struct{ ID string } }
	list := s.do(with(p.Token, httptest.NewRequest(http.MethodGet, "/auth/wx/sessions", nil)))
	if err := json.Unmarshal(list.Body.Bytes(), &sessions); err != nil || len(sessions.Sessions) != 1 {
		t.Fatalf("%v %s", err, list.Body)
	}
	for _, want := range []int{1, 0} {
		s.logs.TakeAll()
		w := s.service(http.MethodPost, "revoke", `{"sessionId":"`+sessions.Sessions[0].ID+`"}`)
		if lines := s.logs.FilterMessage("service: revoke").FilterField(zap.Int("ended", want)); w.Code != http.StatusNoContent || lines.Len() != 1 {
			t.Errorf("%d, want %d ended: %v", w.Code, want, s.logs.All())
		}
	}
}

// A user of an external directory is disabled while the directory does not answer. It works,
// because the user is disabled here, and it still holds when the directory is back.
func TestDisableWhileTheDirectoryIsAway(t *testing.T) {
	s, m := serveMembers(t)
	p := s.logIn(pushedApp, "ann")
	m.breaks(true)
	if w := s.service(http.MethodPatch, "users/"+number, `{"disabled":true}`); w.Code != http.StatusNoContent || s.alive(p) {
		t.Fatalf("%d %s, alive %v", w.Code, w.Body, s.alive(p))
	}
	if w := s.service(http.MethodGet, "users/"+number, ""); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "directory_unavailable") {
		t.Errorf("looking the user up: %d %s", w.Code, w.Body)
	}
	m.breaks(false)
	if code := s.post("/auth/wx", s.loginBody(pushedApp, "ann")).Code; code != http.StatusForbidden {
		t.Errorf("a disabled user logs in: %d", code)
	}
	if w := s.service(http.MethodGet, "users/"+number, ""); !strings.Contains(w.Body.String(), `"disabled":true`) || !strings.Contains(w.Body.String(), `"phoneNumber":"+86`+number) {
		t.Errorf("the user: %d %s", w.Code, w.Body)
	}
	if w := s.service(http.MethodPatch, "users/"+number, `{"disabled":false}`); w.Code != http.StatusNoContent {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if code := s.post("/auth/wx", s.loginBody(pushedApp, "ann")).Code; code != http.StatusOK {
		t.Errorf("enabled again: %d", code)
	}
}

// The directory did not get an erasure. The erasure must not be reported as done, but the
// sessions end at once.
func TestEraseWhileTheDirectoryIsAway(t *testing.T) {
	s, m := serveMembers(t)
	p := s.logIn(pushedApp, "ann")
	m.breaks(true)
	w := s.service(http.MethodDelete, "users/"+number, "")
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "directory_unavailable") || !m.knows(number) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if s.alive(p) {
		t.Error("the sessions go on")
	}
	m.breaks(false)
	if w := s.service(http.MethodDelete, "users/"+number, ""); w.Code != http.StatusNoContent || m.knows(number) {
		t.Errorf("again: %d %s", w.Code, w.Body)
	}
	if w := s.service(http.MethodGet, "users/"+number, ""); w.Code != http.StatusNotFound {
		t.Errorf("erased: %d %s", w.Code, w.Body)
	}
}

// WeChat repeats its message until the directory has carried out the erasure. A user with
// another openid stays.
func TestPushWhileTheDirectoryIsAway(t *testing.T) {
	s, m := serveMembers(t)
	s.logIn(servedApp, "ann")
	p := s.logIn(pushedApp, "ann")
	push := func(p wechattest.Push) int {
		t.Helper()
		p.AppID = pushedApp
		d, err := s.wechat.Deliver(p)
		if err != nil {
			t.Fatal(err)
		}
		return s.do(httptest.NewRequest(http.MethodPost, "/auth/wx/push/"+pushedApp+"?"+d.Query.Encode(), strings.NewReader(string(d.Body)))).Code
	}
	if code := push(wechattest.Push{User: "ann", Event: "user_authorization_cancellation"}); code != http.StatusOK || s.alive(p) || !m.knows(number) {
		t.Fatalf("of two apps: %d, alive %v, known %v", code, s.alive(p), m.knows(number))
	}
	// The user logs in again with this openid alone.
	if w := s.service(http.MethodDelete, "users/"+number, ""); w.Code != http.StatusNoContent {
		t.Fatal(w.Code)
	}
	time.Sleep(2 * time.Millisecond) // the login must begin later, by a clock of milliseconds
	p = s.logIn(pushedApp, "bob")
	revoked := wechattest.Push{User: "bob", Event: "user_authorization_revoke", RevokeInfo: "8"}
	m.breaks(true)
	if code := push(revoked); code != http.StatusServiceUnavailable || s.alive(p) {
		t.Errorf("the directory is away: %d, alive %v", code, s.alive(p))
	}
	if n := s.logs.FilterMessageSnippet("user data deletion did not complete").Len(); n != 1 {
		t.Errorf("%d lines about it", n)
	}
	m.breaks(false)
	if code := push(revoked); code != http.StatusOK || m.knows(number) {
		t.Errorf("again: %d, known %v", code, m.knows(number))
	}
}
