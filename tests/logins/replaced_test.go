package logins

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// A mini program logs in again on the same device and presents its former refresh token, so
// that one device has one session. This must not end anybody else's session.
func TestLoginReplacesItsOwnSession(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, withKey, "session {\ngrace 2s\n}")
	login := func(codes wechattest.Codes, refreshToken any) rig.Answer {
		body := map[string]any{"code": codes.Code}
		if codes.PhoneCode != "" {
			body["phoneCode"] = codes.PhoneCode
		}
		maps.Copy(body, map[string]any{"refreshToken": refreshToken})
		return g.Do(http.MethodPost, "/auth/wx", body)
	}
	silent := func(refreshToken string) rig.Pair {
		t.Helper()
		return login(g.WeChat.Open(t, someNumber), refreshToken).Pair(t)
	}
	wantReplaced := func(p rig.Pair) {
		t.Helper()
		g.WantEnded(t, p)
		if why := reasonOf(t, g.Refresh(p.RefreshToken)); why != "replaced" {
			t.Errorf("it ended by %q", why)
		}
	}
	bystander := g.MustLogin(t, someNumber)

	// The refresh token is current, at a silent login and at a phone login.
	one := g.MustLogin(t, someNumber)
	two := silent(one.RefreshToken)
	wantReplaced(one)
	codes := g.WeChat.Tap(t, someNumber)
	three := login(codes, two.RefreshToken).Pair(t)
	wantReplaced(two)
	g.Caddy.Log.Wait(t, 20*time.Second, `"msg":"login"`, `"replaced":"`+rig.SessionOf(t, two.Token)+`"`)
	g.Caddy.Log.Wait(t, 20*time.Second, `"name":"wx_auth_revoked"`, rig.SessionOf(t, two.Token), `"reason":"replaced"`)

	// The same codes are sent again with the refresh token of another session. This
	// login is a replay, so it ends nothing.
	if again := login(codes, bystander.RefreshToken).Pair(t); rig.SessionOf(t, again.Token) != rig.SessionOf(t, three.Token) {
		t.Error("the replay opened another session")
	}
	login(codes, three.RefreshToken).Pair(t) // the refresh token of its own session
	g.WantAlive(t, three)
	g.WantAlive(t, bystander)

	// The refresh token is in its grace.
	next := g.Refresh(three.RefreshToken).Pair(t)
	four := silent(three.RefreshToken)
	wantReplaced(next)

	// A refresh token that is not current is ignored. It is never an error.
	late := g.Refresh(four.RefreshToken).Pair(t)
	time.Sleep(2100 * time.Millisecond)
	silent(four.RefreshToken) // one behind, after the grace
	g.WantAlive(t, late)
	third := g.Refresh(late.RefreshToken).Pair(t)
	silent(four.RefreshToken) // two behind
	g.WantAlive(t, third)
	silent(one.RefreshToken) // its session has ended
	silent(third.RefreshToken[:len(third.RefreshToken)-4] + "AAAA")
	silent(third.Token)
	silent(strings.Repeat("x", 3000))
	silent("") // a device has none at its first login
	login(g.WeChat.Open(t, someNumber), nil).Pair(t)
	g.WantAlive(t, third)

	// The refresh token belongs to another user, or to another WeChat account of the
	// same user.
	stranger := g.MustLogin(t, anotherOne)
	silent(stranger.RefreshToken)
	g.WantAlive(t, stranger)
	login(g.WeChat.Tap(t, "13700137000"), third.RefreshToken).Pair(t)
	g.WantAlive(t, third)
	g.WantAlive(t, bystander)

	for _, wrong := range []any{1, true, []string{"a"}, map[string]any{}} {
		a := login(g.WeChat.Open(t, someNumber), wrong)
		a.WantProblem(t, http.StatusBadRequest, "invalid_request", []string{})
	}
}

// When a user has too many sessions, those of unused devices end first, and the list of
// devices stays short.
func TestMostSessionsOfAUser(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, "session {\nmax 3\n}")
	var pairs []rig.Pair
	for range 3 {
		pairs = append(pairs, g.MustLogin(t, someNumber))
	}
	stranger := g.MustLogin(t, anotherOne)
	pairs[0] = g.Refresh(pairs[0].RefreshToken).Pair(t) // the oldest session, but in use
	pairs = append(pairs, g.MustLogin(t, someNumber))
	g.WantEnded(t, pairs[1])
	if why := reasonOf(t, g.Refresh(pairs[1].RefreshToken)); why != "max" {
		t.Errorf("it ended by %q", why)
	}
	for _, i := range []int{0, 2, 3} {
		g.WantAlive(t, pairs[i])
	}
	g.WantAlive(t, stranger)
	if list := g.Sessions(t, pairs[3].Token); len(list) != 3 {
		t.Errorf("%d devices", len(list))
	}
	g.Caddy.Log.Wait(t, 20*time.Second, `"name":"wx_auth_revoked"`, rig.SessionOf(t, pairs[1].Token), `"reason":"max"`)

	// A session that is replaced makes room for the login that replaces it.
	codes := g.WeChat.Open(t, someNumber)
	next := g.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "refreshToken": pairs[3].RefreshToken}).Pair(t)
	g.WantEnded(t, pairs[3])
	for _, p := range []rig.Pair{pairs[0], pairs[2], next} {
		g.WantAlive(t, p)
	}

	// A lower maximum applies from the next login on; max 1 means one device.
	g.MustReload(t, rig.GatewaySite("session {\nmax 1\n}"))
	g.WantAlive(t, pairs[0])
	only := g.MustLogin(t, someNumber)
	for _, p := range []rig.Pair{pairs[0], pairs[2], next} {
		g.WantEnded(t, p)
	}
	g.WantAlive(t, only)
	g.WantAlive(t, stranger)
}
