package ratelimit

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var start = time.Unix(1_700_000_000, 0)

// An attacker guesses from one address. After the allowed number of failures, one more
// attempt is allowed each time that its share of the period has passed. Another address
// has a limit of its own.
func TestFailuresAreLimitedByKey(t *testing.T) {
	rate := Rate{Count: 3, Per: time.Minute}
	now := start
	var l Limiter[string]
	for i := range 3 {
		if r := l.Take(rate, "ann", now); r != nil {
			t.Fatalf("after %d: %+v", i, r)
		}
	}
	if r := l.Take(rate, "ann", now); r == nil || r.Wait != 20*time.Second || r.Left != 0 || r.Reset != time.Minute {
		t.Errorf("after three: %+v; want to wait for the time of one", r)
	}
	if r := l.Take(rate, "bob", now); r != nil {
		t.Errorf("another one: %+v", r)
	}
	if r := l.Check(rate, "ann", now.Add(20*time.Second)); r != nil {
		t.Errorf("20 s later: %+v", r)
	}
	if r := l.Check(rate, "nobody", now); r != nil {
		t.Errorf("an unknown one: %+v", r)
	}
}

// A client begins 1,200 bad logins before the first has an answer. No more than the
// rate may begin. A neighbour behind the same address waits for seconds, not for the
// time that 1,200 attempts would take.
func TestBurstPassesNoMoreThanTheRate(t *testing.T) {
	rate := Rate{Count: 30, Per: time.Minute}
	var l Limiter[string]
	var passed atomic.Int64
	var all sync.WaitGroup
	answered := make(chan struct{})
	for range 1200 {
		all.Go(func() {
			if l.Reserve(rate, "ann", start) != nil {
				return
			}
			passed.Add(1)
			<-answered
			l.Fail(rate, "ann", start)
		})
	}
	for passed.Load() < 30 {
		time.Sleep(time.Millisecond)
	}
	close(answered)
	all.Wait()
	if n := passed.Load(); n != 30 {
		t.Errorf("%d passed, want 30", n)
	}
	for range 100 { // refusals for other keys change nothing
		l.Fail(rate, "ann", start)
	}
	if r := l.Reserve(rate, "ann", start); r == nil || r.Wait > rate.Per || r.Reset > rate.Per {
		t.Errorf("the neighbour: %+v", r)
	}
	if r := l.Reserve(rate, "ann", start.Add(2*time.Second)); r != nil {
		t.Errorf("the neighbour, after the time of one: %+v", r)
	}
}

// Many users behind one address log in at once. Each success allows one more attempt to be
// under way, for a minute.
func TestSuccessesMakeRoomForMore(t *testing.T) {
	rate := Rate{Count: 2, Per: time.Minute}
	now := start
	var l Limiter[string]
	underWay := func() (n int) {
		for l.Reserve(rate, "office", now) == nil {
			n++
		}
		for range n {
			l.Release("office")
		}
		return n
	}
	if n := underWay(); n != 2 {
		t.Errorf("%d under way, want 2", n)
	}
	for range 5 {
		if r := l.Reserve(rate, "office", now); r != nil {
			t.Fatalf("%+v", r)
		}
		l.Succeed("office", now)
	}
	if n := underWay(); n != 7 {
		t.Errorf("%d under way after five successes, want 7", n)
	}
	l.Reserve(rate, "office", now)
	l.Fail(rate, "office", now)
	if n := underWay(); n != 6 {
		t.Errorf("%d under way after a failure, want 6", n)
	}
	l.Reserve(rate, "office", now)
	l.Fail(rate, "office", now)
	if r := l.Reserve(rate, "office", now); r == nil || r.Wait > 30*time.Second {
		t.Errorf("with the rate used up: %+v", r) // successes do not pay for failures
	}
	now = now.Add(2 * time.Minute)
	if n := underWay(); n != 2 {
		t.Errorf("%d under way later, want 2", n)
	}
}

// An attempt under way is not debt yet: the wait is short, and after Release it costs
// nothing.
func TestReservationIsGivenBack(t *testing.T) {
	rate := Rate{Count: 1, Per: time.Hour}
	var l Limiter[string]
	if r := l.Reserve(rate, "ann", start); r != nil {
		t.Fatalf("%+v", r)
	}
	if r := l.Reserve(rate, "ann", start); r == nil || r.Wait != busyWait {
		t.Errorf("one is under way: %+v", r)
	}
	l.Release("ann")
	l.Release("ann") // once more than Reserve was called
	if r := l.Reserve(rate, "ann", start); r != nil {
		t.Errorf("it was given back: %+v", r)
	}
	if r := l.Reserve(rate, "ann", start); r == nil {
		t.Error("what was given back twice counts twice")
	}
}

// A household has 2⁶⁴ IPv6 addresses. An attacker who changes the address for each
// attempt is still one client.
func TestIPv6NetworkIsOneClient(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		same bool
	}{
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true},
		{"2001:db8:1:2::1", "2001:db8:1:3::1", false},
		{"::ffff:192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"fe80::1%eth0", "fe80::1%eth1", true},
		{"64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2", false},
	} {
		if same := Subscriber(netip.MustParseAddr(tc.a)) == Subscriber(netip.MustParseAddr(tc.b)); same != tc.same {
			t.Errorf("%s and %s: one client is %v", tc.a, tc.b, same)
		}
	}
	if Subscriber(netip.Addr{}).IsValid() {
		t.Error("no address is a network")
	}
}

// A flood from very many addresses takes bounded memory. It must not push out attempts
// that are under way, or their clients could begin again.
func TestMemoryIsBounded(t *testing.T) {
	rate := Rate{Count: 1, Per: time.Hour}
	var l Limiter[[4]byte]
	var ip [4]byte
	under := [4]byte{255}
	l.Reserve(rate, under, start)
	for i := range uint32(100_000) {
		binary.BigEndian.PutUint32(ip[:], i)
		l.Take(rate, ip, start)
		if len(l.keys) > maxKeys {
			t.Fatalf("%d addresses are kept", len(l.keys))
		}
	}
	if l.Reserve(rate, under, start) == nil {
		t.Error("what is under way was forgotten")
	}
}

// An administrator sets back a clock that was a day ahead. Successes recorded by the
// wrong clock must not allow more attempts under way from then on.
func TestClockSetBackForgetsSuccesses(t *testing.T) {
	var s successes
	right := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s.add(right.Add(24 * time.Hour))
	if n := s.count(right); n != 0 {
		t.Errorf("%d successes after the clock was set back by a day", n)
	}
	s.add(right)
	if n := s.count(right.Add(-5 * time.Second)); n != 1 {
		t.Errorf("%d successes after the clock was set back by seconds", n)
	}
	if n := s.count(right.Add(2 * time.Minute)); n != 0 {
		t.Errorf("%d successes after two minutes", n)
	}
}
