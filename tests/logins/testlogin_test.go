package logins

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

const (
	testSecret = "review-me-please-2026"
	testNumber = "13000000000"
	// literalTest has the secret itself, for sites without its variable.
	literalTest = "test_login " + testSecret + " +86" + testNumber + " until 2099-12-31"
	testLine    = "test_login {env.TEST_SECRET} +86" + testNumber + " until 2099-12-31"
)

// newTested starts a gateway with a test login.
func newTested(t *testing.T, options ...string) *rig.Gateway {
	t.Helper()
	g := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	g.Caddy = rig.StartCaddy(t, rig.GatewaySite(append(options, withKey)...), append(g.WeChat.Environ(g.Upstream.Addr), "TEST_SECRET="+testSecret)...)
	g.Client = g.Caddy.Client()
	return g
}

func testLogin(g *rig.Gateway, secret string, headers ...string) rig.Answer {
	return g.Do(http.MethodPost, "/auth/wx", map[string]string{"testLogin": secret, "appid": rig.AppID}, headers...)
}

// A reviewer logs in without WeChat, which gets no call, and the API learns that it is a test
// login. A phone login with the number ends the test sessions. From then on the test login is
// closed: a person's account must not be open to those who have the secret.
func TestReviewerLogsInWithoutWeChat(t *testing.T) {
	t.Parallel()
	g := newTested(t, testLine, "identity X-User id", "require /pay/* phone_within 15m")
	first := testLogin(g, testSecret)
	p := first.Pair(t)
	if !p.UserInfo.IsNew || p.UserInfo.PurePhoneNumber != testNumber || p.RefreshExpiresIn == 0 {
		t.Errorf("%s", first.Body)
	}
	again := testLogin(g, testSecret).Pair(t)
	if again.UserInfo.ID != p.UserInfo.ID || again.UserInfo.IsNew {
		t.Errorf("again: %+v", *again.UserInfo)
	}
	if wx := g.WeChat; wx.Count(wechattest.Code2Session).Total+wx.Count(wechattest.PhoneNumber).Total != 0 {
		t.Error("WeChat was asked")
	}
	p = g.Refresh(p.RefreshToken).Pair(t)
	seen := g.Get("/", p.Token, "X-WX-Test: 0", "X_WX_TEST: 0").Seen(t)
	seen.WantHeader(t, "X-WX-TEST", "1")
	seen.WantHeader(t, "X-User", again.UserInfo.ID)
	verified := g.Get("/auth/wx/verify", p.Token)
	if verified.Want(t, http.StatusNoContent); verified.Header.Get("X-WX-TEST") != "1" || strings.Contains(verified.Header.Get("X-Envoy-Auth-Headers-To-Remove"), "x-wx-test") {
		t.Errorf("%v", verified.Header)
	}
	if claims := rig.JWTPart(t, p.Token, 1); claims["openid"] != nil || claims["auth_time"] != nil {
		t.Errorf("the token says %v", claims)
	}
	g.Get("/pay/1", p.Token).WantProblem(t, http.StatusForbidden, "phone_login_required", []string{"code", "phoneCode"})
	phone := g.WeChat.Tap(t, anotherOne)
	g.Do(http.MethodPost, "/auth/wx/phone", map[string]string{"phoneCode": phone.PhoneCode}, rig.Bearer(p.Token)...).
		WantProblem(t, http.StatusForbidden, "phone_change_closed", nil)
	if me := g.Me(p.Token).UserInfo(t); me.PurePhoneNumber != testNumber {
		t.Errorf("%+v", me)
	}
	if list := g.Sessions(t, p.Token); len(list) != 2 {
		t.Errorf("%d sessions", len(list))
	}

	export := serve(g, http.MethodGet, userPath+again.UserInfo.ID+"/export", nil)
	if export.Want(t, http.StatusOK); strings.Count(export.Body, `"test":true`) != 2 {
		t.Errorf("exported: %s", export.Body)
	}

	owner := g.MustLogin(t, testNumber)
	if owner.UserInfo.ID != again.UserInfo.ID {
		t.Errorf("the number's owner is %+v", *owner.UserInfo)
	}
	g.WantEnded(t, p)
	g.WantEnded(t, again)
	g.WantAlive(t, owner)
	g.Get("/", owner.Token, "X-WX-TEST: 1").Seen(t).WantHeader(t, "X-WX-TEST", "")
	normal := g.Get("/auth/wx/verify", owner.Token)
	if list := normal.Header.Get("X-Envoy-Auth-Headers-To-Remove"); normal.Header.Get("X-WX-TEST") != "" || !strings.Contains(list, "x-wx-test") || !strings.Contains(list, "x_wx_test") {
		t.Errorf("%v", normal.Header)
	}
	testLogin(g, testSecret).WantProblem(t, http.StatusForbidden, "test_login_taken", nil)
	g.Caddy.Log.Wait(t, 20*time.Second, `"msg":"login"`, `"kind":"test"`, owner.UserInfo.ID, `"phone":"+86130****0000"`)
	g.Caddy.Log.Wait(t, 20*time.Second, `"msg":"login refused"`, `"kind":"test"`, `"code":"test_login_taken"`)
	metrics, err := g.Caddy.Admin("/metrics")
	for outcome, n := range map[string]int{"ok": 2, "test_login_taken": 1} {
		if line := fmt.Sprintf(`caddy_wx_auth_logins_total{app=%q,kind="test",outcome=%q} %d`, rig.AppID, outcome, n); err != nil || !strings.Contains(metrics, line) {
			t.Errorf("%v, no %s", err, line)
		}
	}
	for _, line := range g.Caddy.Log.Lines("http.handlers.wx_auth") {
		if strings.Contains(line, testSecret) || strings.Contains(line, "+86"+testNumber) {
			t.Errorf("the log has the secret or the number: %s", line)
		}
	}
}

