package logins

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

var goroutineTotal = regexp.MustCompile(`(?m)^goroutine profile: total (\d+)`)

// goroutines returns the number of goroutines of the process, and the profile that
// shows where they are.
func goroutines(t testing.TB, c *rig.Caddy) (int, string) {
	t.Helper()
	profile, err := c.Admin("/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	m := goroutineTotal.FindStringSubmatch(profile)
	if m == nil {
		t.Fatalf("no goroutine profile: %.200s", profile)
	}
	n, _ := strconv.Atoi(m[1])
	return n, profile
}

// A thousand logins a minute arrive while WeChat is down. None may hang or spend a
// code, and users with a token must notice nothing.
func TestWeChatIsDown(t *testing.T) {
	for _, down := range []wechattest.Kind{wechattest.Reset, wechattest.Delay} {
		t.Run(string(down), func(t *testing.T) {
			t.Parallel()
			outage := time.Duration(rig.Rounds(6, 60)) * time.Second
			r := rig.NewGatewayWith(t, rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\ntimeout 1s\n}\n}\nreverse_proxy {$UPSTREAM}", rig.TrustedLoopback))
			w := r.WeChat
			pair := r.MustLogin(t, "13800138000")
			before, _ := goroutines(t, r.Caddy)

			fault := wechattest.Fault{Kind: down, Count: -1}
			if down == wechattest.Delay {
				fault.Delay = 8 * time.Second // HastySite waits for one second
			}
			if err := w.Inject(fault); err != nil {
				t.Fatal(err)
			}
			w.ResetCounts()
			var refused, served atomic.Int64
			user := rig.NewLoops(t)
			user.Go(10*time.Millisecond, func() bool {
				if a := r.Get("/", pair.Token); a.Err != nil || a.Status != http.StatusOK {
					t.Errorf("with a good token: %d, %v", a.Status, a.Err)
					return false
				}
				served.Add(1)
				return true
			})
			var codes []wechattest.Codes
			var logins sync.WaitGroup
			most := 0
			beat := time.NewTicker(time.Minute / 1000)
			defer beat.Stop()
			for start := time.Now(); time.Since(start) < outage; <-beat.C {
				c := w.Tap(t, fmt.Sprintf("137%08d", len(codes)))
				codes = append(codes, c)
				address := fmt.Sprintf("X-Forwarded-For: 198.51.100.%d", len(codes)%200)
				logins.Go(func() {
					a := r.Do(http.MethodPost, "/auth/wx", map[string]string{"code": c.Code, "phoneCode": c.PhoneCode}, address)
					switch {
					case a.Err != nil:
						t.Error(a.Err)
					case a.Status == 503 && strings.Contains(a.Body, `"renew":[]`) && a.Header.Get("Retry-After") != "":
						refused.Add(1)
					case a.Status != 504 || down != wechattest.Delay || !strings.Contains(a.Body, `"renew":[]`):
						t.Errorf("WeChat is down: %d %s", a.Status, a.Body)
					}
				})
				if len(codes)%20 == 0 {
					n, _ := goroutines(t, r.Caddy)
					most = max(most, n)
				}
			}
			asked := w.Count(wechattest.Code2Session).Total
			w.ClearFaults()
			rig.Await(t, 15*time.Second, "logins work again", func() bool {
				c := w.Tap(t, "13900139000")
				return r.Login(c.Code, c.PhoneCode).Status == http.StatusOK
			})
			logins.Wait()
			user.End()

			if int(refused.Load()) < len(codes)/2 {
				t.Errorf("of %d logins %d were answered with 503", len(codes), refused.Load())
			}
			if served.Load() == 0 {
				t.Error("nobody used a token meanwhile")
			}
			// At 17 logins a second, at most about a hundred calls are made until the
			// tenth failure, and then one probe every few seconds.
			if asked > 120 {
				t.Errorf("WeChat was asked %d times while it was down", asked)
			}
			if most > before+600 {
				t.Errorf("%d goroutines, at first %d", most, before)
			}
			// No code was wasted: the same codes work now.
			for i := range min(len(codes), 10) {
				c := codes[len(codes)-1-i]
				r.Login(c.Code, c.PhoneCode).Pair(t)
			}
			for _, p := range w.PhoneCodes() {
				if p.Lost {
					t.Errorf("a phone code was lost: %+v", p)
				}
			}
		})
	}
}

