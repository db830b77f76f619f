package session

import (
	"encoding/binary"
	"hash/maphash"
	"sync/atomic"
)

// revokedTable is a hash table of sessions with linear probing. One goroutine at
// a time writes, any number read meanwhile: a slot that is taken never changes,
// so that a reader needs no lock and shares no memory that is written to. What
// has expired goes when the table is copied.
type revokedTable struct {
	slots []slot
	until []uint32 // of each slot, in seconds since 1970; good until 2106. The writer's.
	used  int      // The writer's.
}

// slot holds a session's id. Empty it is zero, which no id is: ids of ours have
// their version in hi.
type slot struct{ hi, lo atomic.Uint64 }

const leastSlots = 8

// newRevokedTable makes a table with room for so many sessions.
func newRevokedTable(sessions int) *revokedTable {
	n := leastSlots
	for !fits(sessions, n) {
		n *= 2
	}
	return &revokedTable{slots: make([]slot, n), until: make([]uint32, n)}
}

// fits leaves a quarter of the slots empty: probes get long beyond.
func fits(sessions, slots int) bool { return sessions <= slots/4*3 }

func (t *revokedTable) full() bool { return !fits(t.used+1, len(t.slots)) }

func (id sid) halves() (hi, lo uint64) {
	hi, lo = binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	if hi == 0 { // of an id that is not ours: 2^-64 of them share it with another
		hi = 1
	}
	return hi, lo
}

// seed makes the places of sessions unpredictable.
var seed = maphash.MakeSeed()

// find returns the slot of a session, or the empty one where it would be.
func (t *revokedTable) find(id sid) (at int, found bool) {
	hi, lo := id.halves()
	mask := len(t.slots) - 1
	for at = int(maphash.Comparable(seed, id)) & mask; ; at = (at + 1) & mask {
		// A slot's lo is written before its hi.
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

// copied is a table of what is in t, which may be nil, and has not expired, with
// room for so many more.
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

// unexpired counts what has not expired.
func (t *revokedTable) unexpired(now int64) int {
	n := 0
	for i := range t.slots {
		if t.slots[i].hi.Load() != 0 && int64(t.until[i]) > now {
			n++
		}
	}
	return n
}