// Somebody has logged in with the number and later with another one. Nothing is bound to their
// former account, but it is theirs: a test login must not open it.
func TestLeftAccountClosesTheTestLogin(t *testing.T) {
	t.Parallel()
	g := newTested(t, testLine)
	tap := func(number string) rig.Pair {
		c := g.WeChat.TapAs(t, rig.AppID, "ann", wechattest.Phone{Number: number})
		return g.Login(c.Code, c.PhoneCode).Pair(t)
	}
	first := tap(testNumber)
	if second := tap(anotherOne); second.UserInfo.ID == first.UserInfo.ID {
		t.Fatal("ann has not left the first account")
	}
	testLogin(g, testSecret).WantProblem(t, http.StatusForbidden, "test_login_taken", nil)
}

// Wrong secrets are refused, and at most ten a minute are compared. That affects neither other
// clients nor other logins.
func TestWrongTestSecretsAreLimited(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		site     string
		from     func(i int) string
		together bool
	}{
		"one client":                        {crowdSite(literalTest), func(int) string { return "203.0.113.66" }, false},
		"clients that cannot be told apart": {rig.GatewaySite(literalTest), func(i int) string { return fmt.Sprintf("198.51.100.%d", i) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := rig.NewGatewayWith(t, c.site)
			var looked atomic.Int64
			rig.AtOnce(60, func(i int) {
				switch a := testLogin(g, fmt.Sprint("a wrong secret ", i), from(c.from(i))); a.Status {
				case http.StatusUnauthorized:
					looked.Add(1)
					a.WantProblem(t, http.StatusUnauthorized, "test_login_invalid", nil)
				default:
					a.WantProblem(t, http.StatusTooManyRequests, "rate_limited", nil)
				}
			})
			if n := looked.Load(); n < 10 || n > 13 { // one more is allowed every six seconds
				t.Errorf("%d were looked at", n)
			}
			if a := testLogin(g, testSecret, from("203.0.113.67")); !c.together && a.Status != http.StatusOK {
				t.Errorf("from another address: %d %s", a.Status, a.Body)
			}
			codes := g.WeChat.Tap(t, anotherOne)
			loginFrom(g.Client, "203.0.113.66", codes.Code, codes.PhoneCode).Pair(t)
			g.Caddy.Log.Wait(t, 20*time.Second, `"msg":"login refused"`, `"kind":"test"`, `"code":"test_login_invalid"`)
			for _, line := range g.Caddy.Log.Lines("http.handlers.wx_auth") {
				if strings.Contains(line, "a wrong secret") {
					t.Errorf("the log has the secret: %s", line)
				}
			}
		})
	}
}

// A site without a test login answers as it does to a wrong secret. A body with both a test
// login and codes is refused.
func TestSiteWithoutATestLogin(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t)
	testLogin(g, testSecret).WantProblem(t, http.StatusUnauthorized, "test_login_invalid", nil)
	for _, body := range []string{`{"testLogin":""}`, `{"testLogin":1}`, `{"testLogin":"x","code":"y"}`, `{"testLogin":"x","phoneCode":"y"}`} {
		g.Do(http.MethodPost, "/auth/wx", body).WantProblem(t, http.StatusBadRequest, "invalid_request", []string{})
	}
}

