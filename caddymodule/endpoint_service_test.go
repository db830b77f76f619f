package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// members is a directory that lives elsewhere: the number is the id, and it tells
// no numbers.
type members struct {
	mu     sync.Mutex
	known  map[string]bool
	broken bool
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
	return user.User{ID: id}, nil
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
	return user.User{ID: id}, nil
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

const (
	servedKey  = "5f2b8c0d9e1a4f7c6b3d2e8f0a1c9b7d"
	pushedApp  = "wx1111111111111111"
	pushedWith = "tokenTOKEN0123456789 abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
)

// serveMembers is serve with the users elsewhere, a service key, and a second app
// that is pushed to.
func serveMembers(t *testing.T) (*serving, *members) {
	t.Helper()
	token, key, _ := strings.Cut(pushedWith, " ")
	s, _ := provision(t, "service_key "+servedKey, "app "+pushedApp+" s3cret {\n push "+pushedWith+"\n}")
	if err := s.wechat.AddApp(wechattest.App{ID: pushedApp, Secret: "s3cret", PushToken: token, PushKey: key}); err != nil {
		t.Fatal(err)
	}
	m := &members{known: make(map[string]bool)}
	s.h.site.directory = s.h.site.store.Elsewhere(user.Checked(m), s.h.site.set.Session)
	s.h.site.api.Directory = s.h.site.directory
	if err := s.h.site.Open(t.Context(), openTimeout); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.h.Cleanup() })
	return s, m
}

const member = "13800138000"

// loginAs logs the member in at an app, as the person.
func (s *serving) loginAs(appid, person string) (pair, int) {
	s.t.Helper()
	codes, err := s.wechat.Mint(appid, person, wechattest.Phone{Number: member})
	if err != nil {
		s.t.Fatal(err)
	}
	w := s.post("/auth/wx", `{"appid":"`+appid+`",`+loginBody(codes)[1:])
	var p pair
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			s.t.Fatal(err)
		}
	}
	return p, w.Code
}

func (s *serving) service(method, path, body string) *httptest.ResponseRecorder {
	s.t.Helper()
	r := httptest.NewRequest(method, "/auth/wx/service/"+path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+servedKey)
	return s.do(r)
}

func (s *serving) alive(p pair) bool {
	s.t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+p.Token)
	return s.do(r).Code == http.StatusOK
}

func TestUsersElsewhereAreDisabledHereThoughTheirDirectoryIsAway(t *testing.T) {
	s, m := serveMembers(t)
	p, _ := s.loginAs(pushedApp, "ann")
	m.breaks(true)
	if w := s.service(http.MethodPatch, "users/"+member, `{"disabled":true}`); w.Code != http.StatusNoContent || s.alive(p) {
		t.Fatalf("%d %s, alive %v", w.Code, w.Body, s.alive(p))
	}
	if w := s.service(http.MethodGet, "users/"+member, ""); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "directory_unavailable") {
		t.Errorf("looking the user up: %d %s", w.Code, w.Body)
	}
	m.breaks(false)
	if _, code := s.loginAs(pushedApp, "ann"); code != http.StatusForbidden {
		t.Errorf("a disabled user logs in: %d", code)
	}
	if w := s.service(http.MethodGet, "users/"+member, ""); !strings.Contains(w.Body.String(), `"disabled":true`) || !strings.Contains(w.Body.String(), `"phoneNumber":"+86`+member) {
		t.Errorf("the user: %d %s", w.Code, w.Body)
	}
	if w := s.service(http.MethodPatch, "users/"+member, `{"disabled":false}`); w.Code != http.StatusNoContent {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if _, code := s.loginAs(pushedApp, "ann"); code != http.StatusOK {
		t.Errorf("enabled again: %d", code)
	}
}

func TestErasureReachesTheDirectoryElsewhereOrIsNotToldAsDone(t *testing.T) {
	s, m := serveMembers(t)
	p, _ := s.loginAs(pushedApp, "ann")
	m.breaks(true)
	w := s.service(http.MethodDelete, "users/"+member, "")
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "directory_unavailable") || !m.knows(member) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if s.alive(p) {
		t.Error("the user is not even thrown out")
	}
	m.breaks(false)
	if w := s.service(http.MethodDelete, "users/"+member, ""); w.Code != http.StatusNoContent || m.knows(member) {
		t.Errorf("again: %d %s", w.Code, w.Body)
	}
	if w := s.service(http.MethodGet, "users/"+member, ""); w.Code != http.StatusNotFound {
		t.Errorf("erased: %d %s", w.Code, w.Body)
	}
}

// The message comes again until the directory has heard of it; whoever has another
// openid stays.
func TestPushReachesTheDirectoryElsewhere(t *testing.T) {
	s, m := serveMembers(t)
	s.loginAs(servedApp, "ann")
	p, _ := s.loginAs(pushedApp, "ann")
	push := func(p wechattest.Push) int {
		t.Helper()
		p.AppID = pushedApp
		d, err := s.wechat.Deliver(p)
		if err != nil {
			t.Fatal(err)
		}
		return s.do(httptest.NewRequest(http.MethodPost, "/auth/wx/push/"+pushedApp+"?"+d.Query.Encode(), strings.NewReader(string(d.Body)))).Code
	}
	if code := push(wechattest.Push{User: "ann", Event: "user_authorization_cancellation"}); code != http.StatusOK || s.alive(p) || !m.knows(member) {
		t.Fatalf("of two apps: %d, alive %v, known %v", code, s.alive(p), m.knows(member))
	}
	// Now as the only openid.
	if w := s.service(http.MethodDelete, "users/"+member, ""); w.Code != http.StatusNoContent {
		t.Fatal(w.Code)
	}
	p, _ = s.loginAs(pushedApp, "bob")
	revoked := wechattest.Push{User: "bob", Event: "user_authorization_revoke", RevokeInfo: "8"}
	m.breaks(true)
	if code := push(revoked); code != http.StatusServiceUnavailable || s.alive(p) {
		t.Errorf("the directory is away: %d, alive %v", code, s.alive(p))
	}
	if n := s.logs.FilterMessageSnippet("a user has left, and was not dealt with to the end").Len(); n != 1 {
		t.Errorf("%d lines about it", n)
	}
	m.breaks(false)
	if code := push(revoked); code != http.StatusOK || m.knows(member) {
		t.Errorf("again: %d, known %v", code, m.knows(member))
	}
}
