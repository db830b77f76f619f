package logins

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// crowdSite is a site at which each request chooses its client's address.
func crowdSite(options ...string) string {
	return rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\ntimeout 1s\n}\n"+
		strings.Join(options, "\n")+"\n}\nreverse_proxy {$UPSTREAM}", rig.TrustedLoopback)
}

func from(address string) string { return "X-Forwarded-For: " + address }

// loginFrom logs in from an address; without phoneCode it is a silent login.
func loginFrom(c *rig.Client, address, code, phoneCode string) rig.Answer {
	body := map[string]string{"code": code}
	if phoneCode != "" {
		body["phoneCode"] = phoneCode
	}
	return c.Do(http.MethodPost, "/auth/wx", body, from(address))
}

// A code that cannot be WeChat's is refused before WeChat is asked, and counts against no
// client. A code of the right shape goes to WeChat unchanged.
func TestShapeOfCodes(t *testing.T) {
	t.Parallel()
	r := rig.NewGatewayWith(t, crowdSite("login_rate 3/m"))
	good := r.WeChat.Tap(t, "13800138000")
	for name, odd := range map[string]string{
		"257 characters": strings.Repeat("x", 257), "3.9 KB": strings.Repeat("x", 3900), "a blank": "0a b", "blank at the end": "0ab ",
		"a tab": "0a\tb", "a line end": "0ab\n", "NUL": "0a\x00b", "DEL": "0a\x7fb", "beyond ASCII": "0é", "Chinese": "令牌", "an emoji": "0😀",
		"a bidi mark": "0a\u202eb", "full width": "０ａ", "no-break blank": "0a\u00a0b", "the mock code": "the code is a mock one",
	} {
		t.Run(name, func(t *testing.T) {
			wantRefusal(t, loginFrom(r.Client, "203.0.113.5", odd, ""), 400, "invalid_request", nothing)
			wantRefusal(t, loginFrom(r.Client, "203.0.113.5", odd, good.PhoneCode), 400, "invalid_request", nothing)
			wantRefusal(t, loginFrom(r.Client, "203.0.113.5", good.Code, odd), 400, "invalid_request", nothing)
		})
	}
	if n := r.WeChat.Asked(); n != 0 {
		t.Errorf("WeChat was asked %d times", n)
	}
	for _, code := range []string{strings.Repeat("~", 256), "!", `&js_code=x%00\"<>`} {
		wantRefusal(t, loginFrom(r.Client, "203.0.113.5", code, ""), 400, "login_code_invalid", loginCode)
	}
	wantRefusal(t, loginFrom(r.Client, "203.0.113.5", "0more", ""), 429, "rate_limited", nil)
	loginFrom(r.Client, "203.0.113.6", good.Code, good.PhoneCode).Pair(t)
}

// WeChat's edge server refuses one client's request. It must be sent only once and
// count for that client alone, while others log in. Once the edge server accepts it,
// the same codes work.
func TestEdgeRefusalIsTheRequestsFault(t *testing.T) {
	const rate = 11
	for _, call := range []wechattest.Call{wechattest.Code2Session, wechattest.PhoneNumber} {
		t.Run(string(call), func(t *testing.T) {
			t.Parallel()
			r := rig.NewGatewayWith(t, crowdSite(fmt.Sprintf("login_rate %d/m", rate)))
			w := r.WeChat
			// refused logs in with a code that the edge server refuses.
			refused := func(address string, status int) (wechattest.Codes, rig.Answer) {
				codes := w.TapAs(t, rig.AppID, "eve", wechattest.Phone{Number: "13900139000"})
				code := map[wechattest.Call]string{wechattest.Code2Session: codes.Code, wechattest.PhoneNumber: codes.PhoneCode}[call]
				if err := w.Inject(wechattest.Fault{Call: call, Kind: wechattest.Status, Status: status, Code: code, Count: -1}); err != nil {
					t.Fatal(err)
				}
				defer w.ClearFaults()
				return codes, loginFrom(r.Client, address, codes.Code, codes.PhoneCode)
			}
			for i, status := range []int{400, 403, 404, 412, 413, 414, 429, 431, 451} {
				eve, renew := fmt.Sprint("203.0.113.", i), nothing
				if status == 400 || status == 413 || status == 414 || status == 431 {
					renew = map[wechattest.Call][]string{wechattest.Code2Session: loginCode, wechattest.PhoneNumber: phoneCode}[call]
				}
				w.ResetCounts()
				for range rate {
					_, a := refused(eve, status)
					wantRefusal(t, a, 502, "wechat_error", renew)
				}
				if n := w.Count(call).Outcomes["status"]; n != rate {
					t.Errorf("%d: %d codes were sent %d times", status, rate, n)
				}
				_, a := refused(eve, status)
				wantRefusal(t, a, 429, "rate_limited", nil)
				codes, a := refused(fmt.Sprint("198.51.100.", i), status)
				a.Want(t, 502)
				loginFrom(r.Client, fmt.Sprint("198.51.100.", i), codes.Code, codes.PhoneCode).Pair(t)
			}
		})
	}
}

