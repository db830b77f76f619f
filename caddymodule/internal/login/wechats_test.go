package login_test

import (
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// Staging's simulator gives out a code that WeChat itself gave to somebody else. The result of
// one must not log in a user of the other.
func TestSameCodeOfAnotherWeChat(t *testing.T) {
	h := newTestChain(t)
	code, phoneCode := h.code("ann"), h.phoneCode("ann", number)
	h.login(t, "wxA", code, phoneCode)
	before := h.wechat.sessions
	_, err := h.Login(t.Context(), login.Request{App: wechat.App{ID: "wxA"}, WeChat: "127.0.0.1:9000", Code: code, PhoneCode: phoneCode})
	if h.wechat.sessions == before {
		t.Errorf("the other WeChat was not asked; the login ended with %v", err)
	}
	// An older replica does not write the name of a WeChat, so its keys equal those for WeChat
	// itself.
	if _, err := h.Login(t.Context(), login.Request{App: wechat.App{ID: "wxA"}, WeChat: wechat.Own, Code: code, PhoneCode: phoneCode}); err != nil {
		t.Errorf("WeChat itself, by its name: %v", err)
	}
}
