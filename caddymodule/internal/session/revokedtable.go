package session

import (
	"encoding/binary"
	"hash/maphash"
	"sync/atomic"
)

// revokedTable is a hash table of sessions with linear probing. One goroutine at a time
// writes while any number read. A slot that is taken never changes, so readers need no
// lock and share no memory that is written to. Expired entries go when the table is
// copied.
type revokedTable struct {
	slots []slot
	until []uint32 // per slot, in seconds since 1970 (good until 2106); only the writer uses it
	used  int      // number of taken slots; only the writer uses it
}

// slot holds a session id. An empty slot is zero, which no id is: the ids that we make
// have their version in hi.
type slot struct{ hi, lo atomic.Uint64 }

const leastSlots = 8

// newRevokedTable makes a table with room for the given number of sessions.
func newRevokedTable(sessions int) *revokedTable {
	n := leastSlots
	for !fits(sessions, n) {
		n *= 2
	}
	return &revokedTable{slots: make([]slot, n), until: make([]uint32, n)}
}

// fits leaves a quarter of the slots empty: beyond that, probe sequences get long.
func fits(sessions, slots int) bool { return sessions <= slots/4*3 }

func (t *revokedTable) full() bool { return !fits(t.used+1, len(t.slots)) }

func (id sid) halves() (hi, lo uint64) {
	hi, lo = binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	if hi == 0 { // not an id that we made; one in 2^64 of them shares this slot with another
		hi = 1
	}
	return hi, lo
}

// seed makes it unpredictable in which slot a session ends up.
var seed = maphash.MakeSeed()

// find returns the slot of a session, or the empty slot where it would go.
func (t *revokedTable) find(id sid) (at int, found bool) {
	hi, lo := id.halves() // hashed as they are stored, so that a copy of the table finds them
	mask := len(t.slots) - 1
	for at = int(maphash.Comparable(seed, [2]uint64{hi, lo})) & mask; ; at = (at + 1) & mask {
		// The writer stores a slot's lo before its hi.
		switch t.slots[at].hi.Load() {
		case 0:
			return at, false
		case hi:
			if t.slots[at].lo.Load() == lo {
				return at, true
			}
		}
	}
}

// insert puts a session into an empty slot.
func (t *revokedTable) insert(at int, id sid, until uint32) {
	hi, lo := id.halves()
	t.until[at] = until
	t.slots[at].lo.Store(lo)
	t.slots[at].hi.Store(hi)
	t.used++
}

// copied returns a table with the unexpired entries of t, which may be nil, and room
// for the given number more.
func (t *revokedTable) copied(now int64, more int) *revokedTable {
	if t == nil {
		return newRevokedTable(more)
	}
	c := newRevokedTable(t.unexpired(now) + more)
	for i := range t.slots {
		if hi := t.slots[i].hi.Load(); hi != 0 && int64(t.until[i]) > now {
			var id sid
			binary.BigEndian.PutUint64(id[:8], hi)
			binary.BigEndian.PutUint64(id[8:], t.slots[i].lo.Load())
			at, _ := c.find(id)
			c.insert(at, id, t.until[i])
		}
	}
	return c
}

// unexpired returns the number of entries that have not expired.
func (t *revokedTable) unexpired(now int64) int {
	n := 0
	for i := range t.slots {
		if t.slots[i].hi.Load() != 0 && int64(t.until[i]) > now {
			n++
		}
	}
	return n
}
