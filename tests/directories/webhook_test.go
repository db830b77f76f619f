package directories

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

const number, other = "13800138000", "13900139000"

// wantSeen fails the test unless the API sees the user of that number.
func wantSeen(t *testing.T, g *rig.Gateway, token, national, roles string) {
	t.Helper()
	seen := g.Get("/orders", token, "X-User-Roles: root", "x_user_roles: root", "X-Level: 99").Seen(t)
	seen.WantHeader(t, "X-WX-USER-ID", "m"+national)
	seen.WantHeader(t, "X-WX-PHONE", "+86"+national)
	seen.WantHeader(t, "X-User-Roles", roles)
	seen.WantHeader(t, "X-Level", "3")
}

// The backend's answer about a user reaches the client in userInfo and the API in headers.
func TestBackendAnswerReachesClientAndAPI(t *testing.T) {
	t.Parallel()
	g, b := newHooked(t)
	codes := g.WeChat.Tap(t, number)
	a := g.Login(codes.Code, codes.PhoneCode)
	p := a.Pair(t)
	for _, want := range []string{`"id":"m13800138000"`, `"phoneNumber":"+8613800138000"`, `"nickName":"安安"`, `"isNew":false`} {
		if !strings.Contains(a.Body, want) {
			t.Errorf("%s is missing in %s", want, a.Body)
		}
	}
	wantSeen(t, g, p.Token, number, "admin,shop%2C1")
	if claims := fmt.Sprint(rig.JWTPart(t, p.Token, 1)); strings.Contains(claims, "admin") || strings.Contains(claims, number+"0") {
		t.Errorf("the token tells everybody: %s", claims)
	}
	// A silent login does not present the number, but the number is still known.
	wantSeen(t, g, g.Silent(g.WeChat.Open(t, number).Code).Pair(t).Token, number, "admin,shop%2C1")
	b.says(body(200, `{"id":"m13800138000","claims":{"roles":["guest"],"level":3}}`))
	next := g.Refresh(p.RefreshToken).Pair(t)
	wantSeen(t, g, next.Token, number, "guest")
	b.says(nil)
	if me := g.Me(next.Token); !strings.Contains(me.Body, `"phoneNumber":"+8613800138000"`) || !strings.Contains(me.Body, "安安") {
		t.Errorf("me: %s", me.Body)
	}
	b.says(body(201, `{"id":"m13900139000"}`))
	if made := g.MustLogin(t, other); !made.UserInfo.IsNew {
		t.Error("201 is not told as a new user")
	}
	events := b.events()
	if e := events[0]; e.Type != "user.login" || e.AppID != rig.AppID || e.OpenID == "" || e.Phone != "+86"+number || e.Country != "86" || e.UserID != "" {
		t.Errorf("the first login: %+v", e)
	}
	if e := events[1]; e.Type != "user.login" || e.Phone != "" || e.UserID != "m"+number {
		t.Errorf("the silent login: %+v", e)
	}
	if e := events[2]; e.Type != "user.check" || e.UserID != "m"+number {
		t.Errorf("the refresh: %+v", e)
	}
}