// The operator removes the line, or changes the secret or the number. The reload ends the
// reviewer's token and refresh token. If the same line comes back, they work again.
func TestTestSessionsEndWithTheLine(t *testing.T) {
	t.Parallel()
	g := newTested(t, testLine)
	p := testLogin(g, testSecret).Pair(t)
	g.WantAlive(t, g.MustLogin(t, anotherOne))
	for name, line := range map[string]string{
		"no line":        "register on",
		"another secret": strings.Replace(testLine, "{env.TEST_SECRET}", "another-secret-2026", 1),
		"another number": strings.Replace(testLine, testNumber, "13000000001", 1),
	} {
		g.MustReload(t, rig.GatewaySite(line, withKey))
		g.Get("/", p.Token).WantProblem(t, http.StatusUnauthorized, "token_revoked", nil)
		g.Get("/auth/wx/verify", p.Token).WantProblem(t, http.StatusUnauthorized, "token_revoked", nil)
		a := g.Refresh(p.RefreshToken)
		a.WantProblem(t, http.StatusUnauthorized, "session_ended", nil)
		if !strings.Contains(a.Body, `"reason":"revoked"`) {
			t.Errorf("%s: %s", name, a.Body)
		}
	}
	g.MustReload(t, rig.GatewaySite(testLine, withKey))
	g.WantAlive(t, p)
	g.Refresh(p.RefreshToken).Pair(t)
	g.MustReload(t, rig.GatewaySite(strings.Replace(testLine, "2099-12-31", "2020-02-29", 1), withKey))
	g.Get("/", p.Token).WantProblem(t, http.StatusUnauthorized, "token_expired", nil)
	g.Refresh(p.RefreshToken).WantProblem(t, http.StatusUnauthorized, "session_ended", nil)
	testLogin(g, testSecret).WantProblem(t, http.StatusForbidden, "test_login_expired", nil)
	testLogin(g, "not the secret at all").WantProblem(t, http.StatusUnauthorized, "test_login_invalid", nil)
	g.Caddy.Log.Wait(t, 20*time.Second, `"level":"warn"`, "the date of test_login is over", `"until":"2020-02-29"`, "remedy")
}

// An import binds a WeChat account to the test login's user. The test session ends at its next
// refresh. The backend can disable and erase the user like any other.
func TestTestUserIsAUserLikeOthers(t *testing.T) {
	t.Parallel()
	g := newTested(t, "register off", testLine)
	testLogin(g, testSecret).WantProblem(t, http.StatusForbidden, "registration_closed", nil)
	g.MustReload(t, rig.GatewaySite(testLine, withKey))
	p := testLogin(g, testSecret).Pair(t)
	path := userPath + p.UserInfo.ID
	serve(g, http.MethodPatch, path, map[string]bool{"disabled": true}).Want(t, http.StatusNoContent)
	g.WantEnded(t, p)
	testLogin(g, testSecret).WantProblem(t, http.StatusForbidden, "user_disabled", nil)
	serve(g, http.MethodPatch, path, map[string]bool{"disabled": false}).Want(t, http.StatusNoContent)
	p = testLogin(g, testSecret).Pair(t)
	g.Logout(p.Token, "", false).Want(t, http.StatusNoContent)
	g.WantEnded(t, p)
	p = testLogin(g, testSecret).Pair(t)

	file := filepath.Join(t.TempDir(), "users.csv")
	if err := os.WriteFile(file, []byte("phone,appid,openid\n+86"+testNumber+","+rig.AppID+",oImported\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := g.Caddy.Command("wx-auth", "import", file, "--config", filepath.Join(g.Caddy.Home, "Caddyfile")); err != nil {
		t.Fatal(out, err)
	}
	g.Refresh(p.RefreshToken).WantProblem(t, http.StatusUnauthorized, "session_ended", nil)
	testLogin(g, testSecret).WantProblem(t, http.StatusForbidden, "test_login_taken", nil)
	serve(g, http.MethodDelete, path, nil).Want(t, http.StatusNoContent)
	if back := testLogin(g, testSecret).Pair(t); !back.UserInfo.IsNew {
		t.Errorf("%+v", *back.UserInfo)
	}
}
