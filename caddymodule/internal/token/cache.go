package token

import (
	"crypto/sha256"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/counter"
)

// Cache remembers tokens that were found valid, so that a token is verified once and
// looked up afterwards. It is safe for concurrent use. A lookup takes no lock and
// allocates nothing.
//
// The key of an entry is the SHA-256 of the whole token. A fast keyed hash of the
// signature first selects the few candidate entries, so that a token that is not in the
// cache, such as a forged one, costs no SHA-256.
type Cache struct {
	// Hits and Misses count the lookups. They may be nil, and must not be changed after
	// the first lookup.
	Hits, Misses *counter.Counter

	seed   maphash.Seed
	limit  cacheLimit // of each shard
	shards [cacheShards]cacheShard
}

type cacheLimit struct{ entries, bytes int }

const cacheShards = 16

// cacheShard is a part of the cache with its own lock for writers.
type cacheShard struct {
	table atomic.Pointer[cacheTable]
	mu    sync.Mutex
	_     [48]byte // padding: each shard has its own cache lines
}

// cacheTable holds a shard's entries for one key set and one policy. A lookup with
// another key set or policy finds nothing in it.
type cacheTable struct {
	owner   cacheOwner
	buckets []atomic.Pointer[cacheEntry] // linked lists; their number is a power of two
	ring    []*cacheEntry                // all entries, in the order of the CLOCK algorithm
	hand    int
	bytes   int // the total size of the entries
}

type cacheOwner struct {
	keys   *KeySet
	policy [sha256.Size]byte
}

type cacheEntry struct {
	next     atomic.Pointer[cacheEntry]
	hash     uint32
	used     atomic.Bool // looked up since the hand last passed
	sum      [sha256.Size]byte
	identity Identity
}

// size returns the approximate memory of an entry, including its place in the table.
func (e *cacheEntry) size() int {
	return int(unsafe.Sizeof(*e)) + 3*8 + e.identity.footprint()
}

// bytesPerEntry is the memory that NewCache allows for each entry: slightly more than a
// token without the directory's claims takes.
const bytesPerEntry = 300

// NewCache returns a cache of at most the given number of tokens; it stays empty if
// entries is not positive. It takes at most 300 bytes for each of them, so it holds
// fewer tokens if they carry many of the directory's claims.
func NewCache(entries int) *Cache {
	perShard := max(0, (entries+cacheShards-1)/cacheShards)
	return &Cache{seed: maphash.MakeSeed(), limit: cacheLimit{perShard, perShard * bytesPerEntry}}
}

// Len returns the number of tokens in the cache.
func (c *Cache) Len() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		if t := s.table.Load(); t != nil {
			n += len(t.ring)
		}
		s.mu.Unlock()
	}
	return n
}

// hash selects a signature's shard with one half of its hash, and the bucket in that
// shard with the other.
func (c *Cache) hash(signature string) (uint32, *cacheShard) {
	h := maphash.String(c.seed, signature)
	return uint32(h), &c.shards[h>>32%cacheShards]
}

// get returns the identity of a token that was found valid under owner, or nil if there
// is none. The token may have expired since.
func (c *Cache) get(owner *cacheOwner, raw, signature string) *Identity {
	hash, shard := c.hash(signature)
	t := shard.table.Load()
	if t == nil || t.owner != *owner {
		return nil
	}
	var sum [sha256.Size]byte
	summed := false
	for e := t.bucket(hash).Load(); e != nil; e = e.next.Load() {
		if e.hash != hash {
			continue
		}
		if !summed {
			sum, summed = sumString(raw), true
		}
		if e.sum == sum {
			// The flag is written only when it changes, because all cores read this
			// entry.
			if !e.used.Load() {
				e.used.Store(true)
			}
			return &e.identity
		}
	}
	return nil
}

// put adds a token that was found valid, and returns the identity that all its requests
// share from now on.
func (c *Cache) put(owner *cacheOwner, raw, signature string, id Identity, now time.Time) *Identity {
	hash, shard := c.hash(signature)
	e := &cacheEntry{hash: hash, sum: sumString(raw), identity: id}
	size := e.size()
	if c.limit.entries == 0 || size > c.limit.bytes {
		return &e.identity
	}

	shard.mu.Lock()
	defer shard.mu.Unlock()
	t := shard.table.Load()
	if t == nil || t.owner != *owner {
		t = newCacheTable(owner, c.limit.entries)
		shard.table.Store(t)
	}
	head := t.bucket(hash)
	for other := head.Load(); other != nil; other = other.next.Load() {
		if other.hash == hash && other.sum == e.sum {
			return &other.identity
		}
	}
	t.insert(e, size, c.limit, now)
	e.next.Store(head.Load())
	head.Store(e)
	return &e.identity
}

func newCacheTable(owner *cacheOwner, entries int) *cacheTable {
	buckets := 1
	for buckets < entries {
		buckets *= 2
	}
	return &cacheTable{owner: *owner, buckets: make([]atomic.Pointer[cacheEntry], buckets)}
}

func (t *cacheTable) bucket(hash uint32) *atomic.Pointer[cacheEntry] {
	return &t.buckets[int(hash)&(len(t.buckets)-1)]
}

// insert adds an entry to the ring. It evicts entries until the limit is kept, and
// reuses the place of the last evicted one.
func (t *cacheTable) insert(e *cacheEntry, size int, limit cacheLimit, now time.Time) {
	t.bytes += size
	for len(t.ring) >= limit.entries || t.bytes > limit.bytes {
		at := t.victim(now)
		t.remove(t.ring[at])
		t.bytes -= t.ring[at].size()
		if t.bytes <= limit.bytes && len(t.ring) <= limit.entries {
			t.ring[at] = e
			return
		}
		last := len(t.ring) - 1
		t.ring[at], t.ring[last] = t.ring[last], nil
		t.ring = t.ring[:last]
		if t.hand >= last {
			t.hand = 0
		}
	}
	t.ring = append(t.ring, e)
}

// victim returns the index of the entry to evict: one that has expired, or that was not
// looked up since the hand last passed.
func (t *cacheTable) victim(now time.Time) int {
	for {
		at := t.hand
		t.hand = (t.hand + 1) % len(t.ring)
		if e := t.ring[at]; !e.used.Swap(false) || e.identity.expires <= now.Unix() {
			return at
		}
	}
}

// remove unlinks an entry from its bucket's list. The entry keeps its own next pointer
// for readers that are just passing through it.
func (t *cacheTable) remove(e *cacheEntry) {
	link := t.bucket(e.hash)
	for link.Load() != e {
		link = &link.Load().next
	}
	link.Store(e.next.Load())
}
