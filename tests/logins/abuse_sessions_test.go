package logins

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// by logs in silently from an address with the refresh token of a session.
func by(r *rig.Gateway, address, code, refreshToken string) rig.Answer {
	return r.Do(http.MethodPost, "/auth/wx", map[string]string{"code": code, "refreshToken": refreshToken}, from(address))
}

// sessions logs one user in n times from an address.
func sessions(t *testing.T, r *rig.Gateway, address, number string, n int) []rig.Pair {
	t.Helper()
	codes := r.WeChat.Tap(t, number)
	pairs := []rig.Pair{loginFrom(r.Client, address, codes.Code, codes.PhoneCode).Pair(t)}
	for len(pairs) < n {
		pairs = append(pairs, loginFrom(r.Client, address, r.WeChat.Open(t, number).Code, "").Pair(t))
	}
	return pairs
}

// An attacker keeps the refresh tokens of 41 sessions, most of which have ended, and sends bad
// codes with each. It gets four times the rate in all, not a rate for each token. Others at its
// address are not charged for that, and those elsewhere do not notice.
func TestOldTokensAddNoAllowance(t *testing.T) {
	t.Parallel()
	const rate, eve, ann = 3, "203.0.113.5", "198.51.100.1"
	r := rig.NewGatewayWith(t, crowdSite(fmt.Sprintf("login_rate %d/h", rate)))
	pairs := sessions(t, r, eve, "13900139000", 41)
	for _, p := range pairs[len(pairs)/2:] {
		r.Logout(p.Token, "", false) // the others have ended by session { max }
	}
	r.WeChat.ResetCounts()
	passed := 0
	for i, p := range pairs {
		for j := range rate {
			switch a := by(r, eve, fmt.Sprintf("0eve%d-%d", i, j), p.RefreshToken); a.Status {
			case http.StatusBadRequest:
				passed++
			default:
				a.WantProblem(t, http.StatusTooManyRequests, "rate_limited", nil)
				if wait, _ := strconv.Atoi(a.Header.Get("Retry-After")); wait < 1 || wait > 3600 {
					t.Errorf("Retry-After %d", wait)
				}
			}
		}
	}
	if n := r.WeChat.Count(wechattest.Code2Session).Total; passed != 4*rate || n != passed {
		t.Errorf("%d bad logins passed, and WeChat saw %d; want %d", passed, n, 4*rate)
	}
	for i := range rate {
		wantRefusal(t, loginFrom(r.Client, eve, fmt.Sprint("0evenone", i), ""), http.StatusBadRequest, "login_code_invalid", loginCode)
	}
	wantRefusal(t, loginFrom(r.Client, eve, "0evenone", ""), http.StatusTooManyRequests, "rate_limited", nil)
	other := sessions(t, r, ann, "13800138000", 1)
	by(r, ann, r.WeChat.Open(t, "13800138000").Code, other[0].RefreshToken).Pair(t)
}

// An office has one address. Somebody there uses up its rate without a token, and with the
// tokens of two sessions. The others still log in again on their devices, and a mistake costs
// them only one attempt.
func TestOfficeLogsInByItsSessions(t *testing.T) {
	t.Parallel()
	const rate, office = 2, "203.0.113.66"
	r := rig.NewGatewayWith(t, crowdSite(fmt.Sprintf("login_rate %d/h", rate)))
	ann := sessions(t, r, office, "13800138000", 1)[0].RefreshToken
	tokens := []string{""}
	for _, p := range sessions(t, r, office, "13900139000", 2) {
		tokens = append(tokens, p.RefreshToken)
	}
	for i, token := range tokens {
		bad := func(j int) rig.Answer { return by(r, office, fmt.Sprintf("0eve%d-%d", i, j), token) }
		for j := range rate {
			wantRefusal(t, bad(j), http.StatusBadRequest, "login_code_invalid", loginCode)
		}
		wantRefusal(t, bad(rate), http.StatusTooManyRequests, "rate_limited", nil)
	}
	wantRefusal(t, by(r, office, "0mistake", ann), http.StatusBadRequest, "login_code_invalid", loginCode)
	by(r, office, r.WeChat.Open(t, "13800138000").Code, ann).Pair(t)
}

// One user has six sessions, and tries phone codes in each. Where the address is known, their
// changes of number are counted together, as logins are.
func TestChangesOfManySessions(t *testing.T) {
	t.Parallel()
	const eve = "203.0.113.5"
	r := rig.NewGatewayWith(t, crowdSite("login_rate 1/h"))
	change := func(p rig.Pair, code, address string) rig.Answer {
		return r.Do(http.MethodPost, "/auth/wx/phone", map[string]string{"phoneCode": code}, "Authorization: Bearer "+p.Token, from(address))
	}
	pairs := sessions(t, r, eve, "13900139000", 6)
	for i, p := range pairs[:4] {
		wantRefusal(t, change(p, fmt.Sprint("bad", i), eve), http.StatusBadRequest, "phone_code_invalid", phoneCode)
	}
	wantRefusal(t, change(pairs[4], "bad4", eve), http.StatusTooManyRequests, "rate_limited", nil)
	wantRefusal(t, change(pairs[5], "bad5", "198.51.100.1"), http.StatusBadRequest, "phone_code_invalid", phoneCode)
	ann := sessions(t, r, "198.51.100.2", "13800138000", 1)[0]
	wantRefusal(t, change(ann, "bad6", "198.51.100.2"), http.StatusBadRequest, "phone_code_invalid", phoneCode)
}

// WeChat is slow, and one client has more logins under way than there are slots for calls to
// WeChat: some without a token, the most with the tokens of its sessions. It gets half of the
// slots. The others log in at once.
func TestOneClientTakesHalfOfTheSlots(t *testing.T) {
	t.Parallel()
	const slots, eve = 128, "203.0.113.5"
	r := rig.NewGatewayWith(t, strings.Replace(crowdSite(), "timeout 1s", "timeout 20s", 1))
	pairs := sessions(t, r, eve, "13900139000", 5)
	r.WeChat.ResetCounts()
	release := held(t, r.WeChat, wechattest.Fault{Call: wechattest.Code2Session, Code: "0eve", Count: -1})
	var sent, refused atomic.Int64
	var all sync.WaitGroup
	attack := func(name, token string, n int) {
		for i := range n {
			sent.Add(1)
			all.Go(func() {
				switch a := by(r, eve, fmt.Sprintf("0eve%s-%d", name, i), token); a.Status {
				case http.StatusTooManyRequests:
					refused.Add(1)
				case http.StatusBadRequest: // the end of the test
				default:
					t.Errorf("%d %v %s", a.Status, a.Err, a.Body)
				}
			})
		}
	}
	attack("none", "", 30)
	for i, p := range pairs {
		attack(strconv.Itoa(i), p.RefreshToken, 24)
	}
	waitUntil(t, "the client has its slots, and waits for no more", func() bool { return refused.Load() >= sent.Load()-slots/2 })
	if n := r.WeChat.Count(wechattest.Code2Session).Total; n != slots/2 {
		t.Errorf("one client has %d calls under way, want %d", n, slots/2)
	}
	rig.AtOnce(20, func(i int) {
		codes := r.WeChat.Tap(t, fmt.Sprint(13700137000+i))
		loginFrom(r.Client, fmt.Sprint("198.51.100.", i), codes.Code, codes.PhoneCode).Pair(t)
	})
	release()
	all.Wait()
}
