package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/gate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// A header directive may set Cache-Control for the whole site. Caches must not keep our
// answers even then, or they would give one user's data to the next. Each 401 also needs a
// challenge.
func TestAnswersAreNotKept(t *testing.T) {
	s := serve(t, nil)
	p := s.logIn(servedApp, "ann")
	for name, w := range map[string]*httptest.ResponseRecorder{
		"login":        s.post("/auth/wx", s.loginBody(servedApp, "ann")),
		"me":           s.do(with(p.Token, httptest.NewRequest(http.MethodGet, "/auth/wx/me", nil))),
		"refused":      s.do(httptest.NewRequest(http.MethodGet, "/auth/wx/me", nil)),
		"refresh":      s.post("/auth/wx/refresh", `{"refreshToken":"x"}`),
		"health":       s.do(httptest.NewRequest(http.MethodGet, "/auth/wx/health", nil)),
		"no endpoint":  s.do(httptest.NewRequest(http.MethodGet, "/auth/wx/none", nil)),
		"wrong method": s.do(httptest.NewRequest(http.MethodGet, "/auth/wx", nil)),
	} {
		if got := w.Header()["Cache-Control"]; len(got) != 1 || got[0] != "no-store" {
			t.Errorf("%s: Cache-Control %q", name, got)
		}
		if w.Code == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") == "" {
			t.Errorf("%s: 401 without a challenge", name)
		}
	}
}

