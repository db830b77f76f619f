package requests

import (
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// WeChat's own gateway sends X-WX-Risk-Rank, which says how suspicious a caller is. The header
// passes only if it comes from a trusted proxy. A site that trusts no proxy is refused at
// load.
func TestHeadersOfATrustedProxyPass(t *testing.T) {
	t.Parallel()
	const line = "pass_header X-WX-Risk-Rank\nidentity X-WX-USER-ID id\nidentity X-WX-SOURCE source"
	for trusted, globals := range map[bool]string{true: rig.TrustedLoopback, false: "servers {\ntrusted_proxies static 192.0.2.0/24\n}"} {
		f := newFort(t, fortSite(globals, line))
		pair := f.login(t, "13800138000")
		w := f.passes(t, message(f.Addr, "GET", "/api/x", "Authorization: Bearer "+pair.Token, "X-WX-Risk-Rank: 2", "X-WX-Other: 1", "X-WX-Source: me"))
		if got := w.values("X-Wx-Risk-Rank"); (len(got) == 1) != trusted || len(w.values("X-Wx-Other")) > 0 {
			t.Errorf("trusted %v: %q", trusted, w.fields)
		}
		if got := w.values("X-Wx-Source"); len(got) != 1 || got[0] != "wx_auth" {
			t.Errorf("source %q", got)
		}
	}
	w := rig.NewWeChat(t)
	if err := rig.NewCaddy(t, w.Environ("127.0.0.1:1")...).Validate(fortSite("", line)); err == nil || !strings.Contains(err.Error(), "trusted_proxies") {
		t.Errorf("a site that trusts no proxy: %v", err)
	}
}