// WeChat is slow, and as many calls as allowed are under way. Further logins get 503 at
// once, with their codes unspent.
func TestLoginsBeyondTheCapMustWait(t *testing.T) {
	t.Parallel()
	const most, beyond = 128, 10 // calls under way, and logins on top of them
	r := rig.NewGateway(t)
	w := r.WeChat
	release := held(t, w, wechattest.Fault{Call: wechattest.Code2Session, Count: most})
	codes := make([]wechattest.Codes, most+beyond)
	for i := range codes {
		codes[i] = w.Tap(t, fmt.Sprintf("137%08d", i))
	}
	answers := make([]rig.Answer, most+beyond)
	var first sync.WaitGroup
	for i := range most {
		first.Go(func() { answers[i] = r.Login(codes[i].Code, codes[i].PhoneCode) })
	}
	waitUntil(t, "the calls are under way", func() bool { return w.Count(wechattest.Code2Session).Total == most })
	rig.AtOnce(beyond, func(i int) { answers[most+i] = r.Login(codes[most+i].Code, codes[most+i].PhoneCode) })
	for _, a := range answers[most:] {
		wantRefusal(t, a, 503, "wechat_unavailable", nothing)
		if a.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	if n := w.Count(wechattest.Code2Session).Total; n != most {
		t.Errorf("%d calls", n)
	}
	release()
	first.Wait()
	for _, a := range answers[:most] {
		a.Pair(t)
	}
	for _, c := range codes[most:] {
		r.Login(c.Code, c.PhoneCode).Pair(t)
	}
}

// WeChat takes three seconds for each call. The login must still succeed.
func TestSlowWeChatStillLogsIn(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	c := rig.StartCaddy(t, rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}"),
		w.Environ("127.0.0.1:1")...)
	for _, call := range []wechattest.Call{wechattest.Code2Session, wechattest.PhoneNumber} {
		if err := w.Inject(wechattest.Fault{Call: call, Kind: wechattest.Delay, Delay: 3 * time.Second, Late: true}); err != nil {
			t.Fatal(err)
		}
	}
	codes := w.Tap(t, "13800138000")
	c.Client().Login(codes.Code, codes.PhoneCode).Pair(t)
	rig.WantCalls(t, w, 1, 1)
}

// An impostor in WeChat's place, without its certificate, must not receive a code or
// the secret.
func TestWeChatWithoutItsCertificate(t *testing.T) {
	t.Parallel()
	var reached atomic.Int64
	count := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	secure := httptest.NewTLSServer(count)
	defer secure.Close()
	plain := httptest.NewServer(count)
	defer plain.Close()
	for name, api := range map[string]string{"a certificate of nobody": secure.URL, "no TLS": strings.Replace(plain.URL, "http:", "https:", 1)} {
		w := rig.NewWeChat(t)
		c := rig.StartCaddy(t, rig.HastySite(), append(w.Environ("127.0.0.1:1"), "WX_API="+api)...)
		codes := w.Tap(t, "13800138000")
		p := wantRefusal(t, c.Client().Login(codes.Code, codes.PhoneCode), 503, "wechat_unavailable", nothing)
		if line := c.Line(t, p.RequestID); line["level"] != "warn" || !strings.Contains(fmt.Sprint(line["cause"]), "certificate") && !strings.Contains(fmt.Sprint(line["cause"]), "TLS") {
			t.Errorf("%s: the log's line: %v", name, line)
		}
	}
	if reached.Load() != 0 {
		t.Error("a request was made")
	}
}

