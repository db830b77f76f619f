package logins

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// notStrict is part of the warning about trusted_proxies without
// trusted_proxies_strict.
const notStrict = "has trusted_proxies without trusted_proxies_strict"

// Without trusted_proxies_strict a client chooses its own address. The log says so at
// load, once for each affected server that has a wx_auth.
func TestServerThatIsNotStrictIsNamed(t *testing.T) {
	t.Parallel()
	site := func(port string) string {
		return "http://127.0.0.1:" + port + " {\nwx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n}\n}\n"
	}
	port := func() string {
		_, p, err := net.SplitHostPort(rig.FreeAddress(t))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	loose, strict, none, plain := port(), port(), port(), port()
	w := rig.NewWeChat(t)
	c := rig.StartCaddy(t, "{\ndefault_bind 127.0.0.1\nservers 127.0.0.1:"+loose+" {\nname loose\ntrusted_proxies static private_ranges\n}\n"+
		"servers 127.0.0.1:"+strict+" {\nname strict\ntrusted_proxies static private_ranges\ntrusted_proxies_strict\n}\n"+
		"servers 127.0.0.1:"+plain+" {\nname plain\ntrusted_proxies static private_ranges\n}\n}\n"+
		site(loose)+strings.Replace(site(loose), "http://127.0.0.1:", "http://localhost:", 1)+site(strict)+site(none)+
		"http://127.0.0.1:"+plain+" {\nrespond ok\n}\n", w.Environ("127.0.0.1:1")...)
	lines := c.Log.Lines(notStrict)
	if len(lines) != 1 || !strings.Contains(lines[0], `"server":"loose"`) || !strings.Contains(lines[0], "add trusted_proxies_strict") {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
	for name, options := range map[string]string{
		"a Unix socket":         "servers {\ntrusted_proxies_unix\n}",
		"a Unix socket, strict": "servers {\ntrusted_proxies_unix\ntrusted_proxies_strict\n}",
		"strict":                rig.TrustedLoopback,
		"none":                  "",
	} {
		c := rig.StartCaddy(t, rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}", options),
			w.Environ("127.0.0.1:1")...)
		if got := len(c.Log.Lines(notStrict)); (got == 1) != (name == "a Unix socket") || got > 1 {
			t.Errorf("%s: %d warnings", name, got)
		}
	}
}

// With the documented settings, no header that a client sends changes the address by which its
// logins and wrong keys are counted.
func TestForgedForwardedForChangesNobody(t *testing.T) {
	t.Parallel()
	r := rig.NewGatewayWith(t, crowdSite("login_rate 3/h", withKey))
	const mine = "203.0.113.66" // as the proxy in front of us writes it
	forged := func(i int) string {
		return []string{
			fmt.Sprintf("198.51.100.%d, %s", i, mine), fmt.Sprintf("10.0.0.%d,%s", i, mine), fmt.Sprintf("%s, 127.0.0.1", mine),
			"unknown, " + mine, "\", " + mine, mine + ":1234", "::ffff:" + mine, fmt.Sprintf("[2001:db8::%d]:1, %s", i, mine), ",,, " + mine, mine + ", _hidden",
		}[i%10]
	}
	for i := range 3 {
		r.Do(http.MethodPost, "/auth/wx", map[string]string{"code": fmt.Sprint("0nonsense", i)}, "X-Forwarded-For: "+forged(i)).Want(t, 400)
	}
	for i := range 20 {
		r.Do(http.MethodPost, "/auth/wx", map[string]string{"code": fmt.Sprint("0nonsense", i)}, "X-Forwarded-For: "+forged(i),
			"X-Real-IP: 198.51.100.9", "Forwarded: for=198.51.100.9").WantProblem(t, 429, "rate_limited", nil)
	}
	for i := range 10 {
		r.Do(http.MethodGet, userPath+noSuchUserID, nil, "Authorization: Bearer guess", "X-Forwarded-For: "+forged(i)).Want(t, 401)
	}
	for i := range 10 {
		r.Do(http.MethodGet, userPath+noSuchUserID, nil, "Authorization: Bearer guess", "X-Forwarded-For: "+forged(i)).Want(t, 429)
	}
	// The IPv6 network of a subscriber counts as one client, however its addresses are
	// written.
	for i, address := range []string{"2001:db8:7:7::1", "2001:db8:7:7:ffff::2", "2001:DB8:7:7::3%eth0"} {
		loginFrom(r.Client, address, fmt.Sprint("0six", i), "").Want(t, 400)
	}
	loginFrom(r.Client, "2001:db8:7:7:1:2:3:4", "0six", "").Want(t, 429)
	loginFrom(r.Client, "2001:db8:7:8::1", "0six", "").Want(t, 400)
}

// If Caddy does not know a client's address, the limit is off, and one log line says
// what to do.
func TestUnknownClientsAreNotLimited(t *testing.T) {
	t.Parallel()
	r := rig.NewGatewayWith(t, crowdSite("login_rate 1/h"))
	for i, address := range []string{"127.0.0.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.1.1", "100.64.0.1", "::1", "fe80::1", "fd00::1", "::ffff:10.1.2.3", "0.0.0.0", "nobody", ""} {
		for range 3 {
			if a := loginFrom(r.Client, address, fmt.Sprint("0nonsense", i), ""); a.Status != 400 {
				t.Errorf("%q: %d %s", address, a.Status, a.Body)
			}
		}
	}
	lines := r.Caddy.Log.Lines("login_rate, and the limit of wrong service keys, are off")
	if len(lines) != 1 || !strings.Contains(lines[0], "trusted_proxies static private_ranges") || !strings.Contains(lines[0], "trusted_proxies_strict") {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
	loginFrom(r.Client, "100.128.0.1", "0nonsense", "").Want(t, 400)
	loginFrom(r.Client, "100.128.0.1", "0nonsense", "").Want(t, 429)
}

// Over a Unix socket, trusted_proxies has no effect. The log line names the setting that does.
// With that setting, clients can be told apart.
func TestUnixSocketHasItsRemedy(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	for name, options := range map[string]string{
		"trusted_proxies": rig.TrustedLoopback,
		"unix":            "servers {\ntrusted_proxies_unix\ntrusted_proxies_strict\n}",
	} {
		c := rig.NewCaddy(t, w.Environ("127.0.0.1:1")...)
		socket := filepath.Join(c.Home, "site.sock")
		c.Start("{\ndebug\n" + options + "\n}\nhttp:// {\nbind unix/" + socket + "\nwx_auth {env.WX_APPID} {env.WX_SECRET} {\nlogin_rate 1/h\nwechat {\napi {$WX_API}\n}\n}\n}\n")
		client := rig.NewClient(t, "http://localhost")
		client.HTTP.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
		loginFrom(client, "203.0.113.7", "0nonsense", "").Want(t, 400)
		second := loginFrom(client, "203.0.113.7", "0nonsense", "")
		if name == "unix" {
			second.Want(t, 429)
			loginFrom(client, "203.0.113.8", "0nonsense", "").Want(t, 400)
			if lines := c.Log.Lines("are off"); len(lines) > 0 {
				t.Errorf("%q", lines)
			}
			continue
		}
		second.Want(t, 400)
		if line := c.Log.Wait(t, 20*time.Second, "are off", "Unix socket"); !strings.Contains(line, "trusted_proxies_unix") || strings.Contains(line, "private_ranges") {
			t.Error(line)
		}
	}
}
