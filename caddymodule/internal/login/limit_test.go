package login

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

func TestLimiterCountsRefusalsByAddress(t *testing.T) {
	rate := Rate{Count: 3, Per: time.Minute}
	now := time.Unix(1_700_000_000, 0)
	var l Limiter[netip.Prefix]
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i := range 3 {
		if w := l.Wait(rate, Subscriber(a), now); w > 0 {
			t.Fatalf("after %d refusals the address must wait %v", i, w)
		}
		l.Count(rate, Subscriber(a), now)
	}
	if w := l.Wait(rate, Subscriber(a), now); w != 20*time.Second {
		t.Errorf("after three refusals the wait is %v, want the time of one: 20s", w)
	}
	if left, reset := l.Remaining(rate, Subscriber(a), now); left != 0 || reset != time.Minute {
		t.Errorf("remaining %d, reset %v; want 0 and a minute", left, reset)
	}
	if w := l.Wait(rate, Subscriber(b), now); w > 0 {
		t.Errorf("another address must wait %v", w)
	}
	if w := l.Wait(rate, Subscriber(a), now.Add(20*time.Second)); w > 0 {
		t.Errorf("20 s later the address must still wait %v", w)
	}
	if left, _ := l.Remaining(rate, Subscriber(a), now.Add(40*time.Second)); left != 2 {
		t.Errorf("40 s later %d are left, want 2", left)
	}
}

func TestLimiterTakesAnIPv6NetworkAsOneClient(t *testing.T) {
	rate := Rate{Count: 1, Per: time.Minute}
	now := time.Unix(1_700_000_000, 0)
	var l Limiter[netip.Prefix]
	l.Count(rate, Subscriber(netip.MustParseAddr("2001:db8:1:2::1")), now)
	if l.Wait(rate, Subscriber(netip.MustParseAddr("2001:db8:1:2:ffff::9")), now) <= 0 {
		t.Error("an address of the same /64 is another client")
	}
	if l.Wait(rate, Subscriber(netip.MustParseAddr("2001:db8:1:3::1")), now) > 0 {
		t.Error("an address of another /64 is the same client")
	}
	l.Count(rate, Subscriber(netip.MustParseAddr("::ffff:192.0.2.1")), now)
	if l.Wait(rate, Subscriber(netip.MustParseAddr("192.0.2.1")), now) <= 0 {
		t.Error("an IPv4 address written as IPv6 is another client")
	}
}

func TestLimiterMemoryIsBounded(t *testing.T) {
	rate := Rate{Count: 1, Per: time.Hour}
	now := time.Unix(1_700_000_000, 0)
	var l Limiter[netip.Prefix]
	var ip [4]byte
	for i := range uint32(100_000) {
		binary.BigEndian.PutUint32(ip[:], i)
		l.Count(rate, Subscriber(netip.AddrFrom4(ip)), now)
		if len(l.forgiven) > maxCounted {
			t.Fatalf("%d addresses are kept", len(l.forgiven))
		}
	}
}

func TestKeysDifferHoweverTheCodesAreCut(t *testing.T) {
	lists := [][]string{{"a|b", "c"}, {"a", "b|c"}, {"ab", "c"}, {"a", "bc"}, {"abc", ""}, {"", "abc"}, {"abc"}, {"a", "b", "c"}, {}}
	seen := make(map[Key][]string)
	for _, parts := range lists {
		for _, kind := range []string{"code", "phone"} {
			k := keyOf(kind, parts...)
			if other, ok := seen[k]; ok {
				t.Errorf("%q and %q share a key", other, parts)
			}
			seen[k] = append([]string{kind}, parts...)
		}
	}
}
