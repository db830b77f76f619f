package session

import (
	"crypto/sha256"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
)

// Revoked is what this process knows of sessions that have ended, and the
// connections that end with them. It lives over reloads. Its methods may be
// called from many goroutines at once; [Revoked.Contains] is for the hot path.
//
// [Revoked.Tick] must be called several times a second, or [Feed.Run] do so.
type Revoked struct {
	// Clock makes the watched connections last as long as they would have without
	// a jump of the clock. Optional; not to be changed after the first use.
	Clock *clock.Clock

	// Sessions are spread over many small tables, so that dropping the expired
	// ones, or growing, takes little at a time.
	shards [shards]shard

	sweeping sync.Mutex
	next     int // the shard to sweep at the next Tick

	watched watched
}

const shards = 256

type shard struct {
	table atomic.Pointer[revokedTable] // nil while nothing is in it
	mu    sync.Mutex                   // one writer at a time; readers take no lock
}

// NewRevoked makes an empty set.
func NewRevoked() *Revoked {
	r := new(Revoked)
	r.watched.init()
	return r
}

// Add refuses the tokens of the session from now on, at least until the given
// time, and ends the connections opened under them.
func (r *Revoked) Add(sessionID string, until time.Time) {
	id := key(sessionID)
	secs := uint32(min(max(until.Unix()+1, 0), math.MaxUint32))
	known := r.shard(id).add(id, secs)
	if !known { // otherwise they were ended then, and Watch lets no new ones in
		r.watched.end(id, ErrEnded)
	}
}

// Contains reports whether the tokens of the session are refused. It does not
// allocate, takes no lock, writes nothing, and touches memory only.
func (r *Revoked) Contains(sessionID string) bool {
	id := key(sessionID)
	t := r.shard(id).table.Load()
	if t == nil {
		return false
	}
	_, found := t.find(id)
	return found
}

// Len counts the sessions in the set.
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

// Tick ends the watched connections whose token has expired and drops a part of
// the revocations that no token needs any more. It never waits for the store.
func (r *Revoked) Tick(now time.Time) {
	r.expire(now)
	r.sweep(now)
}

// expire ends the watched connections whose token has expired.
func (r *Revoked) expire(now time.Time) { r.watched.expire(r.Clock.Steady(now)) }

// sweep drops a part of the revocations that were over at a time.
func (r *Revoked) sweep(now time.Time) {
	r.sweeping.Lock()
	s := &r.shards[r.next]
	r.next = (r.next + 1) % shards
	r.sweeping.Unlock()
	s.sweep(now)
}

// add puts a session into the table until a time, or keeps the later one of a
// session that is in it already.
func (s *shard) add(id sid, until uint32) (known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.table.Load()
	if t == nil || t.full() {
		t = t.copied(-1, 1) // all of it
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

func (r *Revoked) shard(id sid) *shard { return &r.shards[id[15]] } // its bits are random

// key is the 16 bytes of a session's id. Tokens that somebody else mints with
// a key we share may name sessions in any way: such a name counts by its hash.
func key(sessionID string) sid {
	if id, ok := parseID(sessionID); ok {
		return id
	}
	sum := sha256.Sum256([]byte(sessionID))
	return sid(sum[:16])
}
