package rig

import (
	"net/http"
	"strings"
	"testing"
)

// Gateway is a gateway between the simulator and an upstream, with a client of it.
type Gateway struct {
	*Client
	Caddy    *Caddy
	WeChat   *WeChat
	Upstream *Upstream
}

// GatewaySite is what a Gateway serves. It gives WeChat more time than HastySite does, for the
// logins that a test holds up.
func GatewaySite(options ...string) string { return GatewaySiteWith("", options...) }

// GatewaySiteWith has further directives beside wx_auth.
func GatewaySiteWith(directives string, options ...string) string {
	return Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\ntimeout 15s\n}\n" +
		strings.Join(options, "\n") + "\n}\n" + directives + "\nreverse_proxy {$UPSTREAM}")
}

func NewGateway(t testing.TB, options ...string) *Gateway {
	t.Helper()
	return NewGatewayWith(t, GatewaySite(options...))
}

func NewGatewayWith(t testing.TB, caddyfile string) *Gateway {
	t.Helper()
	r := &Gateway{WeChat: NewWeChat(t), Upstream: NewUpstream(t)}
	r.Caddy = StartCaddy(t, caddyfile, r.WeChat.Environ(r.Upstream.Addr)...)
	r.Client = r.Caddy.Client()
	return r
}

// MustLogin is a phone login that must succeed.
func (r *Gateway) MustLogin(t testing.TB, number string) Pair {
	t.Helper()
	codes := r.WeChat.Tap(t, number)
	return r.Login(codes.Code, codes.PhoneCode).Pair(t)
}

// MustReload must succeed.
func (r *Gateway) MustReload(t testing.TB, caddyfile string) {
	t.Helper()
	if err := r.Caddy.Reload(caddyfile); err != nil {
		t.Fatal(err)
	}
}

// WantSame fails the test if what was there before the gateway ended or changed is
// not there any more: the key, the session and the user. It returns the session's
// next pair.
func (r *Gateway) WantSame(t testing.TB, p Pair, number string) Pair {
	t.Helper()
	seen := r.Get("/", p.Token).Seen(t)
	seen.WantHeader(t, "X-WX-USER-ID", p.UserInfo.ID)
	seen.WantHeader(t, "X-WX-PHONE", "+86"+number)
	next := r.Refresh(p.RefreshToken).Pair(t)
	if SessionOf(t, next.Token) != SessionOf(t, p.Token) {
		t.Error("the session is another one")
	}
	silent := r.Silent(r.WeChat.Open(t, number).Code).Pair(t)
	if silent.UserInfo.ID != p.UserInfo.ID || silent.UserInfo.IsNew {
		t.Errorf("silently it is %+v, want user %s", *silent.UserInfo, p.UserInfo.ID)
	}
	if again := r.MustLogin(t, number); again.UserInfo.ID != p.UserInfo.ID || again.UserInfo.IsNew {
		t.Errorf("by phone it is %+v, want user %s", *again.UserInfo, p.UserInfo.ID)
	}
	next.UserInfo = p.UserInfo
	return next
}

// Device is a session as /auth/wx/sessions shows it.
type Device struct {
	ID          string `json:"id"`
	Current     bool   `json:"current"`
	AppID       string `json:"appid"`
	CreatedAt   string `json:"createdAt"`
	RefreshedAt string `json:"refreshedAt"`
	UserAgent   string `json:"userAgent"`
	Address     string `json:"address"`
}

// Sessions are the devices of the token's user.
func (r *Gateway) Sessions(t testing.TB, token string) []Device {
	t.Helper()
	a := r.Get("/auth/wx/sessions", token)
	a.Want(t, http.StatusOK)
	WantMembers(t, a.Body, "sessions")
	var list struct{ Sessions []Device }
	a.Decode(t, "application/json", &list)
	return list.Sessions
}

// WantEnded fails the test if the session of the pair is not over in every way.
func (r *Gateway) WantEnded(t testing.TB, p Pair) {
	t.Helper()
	r.Get("/", p.Token).WantProblem(t, http.StatusUnauthorized, "token_revoked", nil)
	r.Me(p.Token).WantProblem(t, http.StatusUnauthorized, "token_revoked", nil)
	r.Refresh(p.RefreshToken).WantProblem(t, http.StatusUnauthorized, "session_ended", nil)
}

func (r *Gateway) WantAlive(t testing.TB, p Pair) {
	t.Helper()
	r.Get("/", p.Token).Want(t, http.StatusOK)
}

// HastySite is a site with wx_auth before an upstream, asking the simulator of the
// environment, with a short timeout.
func HastySite(options ...string) string { return WaitingSite("1s", options...) }

// WaitingSite is HastySite with another time for an answer of WeChat's.
func WaitingSite(timeout string, options ...string) string {
	return Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\ntimeout " + timeout + "\n}\n" +
		strings.Join(options, "\n") + "\n}\nreverse_proxy {$UPSTREAM}")
}
