package login

import (
	"net/netip"
	"sync"
	"time"
)

// maxCounted bounds the memory of a Limiter: about 5 MiB when full.
const maxCounted = 1 << 16

// Rate is how many of something there may be in a time.
type Rate struct {
	Count int
	Per   time.Duration
}

// Limiter counts what there may be only so much of, by who does it. It lives
// over reloads; the rate comes with each call. The zero value is ready to use.
//
// It keeps one time stamp for each (the generic cell rate algorithm): the
// moment at which all so far is forgiven.
type Limiter[K comparable] struct {
	mu       sync.Mutex
	forgiven map[K]time.Time
}

// Wait returns how long k must wait before its next; zero or less: not at all.
func (l *Limiter[K]) Wait(r Rate, k K, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.forgiven[k].Sub(now.Add(r.Per - r.each()))
}

// Remaining returns how many k has left, and after what time all is forgiven.
func (l *Limiter[K]) Remaining(r Rate, k K, now time.Time) (int, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	reset := max(0, l.forgiven[k].Sub(now))
	return max(0, int((r.Per-reset)/r.each())), reset
}

// Count counts one more of k's.
func (l *Limiter[K]) Count(r Rate, k K, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forgiven == nil {
		l.forgiven = make(map[K]time.Time)
	}
	t, known := l.forgiven[k]
	if !known && len(l.forgiven) >= maxCounted {
		l.makeRoom(now)
	}
	if t.Before(now) {
		t = now
	}
	l.forgiven[k] = t.Add(r.each())
}

// makeRoom drops what is forgiven and, under a flood from very many, some of
// the rest: an eighth, so that the next call need not sweep again.
func (l *Limiter[K]) makeRoom(now time.Time) {
	for k, t := range l.forgiven {
		if !t.After(now) {
			delete(l.forgiven, k)
		}
	}
	for k := range l.forgiven {
		if len(l.forgiven) < maxCounted-maxCounted/8 {
			return
		}
		delete(l.forgiven, k)
	}
}

func (r Rate) each() time.Duration { return r.Per / time.Duration(max(1, r.Count)) }

// Subscriber is the network that one client may have: its IPv4 address, or the
// /64 of an IPv6 address. All unknown addresses are one.
func Subscriber(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
