package session

import (
	"crypto/sha256"
	"math"
	"sync"
	"time"
)

// Revoked is what this process knows of sessions that have ended, and the
// connections that end with them. It lives over reloads. Its methods may be
// called from many goroutines at once; [Revoked.Contains] is for the hot path.
//
// [Revoked.Tick] must be called several times a second, or [Feed.Run] do so.
type Revoked struct {
	// Sessions are spread over many small tables, so that readers seldom meet,
	// and so that dropping the expired ones holds none of them up for long.
	shards [shards]shard

	sweeping sync.Mutex
	next     int // the shard to sweep at the next Tick

	watched watched
}

const shards = 256

type shard struct {
	mu sync.RWMutex
	// until is in seconds since 1970: 20 bytes an entry, good until 2106.
	until map[sid]uint32
	// peak is the size for which the table has grown. Go's maps never shrink.
	peak int
}

// NewRevoked makes an empty set.
func NewRevoked() *Revoked {
	r := new(Revoked)
	for i := range r.shards {
		r.shards[i].until = make(map[sid]uint32)
	}
	r.watched.init()
	return r
}

// Add refuses the tokens of the session from now on, at least until the given
// time, and ends the connections opened under them.
func (r *Revoked) Add(sessionID string, until time.Time) {
	id := key(sessionID)
	secs := uint32(min(max(until.Unix()+1, 0), math.MaxUint32))
	s := r.shard(id)
	s.mu.Lock()
	was, known := s.until[id]
	if !known || was < secs {
		s.until[id] = secs
		s.peak = max(s.peak, len(s.until))
	}
	s.mu.Unlock()
	if !known { // otherwise they were ended then, and Watch lets no new ones in
		r.watched.end(id, ErrEnded)
	}
}

// Contains reports whether the tokens of the session are refused. It does not
// allocate, and touches memory only.
func (r *Revoked) Contains(sessionID string) bool {
	id := key(sessionID)
	s := r.shard(id)
	s.mu.RLock()
	_, ok := s.until[id]
	s.mu.RUnlock()
	return ok
}

// Len counts the sessions in the set.
func (r *Revoked) Len() int {
	n := 0
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.RLock()
		n += len(s.until)
		s.mu.RUnlock()
	}
	return n
}

// Tick ends the watched connections whose token has expired and drops a part of
// the revocations that no token needs any more. It never waits for the store.
func (r *Revoked) Tick(now time.Time) {
	r.watched.expire(now)

	r.sweeping.Lock()
	s := &r.shards[r.next]
	r.next = (r.next + 1) % shards
	r.sweeping.Unlock()
	s.sweep(now)
}

func (s *shard) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, until := range s.until {
		if int64(until) <= now.Unix() {
			delete(s.until, id)
		}
	}
	// After a flood, give its memory back.
	if s.peak > 64 && len(s.until) < s.peak/4 {
		kept := make(map[sid]uint32, len(s.until))
		for id, until := range s.until {
			kept[id] = until
		}
		s.until, s.peak = kept, len(kept)
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