// An attacker sends 1,200 bad logins in a moment. WeChat gets no more of them than the rate
// allows. A neighbour behind the same address, who has good codes, waits only for seconds.
func TestBurstOfBadLogins(t *testing.T) {
	t.Parallel()
	const rate, burst = 30, 1200
	// WeChat's timeout is long enough for the burst, because an unanswered code is sent
	// again.
	r := rig.NewGatewayWith(t, strings.Replace(crowdSite(), "timeout 1s", "timeout 20s", 1))
	release := held(t, r.WeChat, wechattest.Fault{Call: wechattest.Code2Session, Count: rate})
	var limited atomic.Int64
	var all sync.WaitGroup
	turns := make(chan struct{}, 100) // bounds the connections of the test
	for i := range burst {
		all.Go(func() {
			if i >= rate { // the logins that WeChat holds stay open
				turns <- struct{}{}
				defer func() { <-turns }()
			}
			a := loginFrom(r.Client, "203.0.113.66", fmt.Sprint("0nonsense", i), "")
			if a.Status == http.StatusTooManyRequests {
				limited.Add(1)
				if wait, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || wait < 1 || wait > 60 || a.Header.Get("RateLimit") == "" {
					t.Errorf("Retry-After %q, RateLimit %q", a.Header.Get("Retry-After"), a.Header.Get("RateLimit"))
				}
			} else if a.Status != http.StatusBadRequest {
				t.Errorf("%d %v %s", a.Status, a.Err, a.Body)
			}
		})
	}
	waitUntil(t, "the burst is over", func() bool { return limited.Load() >= burst-2*rate })
	if n := r.WeChat.Count(wechattest.Code2Session).Total; n > rate {
		t.Errorf("%d reached WeChat while they were under way", n)
	}
	release()
	all.Wait()
	// The limit allows one more attempt for every two seconds that the machine takes.
	if n := r.WeChat.Count(wechattest.Code2Session).Total; n > 2*rate {
		t.Errorf("%d reached WeChat", n)
	}
	codes := r.WeChat.Tap(t, "13800138000")
	rig.Await(t, 30*time.Second, "the neighbour logs in", func() bool {
		a := loginFrom(r.Client, "203.0.113.66", codes.Code, codes.PhoneCode)
		if wait, _ := strconv.Atoi(a.Header.Get("Retry-After")); wait > 60 {
			t.Fatalf("the neighbour is to wait %d s", wait)
		}
		return a.Status == http.StatusOK
	})
	codes = r.WeChat.Tap(t, "13700137000")
	loginFrom(r.Client, "203.0.113.67", codes.Code, codes.PhoneCode).Pair(t)
}

// A client repeats a login with the same codes, during the first attempt or after it.
// The repeat is not counted, and neither is a login that succeeds.
func TestRepeatsAreNotCounted(t *testing.T) {
	t.Parallel()
	r := rig.NewGatewayWith(t, crowdSite("login_rate 2/h"))
	codes := r.WeChat.Tap(t, "13800138000")
	release := r.WeChat.Hold(t, wechattest.Code2Session)
	var all sync.WaitGroup
	answers := make([]rig.Answer, 10)
	for i := range answers {
		all.Go(func() { answers[i] = loginFrom(r.Client, "203.0.113.7", codes.Code, codes.PhoneCode) })
	}
	waitUntil(t, "WeChat is asked", func() bool { return r.WeChat.Count(wechattest.Code2Session).Total == 1 })
	time.Sleep(50 * time.Millisecond) // most of them join the first login; a late one is a replay
	release()
	all.Wait()
	for _, a := range answers {
		a.Pair(t)
	}
	for range 5 {
		loginFrom(r.Client, "203.0.113.7", codes.Code, codes.PhoneCode).Pair(t)
	}
	for i := range 10 {
		c := r.WeChat.Tap(t, fmt.Sprintf("137%08d", i))
		loginFrom(r.Client, "203.0.113.7", c.Code, c.PhoneCode).Pair(t)
	}
	for range 2 {
		wantRefusal(t, loginFrom(r.Client, "203.0.113.7", "0nonsense", ""), 400, "login_code_invalid", loginCode)
	}
	late := r.WeChat.Tap(t, "13600136000")
	wantRefusal(t, loginFrom(r.Client, "203.0.113.7", late.Code, late.PhoneCode), 429, "rate_limited", nil)
	loginFrom(r.Client, "203.0.113.8", late.Code, late.PhoneCode).Pair(t) // neither code was sent before
}

