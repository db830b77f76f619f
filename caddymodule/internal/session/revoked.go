package session

import (
	"crypto/sha256"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
)

// Revoked is the set of ended sessions that this process knows, and the connections
// that end with them. It is kept over reloads. Its methods may be called from many
// goroutines at once; [Revoked.Contains] is for the hot path.
//
// Something must call [Revoked.Tick] several times a second; [Feed.Run] does.
type Revoked struct {
	// Clock keeps a jump of the wall clock from ending watched connections early or
	// late. Optional; it must not be changed after the first use.
	Clock *clock.Clock

	// Sessions are spread over many small tables, so that growing a table or dropping
	// its expired entries takes little time at once.
	shards [shards]shard

	sweeping sync.Mutex
	next     int // the shard that the next Tick sweeps

	watched watched
}

const shards = 256

type shard struct {
	table atomic.Pointer[revokedTable] // nil while it is empty
	mu    sync.Mutex                   // one writer at a time; readers take no lock
}

// NewRevoked makes an empty set.
func NewRevoked() *Revoked {
	r := new(Revoked)
	r.watched.init()
	return r
}

// Add refuses the session's tokens from now on, at least until the given time, and ends
// the connections that were opened under them.
func (r *Revoked) Add(sessionID string, until time.Time) {
	id := key(sessionID)
	secs := uint32(min(max(until.Unix()+1, 0), math.MaxUint32))
	known := r.shard(id).add(id, secs)
	if !known { // if it was known, the first Add ended them, and Watch has let none in since
		r.watched.end(id, ErrEnded)
	}
}

// Contains reports whether the session's tokens are refused. It does not allocate, take
// a lock, write anything, or do I/O.
func (r *Revoked) Contains(sessionID string) bool {
	id := key(sessionID)
	t := r.shard(id).table.Load()
	if t == nil {
		return false
	}
	_, found := t.find(id)
	return found
}

// Len returns the number of sessions in the set.
func (r *Revoked) Len() int {
	n := 0
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		if t := s.table.Load(); t != nil {
			n += t.used
		}
		s.mu.Unlock()
	}
	return n
}

// Tick ends the watched connections whose token has expired, and drops some of the
// revocations that no token needs any more. It never waits for the store.
func (r *Revoked) Tick(now time.Time) {
	r.expire(now)
	r.sweep(now)
}

// expire ends the watched connections whose token has expired.
func (r *Revoked) expire(now time.Time) { r.watched.expire(r.Clock.Steady(now)) }

// sweep drops some of the revocations that have expired by now.
func (r *Revoked) sweep(now time.Time) {
	r.sweeping.Lock()
	s := &r.shards[r.next]
	r.next = (r.next + 1) % shards
	r.sweeping.Unlock()
	s.sweep(now)
}

// add puts a session into the table until the given time. If the session is in it
// already, the later time counts.
func (s *shard) add(id sid, until uint32) (known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.table.Load()
	if t == nil || t.full() {
		t = t.copied(-1, 1) // nothing counts as expired
		s.table.Store(t)
	}
	at, known := t.find(id)
	if !known {
		t.insert(at, id, until)
	}
	t.until[at] = max(t.until[at], until)
	return known
}

func (s *shard) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.table.Load()
	if t == nil {
		return
	}
	switch n := t.unexpired(now.Unix()); n {
	case t.used:
	case 0:
		s.table.Store(nil)
	default:
		s.table.Store(t.copied(now.Unix(), 0))
	}
}

func (r *Revoked) shard(id sid) *shard { return &r.shards[id[15]] } // the last byte is random

// key returns the 16 bytes of a session id. Another issuer that shares a signing key
// with us may use any string as its session id; such a string is represented by its
// hash.
func key(sessionID string) sid {
	if id, ok := parseID(sessionID); ok {
		return id
	}
	sum := sha256.Sum256([]byte(sessionID))
	return sid(sum[:16])
}