// Whatever the backend answers, the client gets the right code and keeps its paid phone
// code, no session is left behind, and the next attempt is the same login.
func TestBrokenBackendCostsNobodyAPhoneCode(t *testing.T) {
	t.Parallel()
	g, b := newHooked(t)
	for i, tc := range []struct {
		name   string
		answer http.HandlerFunc
		status int
		code   string
	}{
		{"500", body(500, `{"id":"m1"}`), 503, "directory_unavailable"},
		{"503", body(503, ``), 503, "directory_unavailable"},
		{"slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 503, "directory_unavailable"},
		{"broken off", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 503, "directory_unavailable"},
		{"HTML", body(200, `<!DOCTYPE html><title>Welcome</title>`), 503, "misconfigured"},
		{"nothing", body(200, ``), 503, "misconfigured"},
		{"10 MB", body(200, `{"id":"m1","userInfo":{"x":"`+strings.Repeat("x", 10<<20)+`"}}`), 503, "misconfigured"},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, 503, "misconfigured"},
		{"401", body(401, ``), 503, "misconfigured"},
		{"a number for an id", body(200, `{"id":7}`), 503, "misconfigured"},
		{"undefined", body(200, `{"id":"undefined"}`), 503, "misconfigured"},
		{"a header in the id", body(200, `{"id":"m1\r\nX-Admin: 1"}`), 503, "misconfigured"},
		{"claim sub", body(200, `{"id":"m1","claims":{"sub":"m2"}}`), 503, "misconfigured"},
		{"claim phone_number", body(200, `{"id":"m1","claims":{"phone_number":"+8613911111111"}}`), 503, "misconfigured"},
		{"claims of 10 KiB", body(200, `{"id":"m1","claims":{"bio":"`+strings.Repeat("x", 10<<10)+`"}}`), 503, "misconfigured"},
		{"a header of 2 KiB", body(200, `{"id":"m1","claims":{"roles":"`+strings.Repeat("x", 2<<10)+`"}}`), 503, "misconfigured"},
		{"a claim with members", body(200, `{"id":"m1","claims":{"roles":{"a":1}}}`), 503, "misconfigured"},
		{"nobody", body(404, ``), 403, "registration_closed"},
		{"disabled", body(200, `{"id":"m1","disabled":true}`), 403, "user_disabled"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			national := fmt.Sprint(13700137000 + i)
			codes := g.WeChat.Tap(t, national)
			asked, exchanged := len(b.events()), g.WeChat.PhoneOK()
			b.says(tc.answer)
			defer b.says(nil)
			var renew []string
			if tc.status == 503 {
				renew = []string{}
			}
			a := g.Login(codes.Code, codes.PhoneCode)
			a.WantProblem(t, tc.status, tc.code, renew)
			line := g.Caddy.Line(t, a.Problem(t).RequestID)
			if cause := fmt.Sprint(line["cause"]); tc.status == 503 && (cause == "<nil>" || strings.Contains(cause, national)) {
				t.Errorf("cause: %s", cause)
			}
			b.says(nil)
			p := g.Login(codes.Code, codes.PhoneCode).Pair(t)
			if p.UserInfo.ID != "m"+national {
				t.Errorf("user %s", p.UserInfo.ID)
			}
			if n := g.WeChat.PhoneOK() - exchanged; n != 1 {
				t.Errorf("the phone code was exchanged %d times", n)
			}
			if n := len(g.Sessions(t, p.Token)); n != 1 {
				t.Errorf("%d sessions", n)
			}
			events := b.events()[asked:]
			for _, e := range events {
				if e.ID != events[0].ID {
					t.Errorf("webhook-id of one login: %+v", events)
				}
			}
		})
	}
	if g.Caddy.Rows(t, "sessions") != 19 {
		t.Errorf("%d sessions for 19 logins", g.Caddy.Rows(t, "sessions"))
	}
}

// A broken backend answers a silent login with another user's id. The client must not
// become that user.
func TestSilentLoginStaysTheSameUser(t *testing.T) {
	t.Parallel()
	g, b := newHooked(t)
	p := g.MustLogin(t, number)
	b.says(body(200, `{"id":"m13900139000"}`))
	g.Silent(g.WeChat.Open(t, number).Code).WantProblem(t, 503, "misconfigured", []string{})
	g.Refresh(p.RefreshToken).WantProblem(t, 503, "misconfigured", nil)
	g.Me(p.Token).WantProblem(t, 503, "misconfigured", nil)
	b.says(body(404, ``)) // the user is gone: the client must ask for the number
	g.Silent(g.WeChat.Open(t, number).Code).WantProblem(t, 403, "phone_required", nil)
	b.says(nil)
	// Nothing has advanced meanwhile.
	if next := g.Refresh(p.RefreshToken).Pair(t); rig.SessionOf(t, next.Token) != rig.SessionOf(t, p.Token) {
		t.Error("another session")
	}
	// With a number, the backend decides. Its request says to which user the account belonged
	// before.
	codes := g.WeChat.TapAs(t, rig.AppID, "+86"+number, phoneOf(other))
	if moved := g.Login(codes.Code, codes.PhoneCode).Pair(t); moved.UserInfo.ID != "m"+other {
		t.Errorf("user %s", moved.UserInfo.ID)
	}
	if e := b.events()[len(b.events())-1]; !e.Rebound || e.UserID != "m"+number {
		t.Errorf("%+v", e)
	}
}