// Errcode 45011 may be about the limit of one user. If one client meets it, others are
// not stopped; if five do, the app pauses.
func TestMinuteQuotaMetBySeveralClients(t *testing.T) {
	t.Parallel()
	proxies := "servers {\ntrusted_proxies static 127.0.0.1/32\ntrusted_proxies_strict\n}"
	w := rig.NewWeChat(t)
	c := rig.StartCaddy(t, rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}", proxies),
		w.Environ("127.0.0.1:1")...)
	client := c.Client()
	from := func(last int, codes wechattest.Codes) rig.Answer {
		return client.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode}, fmt.Sprintf("X-Forwarded-For: 198.51.100.%d", last))
	}
	limited := func(last int) {
		t.Helper()
		a := from(last, w.Tap(t, "13800138000"))
		wantRefusal(t, a, 503, "wechat_unavailable", nothing)
		if wait, _ := strconv.Atoi(a.Header.Get("Retry-After")); wait < 50 || wait > 60 {
			t.Errorf("Retry-After %d", wait)
		}
	}
	limit := wechattest.Fault{Call: wechattest.Code2Session, Kind: wechattest.Errcode, Errcode: 45011, Count: -1}
	if err := w.Inject(limit); err != nil {
		t.Fatal(err)
	}
	for range 12 {
		limited(1)
	}
	w.ClearFaults()
	from(2, w.Tap(t, "13900139000")).Pair(t)

	if err := w.Inject(limit); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		limited(10 + i)
	}
	asked := w.Count(wechattest.Code2Session).Total
	limited(20)
	if n := w.Count(wechattest.Code2Session).Total; n != asked {
		t.Error("WeChat was asked although the app's limit is met")
	}
}

// A pause of one of WeChat's calls does not affect the other one: known users still log
// in silently.
func TestPausedCallLeavesTheOtherAlone(t *testing.T) {
	for name, tc := range map[string]struct {
		fault wechattest.Fault
		tries int // until the gateway stops making the call
	}{
		"the day's quota is used up": {wechattest.Fault{Kind: wechattest.Errcode, Errcode: 45009, Count: -1}, 1},
		"it fails all the time":      {wechattest.Fault{Kind: wechattest.Reset, Count: -1}, 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rig.NewGateway(t)
			w := r.WeChat
			r.MustLogin(t, "13800138000")
			tc.fault.Call = wechattest.PhoneNumber
			if err := w.Inject(tc.fault); err != nil {
				t.Fatal(err)
			}
			for i := range tc.tries {
				c := w.Tap(t, fmt.Sprintf("137%08d", i))
				wantRefusal(t, r.Login(c.Code, c.PhoneCode), 503, "wechat_unavailable", nothing)
			}
			asked := w.Count(wechattest.PhoneNumber).Total
			c := w.Tap(t, "13900139000")
			a := r.Login(c.Code, c.PhoneCode)
			wantRefusal(t, a, 503, "wechat_unavailable", nothing)
			if a.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			if n := w.Count(wechattest.PhoneNumber).Total; n != asked {
				t.Error("the call was made in its pause")
			}
			r.Silent(w.Open(t, "13800138000").Code).Pair(t)
		})
	}
}

// A team fetches access tokens by a central service, which the gateway asks instead of
// WeChat.
func TestAccessTokenOfACentralService(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	for _, format := range []string{"json", "bare"} {
		c := rig.StartCaddy(t, rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\naccess_token external {$WX_API}/central/token?appid={appid}&format="+
			format+"\n}\n}\nreverse_proxy {$UPSTREAM}"), w.Environ("127.0.0.1:1")...)
		w.ResetCounts()
		client := c.Client()
		for i := range 5 {
			codes := w.Tap(t, fmt.Sprintf("138%08d", i))
			client.Login(codes.Code, codes.PhoneCode).Pair(t)
		}
		if n := w.Count(wechattest.CentralToken).Total; n != 1 {
			t.Errorf("%s: the service was asked %d times", format, n)
		}
		if n := w.Count(wechattest.StableToken).Total; n != 0 {
			t.Errorf("%s: WeChat was asked for a token", format)
		}
	}
}