// A device logs in with the refresh token of its session, from an address that it
// shares with an attacker. The login is counted by the session. A made-up refresh token
// must not have that effect.
func TestLoginCountsByItsSession(t *testing.T) {
	t.Parallel()
	r := rig.NewGatewayWith(t, crowdSite("login_rate 2/h"))
	const shared = "203.0.113.66"
	login := func(codes wechattest.Codes, refreshToken string) rig.Answer {
		return r.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "refreshToken": refreshToken}, from(shared))
	}
	bad := func(i int) wechattest.Codes {
		return wechattest.Codes{Code: fmt.Sprint("0nonsense", i), PhoneCode: "0x"}
	}
	first := r.WeChat.Tap(t, "13800138000")
	ann := loginFrom(r.Client, shared, first.Code, first.PhoneCode).Pair(t)
	forged := ann.RefreshToken[:len(ann.RefreshToken)-4] + "AAAA"
	for i := range 2 {
		login(bad(i), forged).Want(t, 400)
	}
	login(bad(2), forged).WantProblem(t, 429, "rate_limited", nil)
	login(bad(2), strings.Repeat("x", 2000)).WantProblem(t, 429, "rate_limited", nil)
	login(r.WeChat.Tap(t, "13800138000"), ann.RefreshToken).Pair(t)
	for i := range 2 {
		login(bad(i), ann.RefreshToken).Want(t, 400)
	}
	login(bad(2), ann.RefreshToken).WantProblem(t, 429, "rate_limited", nil)
}

// An attacker sends a hundred wrong service keys at once: no more than ten may be
// compared. The right key works from any other address, and from that one within a
// minute.
func TestBurstOfWrongServiceKeys(t *testing.T) {
	t.Parallel()
	r := rig.NewGatewayWith(t, crowdSite(withKey))
	ask := func(key, address string) rig.Answer {
		return r.Do(http.MethodGet, userPath+noSuchUserID, nil, "Authorization: Bearer "+key, from(address))
	}
	var looked atomic.Int64
	rig.AtOnce(100, func(i int) {
		switch a := ask(fmt.Sprint("guess-", i), "203.0.113.66"); a.Status {
		case http.StatusUnauthorized:
			looked.Add(1)
		case http.StatusTooManyRequests:
			if wait, _ := strconv.Atoi(a.Header.Get("Retry-After")); wait < 1 || wait > 60 {
				t.Errorf("Retry-After %d", wait)
			}
		default:
			t.Errorf("%d %v", a.Status, a.Err)
		}
	})
	if n := looked.Load(); n < 10 || n > 13 { // one more is allowed every six seconds
		t.Errorf("%d were looked at", n)
	}
	rig.AtOnce(50, func(int) { ask(serviceKey, "203.0.113.67").WantProblem(t, http.StatusNotFound, "not_found", nil) })
	rig.Await(t, 30*time.Second, "the right key is taken again", func() bool {
		a := ask(serviceKey, "203.0.113.66")
		if wait, _ := strconv.Atoi(a.Header.Get("Retry-After")); wait > 60 {
			t.Fatalf("to wait %d s", wait)
		}
		return a.Status == http.StatusNotFound
	})
}

// Staging and production are sites of one Caddy and share a store. WeChat, or the
// source of access tokens, does not answer staging. Production must not notice.
func TestDeadStagingStopsNoProduction(t *testing.T) {
	t.Parallel()
	for name, staging := range map[string]string{
		"WeChat":       "api http://127.0.0.1:1",
		"token source": "api {$WX_API}\naccess_token external http://127.0.0.1:1/{appid}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, up := rig.NewWeChat(t), rig.NewUpstream(t)
			const stagingApp = "wxfedcba9876543210"
			if err := w.AddApp(wechattest.App{ID: stagingApp, Secret: rig.Secret}); err != nil {
				t.Fatal(err)
			}
			site := func(addr, appid, wechat string) string {
				return "http://" + addr + " {\nwx_auth " + appid + " {env.WX_SECRET} {\nstore sqlite:{$HOME}/shared.db\nwechat {\n" + wechat + "\n}\n}\nreverse_proxy {$UPSTREAM}\n}\n"
			}
			addr2 := rig.FreeAddress(t)
			c := rig.StartCaddy(t, "{\ndebug\ndefault_bind 127.0.0.1\n}\n"+site("{$ADDR}", "{env.WX_APPID}", "api {$WX_API}")+site("{$ADDR2}", stagingApp, staging),
				append(w.Environ(up.Addr), "ADDR2="+addr2)...)
			production, dead := c.Client(), rig.NewClient(t, "http://"+addr2)
			for i := range 30 {
				codes := w.TapAs(t, stagingApp, "", wechattest.Phone{Number: fmt.Sprintf("137%08d", i)})
				if a := dead.Login(codes.Code, codes.PhoneCode); a.Status != 503 {
					t.Fatalf("staging: %d %v %s", a.Status, a.Err, a.Body)
				}
				if i%3 == 2 {
					codes = w.Tap(t, fmt.Sprintf("138%08d", i))
					production.Login(codes.Code, codes.PhoneCode).Pair(t)
				}
			}
		})
	}
}
