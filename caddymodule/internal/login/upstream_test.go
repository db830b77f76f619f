package login

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
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
			_ = us.token("staging", "wxA").do("wxA", "", now, func() (bool, error) { return true, down })
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
		if err := us.token(source, "wxA").do("wxA", "", now, func() (bool, error) { return true, nil }); (err == nil) != want {
			t.Errorf("the access token of %s: %v", source, err)
		}
	}
	if err := us.token("staging", "wxB").do("wxB", "", now, func() (bool, error) { return true, nil }); err != nil {
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

// One client begins three hundred logins while WeChat is slow. Half of the slots are
// its own, another client's login begins at once, and so does one of a client that nobody can name.
func TestOneClientHasHalfOfTheSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ss shares
		hold := make(chan struct{})
		var wg sync.WaitGroup
		var underWay, busy atomic.Int64
		for range 300 {
			wg.Go(func() {
				err := ss.within(context.Background(), "eve", func() error {
					underWay.Add(1)
					<-hold
					return nil
				})
				var e *Error
				if errors.As(err, &e) && e.Code == problem.RateLimited && e.RetryAfter == shareRetry && len(e.Renew) == 0 && !e.Refused {
					busy.Add(1)
				}
			})
		}
		synctest.Wait()
		start := time.Now()
		for _, other := range []string{"ann", ""} {
			if err := ss.within(context.Background(), other, func() error { return down }); !errors.Is(err, down) {
				t.Errorf("another client, %q: %v", other, err)
			}
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("the others waited for %v", waited)
		}
		time.Sleep(maxQueue)
		synctest.Wait()
		if u, b := underWay.Load(), busy.Load(); u != maxCalls/2 || b != 300-maxCalls/2 {
			t.Errorf("%d are under way, %d were refused", u, b)
		}
		close(hold)
		wg.Wait()
		if len(ss.use) != 0 {
			t.Errorf("%d clients are kept", len(ss.use))
		}
	})
}

// The slots are counted by address. Where addresses are unknown, they are counted by the
// session, and a made-up refresh token is nobody's.
func TestHolderOfASlot(t *testing.T) {
	keys, err := session.NewKeys(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	c := &Chain{Sessions: session.Sessions{Keys: keys}}
	id := session.NewID(time.Unix(1_700_000_000, 0))
	ann := keys.RefreshToken(session.Session{ID: id})
	address := netip.MustParsePrefix("192.0.2.1/32")
	for name, tc := range map[string]struct {
		r    Request
		want string
	}{
		"an address":             {Request{Client: address}, "192.0.2.1/32"},
		"an address and a token": {Request{Client: address, RefreshToken: ann}, "192.0.2.1/32"},
		"a token":                {Request{RefreshToken: ann}, id},
		"a made-up token":        {Request{RefreshToken: ann[:len(ann)-4] + "AAAA"}, ""},
		"neither":                {Request{}, ""},
	} {
		if got := c.holder(tc.r); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
