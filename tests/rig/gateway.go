package rig

import (
	"net/http"
	"strings"
	"testing"
)

// Gateway is a gateway between the simulator and an upstream, together with a client.
type Gateway struct {
	*Client
	Caddy    *Caddy
	WeChat   *WeChat
	Upstream *Upstream
}

// GatewaySite returns the Caddyfile of a Gateway. Its timeout for WeChat is longer than
// HastySite's, because tests hold logins back.
func GatewaySite(options ...string) string { return GatewaySiteWith("", options...) }

// GatewaySiteWith is GatewaySite with further directives beside wx_auth.
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
	// A busy disk may be too slow for the gateway's start, which then answers 503 and tries again.
	Await(t, openTime, "the store is open", func() bool {
		return r.Get("/auth/wx/health", "").Status != http.StatusServiceUnavailable
	})
	return r
}

// MustLogin logs in by phone, which must succeed.
func (r *Gateway) MustLogin(t testing.TB, number string) Pair {
	t.Helper()
	codes := r.WeChat.Tap(t, number)
	return r.Login(codes.Code, codes.PhoneCode).Pair(t)
}

// MustReload reloads, which must succeed.
func (r *Gateway) MustReload(t testing.TB, caddyfile string) {
	t.Helper()
	if err := r.Caddy.Reload(caddyfile); err != nil {
		t.Fatal(err)
	}
}

// WantSame fails the test unless the key, the session and the user are the same as before the
// gateway was stopped or changed. It returns the session's next pair.
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

// Device is a session in the answer of /auth/wx/sessions.
type Device struct {
	ID          string `json:"id"`
	Current     bool   `json:"current"`
	AppID       string `json:"appid"`
	CreatedAt   string `json:"createdAt"`
	RefreshedAt string `json:"refreshedAt"`
	UserAgent   string `json:"userAgent"`
	Address     string `json:"address"`
}

// Sessions returns the devices of the token's user.
func (r *Gateway) Sessions(t testing.TB, token string) []Device {
	t.Helper()
	a := r.Get("/auth/wx/sessions", token)
	a.Want(t, http.StatusOK)
	WantMembers(t, a.Body, "sessions")
	var list struct{ Sessions []Device }
	a.Decode(t, "application/json", &list)
	return list.Sessions
}

// WantEnded fails the test unless the session of the pair has ended in every way.
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

// HastySite returns a Caddyfile with wx_auth in front of an upstream, with a short
// timeout for the simulator, whose address is in the environment.
func HastySite(options ...string) string { return WaitingSite("1s", options...) }

// WaitingSite is HastySite with another timeout for WeChat's answers.
func WaitingSite(timeout string, options ...string) string {
	return Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\ntimeout " + timeout + "\n}\n" +
		strings.Join(options, "\n") + "\n}\nreverse_proxy {$UPSTREAM}")
}
