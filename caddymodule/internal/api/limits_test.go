package api

import (
	"net/netip"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
)

// One address has used up what the logins of all its sessions may cost. A login that is
// refused there must leave nothing reserved for its session, which goes on at another address,
// and where no address is known.
func TestRefusedLoginReservesNothing(t *testing.T) {
	c := &call{Server: &Server{Settings: Settings{LoginRate: ratelimit.Rate{Count: 1, Per: time.Hour}}, State: new(State)}, Opened: new(Opened)}
	office, home := netip.MustParsePrefix("203.0.113.66/32"), netip.MustParsePrefix("198.51.100.1/32")
	for _, id := range []string{"a", "b", "c", "d"} {
		l := c.limitOf(id, office, true)
		if err := l.reserve(); err != nil {
			t.Fatalf("session %s: %v", id, err)
		}
		l.settle(true, false)
	}
	for range 2 {
		if c.limitOf("ann", office, true).reserve() == nil {
			t.Fatal("a fifth session at one address, with four refused")
		}
	}
	for name, l := range map[string]*loginLimit{"elsewhere": c.limitOf("ann", home, true), "at an unknown address": c.limitOf("ann", netip.Prefix{}, false)} {
		if err := l.reserve(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		l.settle(false, true)
	}
	if err := c.limit(office, true, "").reserve(); err != nil {
		t.Errorf("a login there without a token pays for those with one: %v", err)
	}
}
