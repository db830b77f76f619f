package login

import (
	"net/netip"
	"sync"
	"time"
)

// maxAddresses bounds the memory of a Limiter: about 5 MiB when full.
const maxAddresses = 1 << 16

// Rate is how many refused logins a client address may have in a time.
type Rate struct {
	Count int
	Per   time.Duration
}

// Limiter counts refused logins by client address, an IPv6 address by its /64,
// which is what one subscriber gets. It lives over reloads; the rate comes with
// each call. The zero value is ready to use.
//
// It keeps one time stamp an address (the generic cell rate algorithm): the
// moment at which all refusals so far are forgiven.
type Limiter struct {
	mu       sync.Mutex
	forgiven map[netip.Prefix]time.Time
}

// Wait returns how long the client at addr must wait before its next login;
// zero: not at all.
func (l *Limiter) Wait(r Rate, addr netip.Addr, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.forgiven[subscriber(addr)].Sub(now.Add(r.Per - r.each()))
}

// Remaining returns how many refusals the client at addr has left, and after
// what time all are forgiven.
func (l *Limiter) Remaining(r Rate, addr netip.Addr, now time.Time) (int, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	reset := max(0, l.forgiven[subscriber(addr)].Sub(now))
	return max(0, int((r.Per-reset)/r.each())), reset
}

// Refused counts a refused login of the client at addr.
func (l *Limiter) Refused(r Rate, addr netip.Addr, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forgiven == nil {
		l.forgiven = make(map[netip.Prefix]time.Time)
	}
	k := subscriber(addr)
	t, known := l.forgiven[k]
	if !known && len(l.forgiven) >= maxAddresses {
		l.makeRoom(now)
	}
	if t.Before(now) {
		t = now
	}
	l.forgiven[k] = t.Add(r.each())
}

// makeRoom drops what is forgiven and, under a flood from very many addresses,
// some of the rest: an eighth, so that the next call need not sweep again.
func (l *Limiter) makeRoom(now time.Time) {
	for k, t := range l.forgiven {
		if !t.After(now) {
			delete(l.forgiven, k)
		}
	}
	for k := range l.forgiven {
		if len(l.forgiven) < maxAddresses-maxAddresses/8 {
			return
		}
		delete(l.forgiven, k)
	}
}

func (r Rate) each() time.Duration { return r.Per / time.Duration(max(1, r.Count)) }

func subscriber(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil { // the zero Addr: all unknown clients are one
		return netip.Prefix{}
	}
	return p
}
