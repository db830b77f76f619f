package wechattest_test

import (
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// All replicas that ask for a stable token get the same one.
func TestStableTokenIsTheSameToAll(t *testing.T) {
	b := newBench(t)
	var mu sync.Mutex
	seen := map[string]int{}
	together(8, func() {
		a, err := b.do("POST", "/cgi-bin/stable_token", stableBody(appID, secret, false))
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Error(err)
		}
		seen[a.AccessToken]++
	})
	if len(seen) != 1 {
		t.Fatalf("%d different tokens, want one", len(seen))
	}
	first := b.stable(false)
	if first.ExpiresIn != 7200 || len(first.AccessToken) != 512 {
		t.Errorf("expires_in %d and %d characters, want 7200 and 512", first.ExpiresIn, len(first.AccessToken))
	}
	b.Advance(6855 * time.Second)
	if again := b.stable(false); again.AccessToken != first.AccessToken || again.ExpiresIn != 345 {
		t.Errorf("later: same token %t, expires_in %d, want the remaining 345", again.AccessToken == first.AccessToken, again.ExpiresIn)
	}
}

// A stable token is replaced five minutes before its end, and both work in that time.
func TestStableTokenRotatesWithOverlap(t *testing.T) {
	b := newBench(t)
	first := b.stable(false).AccessToken
	b.Advance(2*time.Hour - 5*time.Minute - time.Second)
	if b.stable(false).AccessToken != first {
		t.Error("rotated more than five minutes before the end")
	}
	b.Advance(time.Second)
	second := b.stable(false)
	if second.AccessToken == first || second.ExpiresIn != 7200 {
		t.Errorf("not rotated five minutes before the end (expires_in %d)", second.ExpiresIn)
	}
	for _, token := range []string{first, second.AccessToken} {
		if got := b.works(token); got != "0" {
			t.Errorf("in the overlap a token answers %s", got)
		}
	}
	b.Advance(5 * time.Minute)
	if got := b.works(first); got != "42001" {
		t.Errorf("after its end the first token answers %s, want 42001", got)
	}
	if got := b.works(second.AccessToken); got != "0" {
		t.Errorf("the second token answers %s", got)
	}
}

// A forced refresh invalidates the former token at once, and WeChat limits how often it
// may be done.
func TestForcedRefreshKillsAndIsLimited(t *testing.T) {
	b := newBench(t)
	first := b.stable(false).AccessToken
	second := b.stable(true)
	if second.AccessToken == first || second.AccessToken == "" {
		t.Fatalf("forced refresh answered %s", second.Raw)
	}
	if got := b.works(first); got != "40001" {
		t.Errorf("the killed token answers %s, want 40001", got)
	}
	if got := b.stable(false).AccessToken; got != second.AccessToken {
		t.Error("others do not get the forced token")
	}
	b.Advance(29 * time.Second)
	b.want("29 s later", b.stable(true), "45011")
	if got := b.works(second.AccessToken); got != "0" {
		t.Errorf("a refused refresh killed the token: %s", got)
	}
	for i := 2; i <= 20; i++ {
		b.Advance(30 * time.Second)
		b.want("forced refresh within the quota", b.stable(true), "0")
	}
	b.Advance(30 * time.Second)
	b.want("the 21st of a day", b.stable(true), "45009")
	b.want("unforced after that", b.stable(false), "0")
	b.Advance(24 * time.Hour)
	b.want("the next day", b.stable(true), "0")
}

// Each fetch of a classic token invalidates the previous one five minutes later.
func TestClassicTokenKillsThePreviousOne(t *testing.T) {
	b := newBench(t)
	one := b.classic()
	if one.ExpiresIn != 7200 {
		t.Errorf("expires_in %d", one.ExpiresIn)
	}
	two := b.classic().AccessToken
	b.Advance(5*time.Minute - time.Second)
	for _, token := range []string{one.AccessToken, two} {
		if got := b.works(token); got != "0" {
			t.Errorf("within five minutes a token answers %s", got)
		}
	}
	b.Advance(time.Second)
	if got := b.works(one.AccessToken); got != "40001" {
		t.Errorf("the first token answers %s after five minutes, want 40001", got)
	}
	b.classic()
	b.classic()
	if got := b.works(two); got != "40001" {
		t.Errorf("two calls later the token answers %s, want 40001", got)
	}
}