// One trailing slash is accepted, and no other spelling of an endpoint is ours.
func TestPathsUnderThePrefix(t *testing.T) {
	s := serve(t, nil)
	for path, want := range map[string]int{
		"/auth/wx/": 405, "/auth/wx//": 404, "/auth/wx/me/": 401, "/auth/wx/me//": 404, "/auth/wx/%6de": 404,
		"/auth/wx/sessions/": 401, "/auth/wx/sessions/x": 405, "/auth/wx/sessions/x/y": 404, "/auth/wx/sessions//": 404,
		"/auth/wx/push/none": 404, "/auth/wx/push/" + pushedApp: 403, "/auth/wx/service/users": 401, "/auth/wx/service/users/": 404, "/auth/wx/service/users//export": 404, "/auth/wx/service/users/x/y/export": 404, "/auth/wx/service/users/x/export": 401, "/auth/wx/verify/x/y": 401,
		"/auth/wx/verified": 404, "/auth/wx/health/": 200, "/auth/wx/health/none": 404,
	} {
		if w := s.do(httptest.NewRequest(http.MethodGet, path, nil)); w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
	for _, path := range []string{"/", "/auth/w", "/auth/wxy", "/AUTH/wx", "/auth%2Fwx"} {
		if _, ours := s.Route(httptest.NewRequest(http.MethodGet, path, nil)); ours {
			t.Errorf("%s is ours", path)
		}
	}
}

// TRACE is refused as any method that an endpoint does not have: the answer names those that it
// has, and repeats nothing of the request.
func TestTraceIsRefusedByEachEndpoint(t *testing.T) {
	s := serve(t, nil)
	for path, allow := range map[string]string{
		"/auth/wx": "POST", "/auth/wx/me": "GET", "/auth/wx/sessions/x": "DELETE", "/auth/wx/health": "GET, HEAD",
		"/auth/wx/service/users/x": "GET, PATCH, DELETE", "/auth/wx/push/" + pushedApp: "GET, POST", "/auth/wx/nothing": "",
	} {
		w := s.do(with("the.bearer.token", httptest.NewRequest(http.MethodTrace, path, nil)))
		want := http.StatusMethodNotAllowed
		if allow == "" {
			want = http.StatusNotFound
		}
		if w.Code != want || w.Header().Get("Allow") != allow || strings.Contains(w.Body.String(), "the.bearer.token") {
			t.Errorf("%s: %d, Allow %q, %s", path, w.Code, w.Header().Get("Allow"), w.Body)
		}
	}
}

// unloaded is a gate.Tokens that cannot decide, as before the keys are loaded.
type unloaded struct{ err error }

func (unloaded) Ours(string) bool                                    { return true }
func (u unloaded) Verify(string, time.Time) (*token.Identity, error) { return nil, u.err }

// The phone button costs money. A change of number that is refused before the code is sent to
// WeChat says that the same code works again.
func TestPhoneRefusalNamesNoCodeToRenew(t *testing.T) {
	for what, c := range map[string]struct {
		tokens error
		auth   []string
		body   string
		status int
	}{
		"two credentials":    {nil, []string{"Bearer a.b.c", "Bearer d.e.f"}, `{"phoneCode":"c"}`, 400},
		"no phone code":      {nil, nil, `{}`, 400},
		"keys are missing":   {gate.ErrUnavailable, nil, `{"phoneCode":"c"}`, 503},
		"keys are not right": {gate.ErrMisconfigured, nil, `{"phoneCode":"c"}`, 503},
	} {
		s := serve(t, nil)
		auth := c.auth
		if auth == nil {
			auth = []string{"Bearer " + s.logIn(servedApp, "ann").Token}
		}
		if c.tokens != nil {
			g, err := gate.New(gate.Settings{}, unloaded{c.tokens})
			if err != nil {
				t.Fatal(err)
			}
			s.Gate = g
		}
		r := httptest.NewRequest(http.MethodPost, "/auth/wx/phone", strings.NewReader(c.body))
		r.Header["Authorization"] = auth
		if w := s.do(r); w.Code != c.status || !strings.Contains(w.Body.String(), `"renew":[]`) {
			t.Errorf("%s: %d %s", what, w.Code, w.Body)
		}
	}
}

// A client hangs up right after each bad login. The refusal still counts against its rate.
// Otherwise it could guess codes without a limit.
func TestHangingUpIsNoWayRoundTheRate(t *testing.T) {
	s := serve(t, nil, func(set *Settings) { set.LoginRate = ratelimit.Rate{Count: 3, Per: time.Minute} })
	body := func(i int) string { return fmt.Sprintf(`{"appid":%q,"code":"guess%d"}`, servedApp, i) }
	for i := range 3 {
		ctx, hangUp := context.WithCancel(t.Context())
		hangUp()
		s.do(httptest.NewRequest(http.MethodPost, "/auth/wx", strings.NewReader(body(i))).WithContext(ctx))
		eventually(t, "one line for each login", func() bool { return s.logs.FilterMessage("login refused").Len() == i+1 })
	}
	w := s.post("/auth/wx", body(3))
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || w.Header().Get("RateLimit") == "" {
		t.Errorf("after three refusals: %d %s", w.Code, w.Body)
	}
}

// A wrong secret is logged as an error even if the client hangs up: only the operator can
// fix it.
func TestOperatorErrorIsLoggedAfterAHangUp(t *testing.T) {
	s := serve(t, nil)
	if err := s.wechat.AlterApp(servedApp, func(a *wechattest.App) { a.Secret = "another" }); err != nil {
		t.Fatal(err)
	}
	ctx, hangUp := context.WithCancel(t.Context())
	hangUp()
	s.do(httptest.NewRequest(http.MethodPost, "/auth/wx", strings.NewReader(s.loginBody(servedApp, "ann"))).WithContext(ctx))
	eventually(t, "an error in the log", func() bool {
		return s.logs.FilterMessage("login refused").FilterLevelExact(zapcore.ErrorLevel).Len() == 1
	})
}

// A login panics in its own goroutine, where no server recovers it. The client gets a 500,
// and the process goes on.
func TestPanicInALogin(t *testing.T) {
	s := serve(t, nil)
	s.opened.Chain.Mint = nil
	w := s.post("/auth/wx", s.loginBody(servedApp, "ann"))
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), string(problem.InternalError)) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if s.logs.FilterMessage("login failed").FilterLevelExact(zapcore.ErrorLevel).Len() != 1 {
		t.Errorf("log: %+v", s.logs.All())
	}
}

