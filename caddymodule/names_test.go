package caddymodule

import "testing"

// A proxy's owner moves between WeChat's hosts, adds one for disaster recovery, or turns
// their order round: it stays the same WeChat. A simulator on another port is another.
func TestNameOfAWeChat(t *testing.T) {
	for _, c := range []struct {
		directives, want string
	}{
		{"", "weixin.qq.com"},
		{"wechat {\napi https://api.weixin.qq.com\n}", "weixin.qq.com"},
		{"wechat {\napi https://api2.weixin.qq.com https://api.weixin.qq.com\n}", "weixin.qq.com"},
		{"wechat {\napi https://SZ.api.Weixin.QQ.com:443/\nrealm other\n}", "weixin.qq.com"},
		{"wechat {\napi https://weixin.qq.com.example.com\n}", "weixin.qq.com.example.com:443"},
		{"wechat {\napi https://notweixin.qq.com\n}", "notweixin.qq.com:443"},
		{"wechat {\napi https://api.weixin.qq.com https://proxy.example.com\n}", "api.weixin.qq.com:443"},
		{"wechat {\napi https://Proxy.Example.com/wx https://api.weixin.qq.com\n}", "proxy.example.com:443"},
		{"wechat {\napi https://proxy.example.com\nrealm weixin.qq.com\n}", "weixin.qq.com"},
		{"wechat {\napi http://127.0.0.1:9000\n}", "127.0.0.1:9000"},
		{"wechat {\napi http://[::1]\n}", "[::1]:80"},
		{"wechat {\napi http://127.0.0.1:9000\nrealm {env.WXT_REALM}\n}", "staging"},
	} {
		t.Setenv("WXT_REALM", "staging")
		set, err := mustParse(t, "wx_auth wx0123456789abcdef s3cret {\n"+c.directives+"\n}").settings()
		if err != nil {
			t.Errorf("%s: %v", c.directives, err)
		} else if got := set.WeChat.nameOf("wx0123456789abcdef"); got != c.want {
			t.Errorf("%s: %q, want %q", c.directives, got, c.want)
		}
	}
	set, err := mustParse(t, "wx_auth {\napp wx0123456789abcdef s3cret\napp wx1123456789abcdef s3cret {\napi http://127.0.0.1:9000\n}\n}").settings()
	if err != nil {
		t.Fatal(err)
	}
	if a, b := set.WeChat.nameOf("wx0123456789abcdef"), set.WeChat.nameOf("wx1123456789abcdef"); a != "weixin.qq.com" || b != "127.0.0.1:9000" {
		t.Errorf("%q and %q", a, b)
	}
}
