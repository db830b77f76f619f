package login

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// Staging's WeChat is down, and staging shares its store with production. Production's logins
// must go on. So must the other calls of that WeChat, and apps that get their access token
// elsewhere.
func TestDeadWeChatStopsNoOther(t *testing.T) {
	var us upstreams
	now := func() time.Time { return time.Unix(1_700_000_000, 0) }
	ask := func(name string, call wechat.Call) error {
		asked := false
		for i := range 2 * tripAfter {
			_ = us.call("hosts", "staging", wechat.CallSession).do(t.Context(), "wxA", fmt.Sprint(i), now, func() error { return reset })
			_ = us.token("staging", "wxA").do("", now, func() (bool, error) { return true, down })
		}
		err := us.call("hosts", name, call).do(t.Context(), "wxA", "ann", now, func() error { asked = true; return nil })
		if asked != (err == nil) {
			t.Errorf("%s: asked %v, %v", name, asked, err)
		}
		return err
	}
	if ask("staging", wechat.CallSession) == nil {
		t.Error("the dead one is still asked")
	}
	if err := ask("production", wechat.CallSession); err != nil {
		t.Error(err)
	}
	if err := ask("staging", wechat.CallPhone); err != nil {
		t.Error(err)
	}
	for source, want := range map[string]bool{"staging": false, "production": true} {
		if err := us.token(source, "wxA").do("", now, func() (bool, error) { return true, nil }); (err == nil) != want {
			t.Errorf("the access token of %s: %v", source, err)
		}
	}
	if err := us.token("staging", "wxB").do("", now, func() (bool, error) { return true, nil }); err != nil {
		t.Errorf("the access token of another app: %v", err)
	}
}

// A household has as many /64 networks as it likes. Where a rule needs several clients, they
// count as one.
func TestNetworksOfOneSiteAreOneClient(t *testing.T) {
	a, b := Request{Client: netip.MustParsePrefix("2001:db8:1:2::/64")}, Request{Client: netip.MustParsePrefix("2001:db8:1:ffff::/64")}
	if a.client() != b.client() {
		t.Errorf("%s and %s are two", a.client(), b.client())
	}
	for _, other := range []string{"2001:db8:2:2::/64", "192.0.2.1/32"} {
		if o := (Request{Client: netip.MustParsePrefix(other)}); o.client() == a.client() {
			t.Errorf("%s is the same client", other)
		}
	}
	if (Request{}).client() != "" {
		t.Error("an unknown client has a name")
	}
}

// A flood of logins reaches a slow WeChat. The number of calls under way is bounded,
// and logins beyond it fail quickly without spending their codes.
func TestCallsUnderWayAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newUpstream(wechat.CallSession)
		hold := make(chan struct{})
		var wg sync.WaitGroup
		for range maxCalls {
			wg.Go(func() { _ = v.do(context.Background(), "wxA", "ann", time.Now, func() error { <-hold; return nil }) })
		}
		synctest.Wait()
		start := time.Now()
		err := v.do(context.Background(), "wxA", "ann", time.Now, func() error { t.Error("one call too many"); return nil })
		var le *Error
		if !errors.As(err, &le) || le.Code != problem.WeChatUnavailable || !errors.Is(err, errBusy) {
			t.Errorf("beyond the bound: %v", err)
		}
		if waited := time.Since(start); waited != maxQueue {
			t.Errorf("it waited %v, want %v", waited, maxQueue)
		}
		close(hold)
		wg.Wait()
	})
}