// Stable and classic tokens do not invalidate each other.
func TestTokenKindsAreIsolated(t *testing.T) {
	b := newBench(t)
	classic := b.classic().AccessToken
	b.stable(false)
	b.stable(true)
	if got := b.works(classic); got != "0" {
		t.Errorf("a forced refresh touched the classic token: %s", got)
	}
	stable := b.stable(false).AccessToken
	b.classic()
	b.classic()
	if got := b.works(stable); got != "0" {
		t.Errorf("classic calls touched the stable token: %s", got)
	}
}

// A token that is missing, altered, or another app's is refused with WeChat's errcodes.
func TestBadAccessTokens(t *testing.T) {
	b := newBench(t)
	token := b.stable(false).AccessToken
	flip := "A"
	if token[511] == 'A' {
		flip = "B"
	}
	b.want("missing", b.phone("", "x", ""), "41001")
	b.want("no token at all", b.phone("nonsense", "x", ""), "40014")
	b.want("cut", b.phone(token[:511], "x", ""), "40014")
	b.want("unknown", b.phone(token[:511]+flip, "x", ""), "40001")
	b.Advance(2 * time.Hour)
	b.want("expired", b.phone(token, "x", ""), "42001")
}

// An operator resets the secret: all tokens stop working.
func TestRevokedAndRotatedTokens(t *testing.T) {
	b := newBench(t)
	stable, classic := b.stable(false).AccessToken, b.classic().AccessToken
	if err := b.RevokeTokens(appID); err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{stable, classic} {
		if got := b.works(token); got != "40001" {
			t.Errorf("a revoked token answers %s", got)
		}
	}
	stable, classic = b.stable(false).AccessToken, b.classic().AccessToken
	b.RotateTokens(appID)
	if got := b.works(stable); got != "40001" {
		t.Errorf("a stable token that another program replaced answers %s", got)
	}
	if got := b.works(classic); got != "0" {
		t.Errorf("a classic token that another program just replaced answers %s", got)
	}
	if b.RevokeTokens("wx9") == nil || b.RotateTokens("wx9") == nil {
		t.Error("no error for an unknown app")
	}
}

// An app's tokens may be given a short life, so that a test need not wait two hours.
func TestShortLivedTokens(t *testing.T) {
	b := newBench(t, func(a *wechattest.App) { a.TokenSeconds = 240 })
	first := b.stable(false)
	if first.ExpiresIn != 240 {
		t.Errorf("expires_in %d", first.ExpiresIn)
	}
	b.Advance(230 * time.Second)
	if b.stable(false).AccessToken == first.AccessToken || b.works(first.AccessToken) != "0" {
		t.Error("no rotation with overlap in the last 24th of the life")
	}
}

// The simulator can also act as a team's central token service, in both formats.
func TestCentralTokenService(t *testing.T) {
	b := newBench(t)
	a := b.must("GET", "/central/token?appid="+appID, "")
	if a.AccessToken == "" || a.AccessToken != b.stable(false).AccessToken || a.ExpiresIn != 7200 {
		t.Errorf("central answer %s", a.Raw)
	}
	if bare := b.must("GET", "/central/token?format=bare&appid="+appID, ""); bare.Raw != a.AccessToken {
		t.Errorf("bare answer %q", bare.Raw)
	}
	if n := b.Count(wechattest.CentralToken); n.Total != 2 || n.Outcomes["ok"] != 2 {
		t.Errorf("counted %+v", n)
	}
	b.want("unknown app", b.must("GET", "/central/token?appid=wx9", ""), "40013")
}
