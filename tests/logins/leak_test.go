package logins

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// exampleLogFilter returns the global `log` block of Caddyfile.example.
func exampleLogFilter(t testing.TB) string {
	t.Helper()
	example, err := os.ReadFile("../../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile(`(?ms)^\tlog \{\n.*?^\t\}\n`).FindString(string(example))
	if block == "" {
		t.Fatal("Caddyfile.example has no log block")
	}
	return block
}

// noisySite logs everything that Caddy can: at DEBUG, with access logs in the process's
// log.
func noisySite(apps int, options ...string) string {
	var lines strings.Builder
	for i := range apps {
		fmt.Fprintf(&lines, "app wx%016x {env.MINI_SECRET}\n", i)
	}
	return rig.Site("log\nwx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\nrealm simulator\ntimeout 300ms\n}\npublic /open\noptional /maybe\n"+
		lines.String()+"}\nreverse_proxy {$UPSTREAM}", options...)
}

// Everything that clients, WeChat and operators can do is done at DEBUG level. No code,
// token, secret or phone number may be in any log.
func TestNoSecretIsInAnyLog(t *testing.T) {
	t.Parallel()
	var faults []wechattest.Fault
	for _, call := range []wechattest.Call{wechattest.Code2Session, wechattest.StableToken, wechattest.PhoneNumber} {
		for _, row := range errcodeTables[call] {
			faults = append(faults, wechattest.Fault{Call: call, Kind: wechattest.Errcode, Errcode: row.errcode, Count: -1})
		}
		for _, bad := range transportCases {
			f := wechattest.Fault{Call: call, Kind: bad.kind, Count: -1}
			if bad.kind == wechattest.Delay {
				f.Delay = 5 * time.Second
			}
			once := f
			once.Count, once.Late = 1, true
			faults = append(faults, f, once)
		}
	}
	w, up := rig.NewWeChat(t), rig.NewUpstream(t)
	for i := range faults {
		if err := w.AddApp(wechattest.App{ID: fmt.Sprintf("wx%016x", i), Secret: miniSecret, OpenPlatform: "platform"}); err != nil {
			t.Fatal(err)
		}
	}
	c := rig.StartCaddy(t, noisySite(len(faults), exampleLogFilter(t), "metrics"), append(w.Environ(up.Addr), "MINI_SECRET="+miniSecret)...)
	client := c.Client()
	h := &rig.Hoard{W: w}
	post := func(path string, body any, headers ...string) rig.Answer {
		return client.Do(http.MethodPost, path, body, headers...)
	}
	login := func(appid string, codes wechattest.Codes) rig.Answer {
		return post("/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": appid})
	}
	// tapped logs in, which must succeed; on a busy machine WeChat may seem late.
	tapped := func(number string) rig.Pair {
		t.Helper()
		for range 4 {
			codes := w.Tap(t, number)
			if a := login(rig.AppID, codes); a.Status != http.StatusGatewayTimeout {
				return a.Pair(t)
			}
		}
		t.Fatal("WeChat seems late again and again")
		panic("unreachable")
	}
	var refusals []rig.Answer
	refused := func(a rig.Answer) {
		t.Helper()
		if a.Err != nil || a.Status < 400 {
			t.Errorf("not refused: %d %v %s", a.Status, a.Err, a.Body)
		}
		refusals = append(refusals, a)
	}

	// Every endpoint is called in every way that matters.
	codes := w.Tap(t, "13800138000")
	p := h.Pair(login(rig.AppID, codes).Pair(t))
	h.Pair(login(rig.AppID, codes).Pair(t)) // the same codes again
	silent := h.Pair(post("/auth/wx", map[string]string{"code": w.Open(t, "13800138000").Code, "appid": rig.AppID}).Pair(t))
	refused(post("/auth/wx", map[string]string{"code": w.Open(t, "13600136000").Code, "appid": rig.AppID}))
	other := h.Pair(tapped("13700137000"))
	next := h.Pair(client.Refresh(p.RefreshToken).Pair(t))
	h.Pair(client.Refresh(p.RefreshToken).Pair(t))
	third := h.Pair(client.Refresh(next.RefreshToken).Pair(t))
	for _, path := range []string{"/auth/wx/me", "/auth/wx/sessions", "/auth/wx/verify", "/auth/wx/jwks.json", "/auth/wx/health"} {
		if a := client.Get(path, third.Token); a.Status >= 300 {
			t.Errorf("%s: %d %s", path, a.Status, a.Body)
		}
	}
	for _, path := range []string{"/api", "/open", "/maybe", "/api?q=1"} {
		client.Get(path, third.Token, "X-Marker: harmless-marker").Want(t, 200)
	}
	if seen := up.Last(t); seen.Header.Get("X-Wx-Phone") != "+8613800138000" {
		t.Errorf("the upstream got no phone number: %v", seen.Header)
	}
	for _, bad := range []string{third.Token[:len(third.Token)-4], third.Token + "x", strings.ToUpper(third.Token), "Bearer " + third.Token} {
		h.Add(bad)
		refused(client.Get("/api", bad))
		refused(client.Get("/auth/wx/me", bad))
		refused(client.Get("/auth/wx/verify", bad))
		refused(client.Refresh(bad))
		refused(client.Logout(bad, "", false))
	}
	refused(client.Get("/api", "", "Authorization: "+third.Token))
	refused(client.Refresh(p.RefreshToken)) // two newer ones exist: reuse
	refused(client.Refresh(third.RefreshToken))
	refused(client.Get("/api", third.Token)) // its session has ended
	refused(client.Refresh(third.RefreshToken[:len(third.RefreshToken)-3] + "AAA"))
	client.Do(http.MethodDelete, "/auth/wx/sessions/"+rig.SessionOf(t, silent.Token), nil, rig.Bearer(silent.Token)...).Want(t, 204)
	// Somebody changes their number. The old number must not be logged either.
	change := func(number string) rig.Answer {
		return client.ChangePhone(other.Token, w.NewNumber(t, rig.AppID, "+8613700137000", number))
	}
	var moved rig.Answer
	rig.Await(t, time.Minute, "WeChat does not seem late", func() bool {
		moved = change("13700137009")
		return moved.Status != http.StatusGatewayTimeout
	})
	h.Add(moved.Changed(t).Token)
	rig.Await(t, time.Minute, "WeChat does not seem late", func() bool {
		moved = change("13800138000") // this number has an owner
		return moved.Status != http.StatusGatewayTimeout
	})
	moved.WantProblem(t, http.StatusConflict, "phone_taken", nil)
	refused(moved)
	refused(client.ChangePhone(other.Token, third.Token))
	client.Logout(other.Token, other.RefreshToken, true).Want(t, 204)
	refused(client.Get("/auth/wx/sessions", other.Token))
	refused(change("13700137001"))

	// Bad input contains secrets.
	paid := w.Tap(t, "13500135000")
	for _, body := range []string{
		fmt.Sprintf(`{"code":%q,"code":%q}`, paid.Code, paid.PhoneCode), fmt.Sprintf(`{"code":[%q]}`, paid.Code), paid.PhoneCode,
		fmt.Sprintf(`{"code":%q,"appid":%q}`, paid.Code, paid.PhoneCode), fmt.Sprintf(`{%q:%q}`, paid.Code, paid.PhoneCode),
		fmt.Sprintf(`{"code":%q} %s`, paid.Code, paid.PhoneCode), "{\"code\":\"" + paid.Code + "\xff\"}", fmt.Sprintf(`{"code":%q,`, paid.Code),
	} {
		refused(post("/auth/wx", body))
		refused(post("/auth/wx/refresh", body))
		refused(post("/auth/wx/logout", body))
	}
	refused(login(rig.AppID, wechattest.Codes{Code: paid.PhoneCode, PhoneCode: paid.Code})) // swapped
	refused(login(rig.AppID, wechattest.Codes{Code: w.Open(t, "13400134000").Code, PhoneCode: paid.PhoneCode}))

	// WeChat fails in every way. Its errmsg may repeat what the gateway sent.
	for i, f := range faults {
		appid := fmt.Sprintf("wx%016x", i)
		codes, err := w.Mint(appid, "", wechattest.Phone{Number: "13800138000"})
		if err != nil {
			t.Fatal(err)
		}
		if f.Kind == wechattest.Errcode {
			f.Errmsg = "invalid ip 203.0.113.77, code " + codes.Code + " " + codes.PhoneCode + " secret " + miniSecret + " rid: 65713974-7970e3f9-1a07ebbf"
		}
		if err := w.Inject(f); err != nil {
			t.Fatal(err)
		}
		a := login(appid, codes)
		w.ClearFaults()
		if a.Status == 200 && f.Call == wechattest.StableToken && f.Late {
			h.Pair(a.Pair(t))
		} else {
			refused(a)
		}
		if f.Kind != wechattest.Errcode { // not too many failures in a row
			h.Pair(tapped("13800138000"))
		}
	}
	// WeChat, the upstream and the store are down.
	c.Setenv("WX_API", "http://127.0.0.1:1")
	c.Setenv("UPSTREAM", "127.0.0.1:1")
	last := h.Pair(tapped("13800138000"))
	if err := c.Reload(noisySite(len(faults), exampleLogFilter(t), "metrics")); err != nil {
		t.Fatal(err)
	}
	refused(login(rig.AppID, w.Tap(t, "13800138000")))
	refused(client.Get("/api", last.Token, "X-Marker: gone-marker"))
	unlock := c.Lock(t)
	refused(client.Refresh(last.RefreshToken))
	unlock()

	shown := c.Shown(t)
	key, err := os.ReadFile(c.StoreFile() + ".key")
	if err != nil {
		t.Fatal(err)
	}
	c.Stop()
	log := c.Log.String()
	h.Add(strings.Fields(string(key))...)
	all := h.Search()

	all.WantNone(t, "the log", log)
	for where, text := range shown {
		all.WantNone(t, where, text)
	}
	for _, a := range refusals {
		all.WantNone(t, "an error's body", a.Body)
		for name, values := range a.Header {
			all.WantNone(t, "header "+name+" of an error", strings.Join(values, " "))
		}
	}
	if strings.Contains(log, "jscode2session?") || strings.Contains(log, "access_token=") || strings.Contains(log, "secret=") {
		t.Error("a URL of WeChat's is in the log")
	}

	// Check that the search can find something: the log is complete, and the collected
	// secrets are the right ones.
	for what, texts := range map[string][]string{
		"a line of ours":                 {`"logger":"http.handlers.wx_auth"`, `"msg":"login"`, "+86138****8000"},
		"a change of ours":               {`"logger":"http.handlers.wx_auth"`, `"msg":"change of number"`, "+86137****7009"},
		"a refusal of ours":              {`"logger":"http.handlers.wx_auth"`, "login refused", `"errcode":40164`, `"ip":"203.0.113.77"`},
		"a debug line of the proxy":      {`"level":"debug"`, "upstream roundtrip", `"X-Wx-Phone":"REDACTED"`},
		"an access line":                 {`"logger":"http.log.access`, "handled request", "harmless-marker", `"Authorization":["REDACTED"]`},
		"an error line":                  {`"logger":"http.log.error`, "gone-marker", `"Authorization":["REDACTED"]`},
		"a login's access line":          {`"logger":"http.log.access`, `"uri":"/auth/wx"`, `"status":200`},
		"the alarm about a stolen token": {`"level":"warn"`, "refresh token", `"session"`},
	} {
		if len(c.Log.Lines(texts...)) == 0 {
			t.Errorf("%s is not in the log", what)
		}
	}
	if n := len(c.Log.Lines("login refused")); n < len(faults)/2 {
		t.Errorf("only %d refused logins are in the log", n)
	}
	if lines := c.Log.Lines(`"uri":"/auth/wx/verify"`); len(lines) != 0 {
		t.Errorf("/verify is in the access log, with the identity in its answer: %s", lines[0])
	}
	if !strings.Contains(shown["/metrics"], "caddy_wx_auth_logins_total") || !strings.Contains(shown["/config/"], "{env.WX_SECRET}") || !strings.Contains(shown["autosave.json"], "{env.WX_SECRET}") {
		t.Error("what was searched is not what it should be")
	}
	if n := len(h.All()); n < 3*len(faults) || len(all.In("x "+miniSecret+" y")) != 1 || len(all.In("x "+last.Token+" y")) != 1 || len(all.In("to 13800138000")) != 1 {
		t.Errorf("%d secrets: the search is not as sharp as it should be", n)
	}
}