// Every refresh asks the backend whether the user may still use the service, and the backend's
// answer decides.
func TestRefreshAsksTheBackend(t *testing.T) {
	t.Parallel()
	g, b := newHooked(t)
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		status int
		code   string
		ends   bool
	}{
		"down":           {body(502, ""), 503, "directory_unavailable", false},
		"garbage":        {body(200, "?"), 503, "misconfigured", false},
		"too large":      {body(200, `{"id":"m`+number+`","claims":{"roles":"`+strings.Repeat("r", 2<<10)+`"}}`), 503, "misconfigured", false},
		"reserved claim": {body(200, `{"id":"m`+number+`","claims":{"Exp":1}}`), 503, "misconfigured", false},
		"disabled":       {body(200, `{"id":"m`+number+`","disabled":true}`), 403, "user_disabled", true},
		"gone":           {body(404, ""), 401, "session_ended", true},
	} {
		t.Run(name, func(t *testing.T) {
			first, second := g.MustLogin(t, number), g.MustLogin(t, number)
			b.says(tc.answer)
			g.Refresh(first.RefreshToken).WantProblem(t, tc.status, tc.code, nil)
			b.says(nil)
			if tc.ends {
				g.WantEnded(t, first)
				g.WantEnded(t, second) // all of the user's sessions end
				return
			}
			if next := g.Refresh(first.RefreshToken).Pair(t); next.RefreshToken == first.RefreshToken {
				t.Error("nothing advanced after it was mended")
			}
			g.WantAlive(t, second)
		})
	}
}

// A team rotates the webhook's secret. With both secrets configured, no login fails.
func TestChangedSecretWorksAtOnce(t *testing.T) {
	t.Parallel()
	g, b := newHooked(t)
	g.MustLogin(t, number)
	b.mu.Lock()
	b.secret = otherSecret
	b.mu.Unlock()
	g.Silent(g.WeChat.Open(t, number).Code).WantProblem(t, 503, "misconfigured", []string{})
	// The secrets come from files, because the environment of a process cannot change.
	file := func(name, text string) string {
		path := filepath.Join(g.Caddy.Home, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "{file." + path + "}"
	}
	g.MustReload(t, strings.Replace(hooked(), "{env.HOOK_SECRET}", file("new", otherSecret), 1))
	g.Silent(g.WeChat.Open(t, number).Code).Pair(t)
	// Both secrets are configured while the backend still uses the old one.
	g.MustReload(t, strings.Replace(hooked(), "{env.HOOK_SECRET}", file("first", secret)+" "+file("second", otherSecret), 1))
	g.Silent(g.WeChat.Open(t, number).Code).Pair(t)
	for _, text := range []string{secret, otherSecret} {
		config, err := g.Caddy.Admin("/config/")
		if err != nil || strings.Contains(config, text) || strings.Contains(g.Caddy.Log.String(), text) {
			t.Errorf("the secret shows in the configuration or the log (%v)", err)
		}
	}
}

// A login that waits for the backend is answered although its configuration has been
// replaced.
func TestLoginUnderWayOutlivesAReload(t *testing.T) {
	t.Parallel()
	g, b := newHooked(t)
	in, go1 := make(chan struct{}, 1), make(chan struct{})
	b.says(func(w http.ResponseWriter, r *http.Request) {
		in <- struct{}{}
		<-go1
		body(200, `{"id":"m13800138000"}`)(w, r)
	})
	codes := g.WeChat.Tap(t, number)
	answer := rig.InBackground(func() rig.Answer { return g.Login(codes.Code, codes.PhoneCode) })
	rig.Within(t, 5*time.Second, "the backend is asked", in)
	reload := rig.InBackground(func() error { return g.Caddy.Reload(hooked("forward_token")) })
	time.Sleep(300 * time.Millisecond) // the former configuration is being unloaded
	close(go1)
	rig.Within(t, 10*time.Second, "the login", answer).Pair(t)
	if err := rig.Within(t, 30*time.Second, "the reload", reload); err != nil {
		t.Error(err)
	}
	b.says(nil)
	g.Silent(g.WeChat.Open(t, number).Code).Pair(t)
}

// The backend answers with errors that contain the number and the secret. Neither may
// be in the log.
func TestPhonesAndSecretsStayOutOfTheLog(t *testing.T) {
	t.Parallel()
	g, b := newHooked(t)
	for _, answer := range []http.HandlerFunc{body(500, number), body(200, number), body(302, number), body(200, `{"id":"u1"}`)} {
		b.says(answer)
		codes := g.WeChat.Tap(t, number)
		g.Login(codes.Code, codes.PhoneCode)
	}
	if lines := g.Caddy.Log.Lines(number); len(lines) > 0 {
		t.Errorf("the number is in the log: %s", lines[0])
	}
}