// Over HTTP/3 a request without a body has no length.
func TestLogoutWithABodyOfUnknownLength(t *testing.T) {
	s := serve(t, nil)
	for _, c := range []struct {
		body, contentType string
		want              int
	}{
		{"", "", 204}, {`{"all":true}`, "", 415}, {" ", "", 415}, {`{"all":true}`, "application/json", 204},
	} {
		r := httptest.NewRequest(http.MethodPost, "/auth/wx/logout", io.NopCloser(strings.NewReader(c.body)))
		r.ContentLength = -1
		if c.contentType != "" {
			r.Header.Set("Content-Type", c.contentType)
		}
		if w := s.do(with(s.logIn(servedApp, "ann").Token, r)); w.Code != c.want {
			t.Errorf("body %q, type %q: %d %s", c.body, c.contentType, w.Code, w.Body)
		}
	}
}

// gone is a directory in which every user has been erased.
type gone struct{ account.Directory }

func (gone) Check(context.Context, string) (user.User, error) { return user.User{}, user.ErrUnknown }

// A user who was erased may come back as another user. So the sessions end, and the client
// logs in again. A disabled user only gets an error that says so.
func TestRefreshOfAUserWhoIsGone(t *testing.T) {
	s := serve(t, nil)
	refresh := func(p pair) *httptest.ResponseRecorder {
		return s.post("/auth/wx/refresh", `{"refreshToken":"`+p.RefreshToken+`"}`)
	}
	p := s.logIn(servedApp, "ann")
	id, _ := p.UserInfo["id"].(string)
	if err := s.store.SetDisabled(t.Context(), id, true); err != nil {
		t.Fatal(err)
	}
	if w := refresh(p); w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "user_disabled") {
		t.Errorf("disabled: %d %s", w.Code, w.Body)
	}
	if err := s.store.SetDisabled(t.Context(), id, false); err != nil {
		t.Fatal(err)
	}
	p = s.logIn(servedApp, "ann")
	s.opened.Accounts.Directory = gone{s.Directory}
	if w := refresh(p); w.Code != http.StatusUnauthorized || !strings.Contains(w.Body.String(), "session_ended") {
		t.Errorf("gone: %d %s", w.Code, w.Body)
	}
	if s.alive(p) {
		t.Error("the session goes on")
	}
}

// A client hangs up. The log must not report that as a failure of the store.
func TestHangingUpIsNoErrorInTheLog(t *testing.T) {
	s := serve(t, nil)
	p := s.logIn(servedApp, "ann")
	ctx, hangUp := context.WithCancel(t.Context())
	hangUp()
	for _, path := range []string{"/auth/wx/me", "/auth/wx/sessions"} {
		s.do(with(p.Token, httptest.NewRequest(http.MethodGet, path, nil).WithContext(ctx)))
	}
	if errs := s.logs.FilterLevelExact(zapcore.ErrorLevel).All(); len(errs) > 0 {
		t.Errorf("log: %+v", errs)
	}
}

// A load balancer with a public address is not trusted, so all clients look like one. However
// many requests come, the log says so in one line. What X-Forwarded-For says counts for
// nothing.
func TestPublicProxyIsNamedOnce(t *testing.T) {
	s := serve(t, nil, func(set *Settings) { set.LoginRate = ratelimit.Rate{Count: 3, Per: time.Hour} })
	ask := func(i int, forwarded string) int {
		r := httptest.NewRequest(http.MethodPost, "/auth/wx", strings.NewReader(fmt.Sprintf(`{"appid":%q,"code":"guess%d"}`, servedApp, i)))
		if forwarded != "" {
			r.Header.Set("X-Forwarded-For", forwarded)
		}
		return s.do(r).Code
	}
	logged := func() (n int, remedy string) {
		for _, e := range s.logs.FilterMessageSnippet("a request with X-Forwarded-For came from a public address").All() {
			n, remedy = n+1, fmt.Sprint(e.ContextMap()["remedy"])
		}
		return n, remedy
	}
	ask(0, "")
	if n, _ := logged(); n != 0 {
		t.Errorf("%d lines without the header", n)
	}
	for i := range 2 {
		ask(1+i, fmt.Sprint("198.51.100.", i))
	}
	if code := ask(3, "198.51.100.9"); code != http.StatusTooManyRequests {
		t.Errorf("by a header of its own a client got %d", code)
	}
	if n, remedy := logged(); n != 1 || !strings.Contains(remedy, "trusted_proxies_strict") {
		t.Errorf("%d lines, remedy %q", n, remedy)
	}
}