// What we log is clean without a filter. At DEBUG, Caddy's own reverse_proxy logs the
// headers that it sends upstream, including our identity headers. A plugin cannot
// change that: the proxy's own logger writes the line, about the request that must
// carry the header. That is why Caddyfile.example has a filter. This test shows what
// the filter is for, and will fail if Caddy changes.
func TestOnlyCaddysOwnDebugLineShowsThePhone(t *testing.T) {
	t.Parallel()
	w, up := rig.NewWeChat(t), rig.NewUpstream(t)
	c := rig.StartCaddy(t, noisySite(0), w.Environ(up.Addr)...)
	client := c.Client()
	codes := w.Tap(t, "13800138000")
	p := client.Login(codes.Code, codes.PhoneCode).Pair(t)
	client.Get("/api", p.Token).Want(t, 200)
	client.Get("/auth/wx/verify", p.Token).Want(t, 204)
	c.Stop()
	h := &rig.Hoard{W: w}
	h.Pair(p)
	all := h.Search()
	own := 0
	for line := range strings.Lines(c.Log.String()) {
		if strings.Contains(line, `"level":"debug","`) && strings.Contains(line, `"logger":"http.handlers.reverse_proxy","msg":"upstream roundtrip"`) {
			if !strings.Contains(line, `"X-Wx-Phone":["+8613800138000"]`) {
				t.Errorf("Caddy's debug line shows no phone number any more: the filter of Caddyfile.example may go: %s", line)
			}
			own++
			line = strings.ReplaceAll(line, `"X-Wx-Phone":["+8613800138000"]`, "")
		}
		all.WantNone(t, "the log", line)
	}
	if own != 1 {
		t.Errorf("%d debug lines of the proxy, want 1", own)
	}
}
