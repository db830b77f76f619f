package token

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// tokens mints n tokens, each for a different session.
func tokens(t testing.TB, ks *KeySet, n int) []string {
	t.Helper()
	raws := make([]string, n)
	for i := range raws {
		c := testClaims()
		c.SessionID = fmt.Sprint("s", i)
		raws[i] = mustMint(t, ks, c)
	}
	return raws
}

// TestHitsAllocateNothing verifies one cached token again and again: the hot path of
// every site must not feed the garbage collector.
func TestHitsAllocateNothing(t *testing.T) {
	for _, alg := range algorithms {
		ks := testKeys()[alg]
		raw := mustMint(t, ks, testClaims())
		v := NewVerifier(testPolicy(), testSeal(t), NewCache(10))
		first, err := v.Verify(ks, raw, t0)
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() {
			if c, err := v.Verify(ks, raw, t0); err != nil || c != first {
				t.Fatal("no hit")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", alg, n)
		}
	}
}

// TestGarbageAllocatesNothing sends malformed and forged tokens: an attacker must not
// be able to make the gateway allocate memory.
func TestGarbageAllocatesNothing(t *testing.T) {
	ks := testKeys()[ES256]
	raw := mustMint(t, ks, testClaims())
	v := NewVerifier(testPolicy(), testSeal(t), NewCache(10))
	for _, bad := range []string{"", "x" + raw, raw[:len(raw)-1], raw[:200] + "!" + raw[201:], raw[:len(raw)-9] + "\n" + raw[len(raw)-8:]} {
		if n := testing.AllocsPerRun(100, func() {
			if _, err := v.Verify(ks, bad, t0); err != ErrInvalid {
				t.Fatal(err)
			}
		}); n > 0.1 { // the pool may have to fill again
			t.Errorf("%q: %v allocations", bad, n)
		}
	}
}

// TestExpiryIsCheckedOnEveryHit lets a token expire while it is in the cache. From that
// second on it is refused, except for logging out.
func TestExpiryIsCheckedOnEveryHit(t *testing.T) {
	ks := testKeys()[HS256]
	v := NewVerifier(testPolicy(), testSeal(t), NewCache(10))
	raw := mustMint(t, ks, testClaims())
	for _, c := range []struct {
		at   time.Duration
		want error
	}{{0, nil}, {time.Hour + 10*time.Second - 1, nil}, {time.Hour + 10*time.Second, ErrExpired}, {2 * time.Hour, ErrExpired}, {0, nil}} {
		if _, err := v.Verify(ks, raw, t0.Add(c.at)); err != c.want {
			t.Errorf("after %s: %v, want %v", c.at, err, c.want)
		}
	}
	if _, err := v.VerifyExpired(ks, raw, t0.Add(2*time.Hour)); err != nil {
		t.Error(err)
	}
}

// TestExpiredTokensAreNotCached presents a token that expired long ago: it must not
// take the place of a valid one.
func TestExpiredTokensAreNotCached(t *testing.T) {
	ks, cache := testKeys()[HS256], NewCache(10)
	v := NewVerifier(testPolicy(), testSeal(t), cache)
	raw := mustMint(t, ks, testClaims())
	if _, err := v.Verify(ks, raw, t0.Add(2*time.Hour)); err != ErrExpired {
		t.Error(err)
	}
	if _, err := v.VerifyExpired(ks, raw, t0.Add(2*time.Hour)); err != nil {
		t.Error(err)
	}
	if cache.Len() != 0 {
		t.Error("it is in the cache")
	}
}

// TestCacheIsBounded puts more tokens into caches than they may hold. They stay within
// their limit, and every token that is counted can still be found.
func TestCacheIsBounded(t *testing.T) {
	ks := testKeys()[HS256]
	raws := tokens(t, ks, 2000)
	for _, size := range []int{1, 16, 100, 1000} {
		cache := NewCache(size)
		v := NewVerifier(testPolicy(), testSeal(t), cache)
		for _, raw := range raws {
			if _, err := v.Verify(ks, raw, t0); err != nil {
				t.Fatal(err)
			}
		}
		if n := cache.Len(); n > max(size, cacheShards)+cacheShards || n < size*9/10 {
			t.Errorf("%d tokens in a cache of %d", n, size)
		}
		chained := 0
		for i := range cache.shards {
			table := cache.shards[i].table.Load()
			if table == nil {
				continue
			}
			for j := range table.buckets {
				for e := table.buckets[j].Load(); e != nil; e = e.next.Load() {
					chained++
				}
			}
		}
		if chained != cache.Len() {
			t.Errorf("%d tokens can be found, of %d", chained, cache.Len())
		}
	}
	none := NewCache(0)
	v := NewVerifier(testPolicy(), testSeal(t), none)
	if _, err := v.Verify(ks, mustMint(t, ks, testClaims()), t0); err != nil || none.Len() != 0 {
		t.Errorf("%v, %d tokens in a cache of none", err, none.Len())
	}
}

// TestMillionTokensThroughTheCache presents a million tokens once each, beside a few
// tokens that are in constant use. The cache stays within its memory limit, and the
// tokens in use stay cached.
func TestMillionTokensThroughTheCache(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it takes seconds")
	}
	const entries, hot = 100_000, 16
	n := 1_000_000
	if raceDetector {
		n = 2*entries + hot // it takes twenty times as long
	}
	ks := testKeys()[HS256]
	v := NewVerifier(testPolicy(), testSeal(t), NewCache(entries))
	signed := b64(goodHeader(ks)) + "."
	before, after, _ := strings.Cut(goodPayload, `"s1"`)
	nth := func(m hash.Hash, i int) string { // faster than Mint, which takes as long as Verify
		payload := before + `"s` + strconv.Itoa(i) + `"` + after
		raw := base64.RawURLEncoding.AppendEncode([]byte(signed), []byte(payload))
		m.Reset()
		m.Write(raw)
		return string(base64.RawURLEncoding.AppendEncode(append(raw, '.'), m.Sum(nil)))
	}
	mac := func() hash.Hash { return hmac.New(sha256.New, ks.members[0].key.private.([]byte)) }
	see := func(i int, raw string) *Identity {
		id, err := v.Verify(ks, raw, t0)
		if err != nil || id.SessionID() != "s"+strconv.Itoa(i) {
			t.Errorf("token %d: %+v, %v", i, id, err)
			return nil
		}
		return id
	}
	var used [hot]string
	var first [hot]*Identity
	grown := heapGrowth(func() {
		for i := range used {
			used[i] = nth(mac(), i)
			first[i] = see(i, used[i])
		}
		var all sync.WaitGroup
		for w := range 2 {
			all.Go(func() {
				for m, i := mac(), hot+w; i < n && !t.Failed(); i += 2 {
					see(i, nth(m, i))
					if i%1000 > 1 {
						continue
					}
					for j, raw := range used {
						if see(j, raw) != first[j] {
							t.Errorf("token %d, which is in use, was evicted after %d others", j, i)
						}
					}
				}
			})
		}
		all.Wait()
	})
	kept := v.cache.Len()
	t.Logf("%d tokens went through: %d are kept, in %d bytes", n, kept, grown)
	if kept > entries+cacheShards || kept < entries*9/10 {
		t.Errorf("%d tokens in a cache of %d", kept, entries)
	}
	if grown > entries*bytesPerEntry*11/10 {
		t.Errorf("%d tokens take %d bytes", kept, grown)
	}
	runtime.KeepAlive(v)
}

// TestCacheIsBoundedInBytes caches tokens with few, many, nested and long claims of the
// directory. A directory that sends much must not make the cache exceed its memory
// limit.
func TestCacheIsBoundedInBytes(t *testing.T) {
	const entries = 3200
	ks := testKeys()[HS256]
	roles := []any{"editor", "reviewer", "accountant", "driver"}
	for name, extra := range map[string]map[string]any{
		"none": nil, "some": {"roles": roles, "department": "north"}, "nested": {"a": map[string]any{"b": map[string]any{"c": roles}}},
		"many": {"roles": slices.Repeat(roles, 40)}, "long": {"note": strings.Repeat("x", 4000)},
	} {
		raws := make([]string, 2*entries)
		for i := range raws {
			c := testClaims()
			c.SessionID, c.Extra = fmt.Sprint("s", i), extra
			raws[i] = mustMint(t, ks, c)
		}
		v := NewVerifier(testPolicy(), testSeal(t), NewCache(entries))
		used := heapGrowth(func() {
			for _, raw := range raws {
				if _, err := v.Verify(ks, raw, t0); err != nil {
					t.Fatal(err)
				}
			}
		})
		n := v.cache.Len()
		t.Logf("%s: %d tokens, %d bytes, %d each", name, n, used, used/n)
		if limit := entries * bytesPerEntry * 11 / 10; used > limit {
			t.Errorf("%s: %d tokens take %d bytes, over %d", name, n, used, limit)
		}
		if used < entries*bytesPerEntry/2 {
			t.Errorf("%s: %d tokens take %d bytes: the bound is too tight", name, n, used)
		}
		runtime.KeepAlive(v)
	}
}

// heapGrowth returns how many bytes f allocates that stay in use.
func heapGrowth(f func()) int {
	var before, after runtime.MemStats
	for _, m := range []*runtime.MemStats{&before, &after} {
		runtime.GC()
		runtime.GC() // pools are freed by the second collection
		runtime.ReadMemStats(m)
		if m == &before {
			f()
		}
	}
	return int(after.HeapAlloc) - int(before.HeapAlloc)
}

// TestBadTokensNeverEvictGoodOnes floods the cache with ten thousand forgeries of
// cached tokens. An attacker must not be able to push good tokens out.
func TestBadTokensNeverEvictGoodOnes(t *testing.T) {
	ks := testKeys()[HS256]
	cache := NewCache(640)
	v := NewVerifier(testPolicy(), testSeal(t), cache)
	good := tokens(t, ks, 32)
	claims := make([]*Identity, len(good))
	for i, raw := range good {
		claims[i], _ = v.Verify(ks, raw, t0)
	}
	for i := range 10_000 {
		bad := []byte(good[i%len(good)])
		at := 120 + i%(len(bad)-120)
		if bad[at] == 'A' {
			bad[at] = 'B'
		} else {
			bad[at] = 'A'
		}
		if _, err := v.Verify(ks, string(bad), t0); err != ErrInvalid {
			t.Fatal(err)
		}
	}
	for i, raw := range good {
		if c, err := v.Verify(ks, raw, t0); err != nil || c != claims[i] {
			t.Errorf("token %d was evicted: %v", i, err)
		}
	}
}

// TestTokensInUseStay sends a stream of tokens that are each seen only once, beside a
// few tokens in constant use. Most of those in use stay cached.
func TestTokensInUseStay(t *testing.T) {
	ks := testKeys()[HS256]
	v := NewVerifier(testPolicy(), testSeal(t), NewCache(320))
	raws := tokens(t, ks, 4000)
	hot := raws[:20]
	claims := make([]*Identity, len(hot))
	for i, raw := range hot {
		claims[i], _ = v.Verify(ks, raw, t0)
	}
	for i, raw := range raws[20:] { // each is seen once, beside the tokens in use
		v.Verify(ks, raw, t0)
		v.Verify(ks, hot[i%len(hot)], t0)
	}
	stayed := 0
	for i, raw := range hot {
		if c, _ := v.Verify(ks, raw, t0); c == claims[i] {
			stayed++
		}
	}
	if stayed < len(hot)*3/4 {
		t.Errorf("%d of %d tokens in use stayed", stayed, len(hot))
	}
}

// TestExpiredEntriesMakeRoomFirst fills a shard with entries in use, of which one has
// expired: that one is evicted.
func TestExpiredEntriesMakeRoomFirst(t *testing.T) {
	table := &cacheTable{}
	for i := range 8 {
		e := &cacheEntry{identity: Identity{expires: t0.Add(time.Hour).Unix()}}
		if i == 5 {
			e.identity.expires = t0.Unix()
		}
		e.used.Store(true)
		table.ring = append(table.ring, e)
	}
	if at := table.victim(t0); at != 5 {
		t.Errorf("entry %d makes room", at)
	}
}

// TestOtherKeysOrPolicyFindNothing looks a cached token up after a key was removed or
// the policy was changed by a reload. The cache must not answer for the new keys or the
// new policy; a reload that changes nothing keeps the cache.
func TestOtherKeysOrPolicyFindNothing(t *testing.T) {
	a := testKeys()[HS256]
	b, err := newKeySet(a.members) // as after a load that has changed something
	if err != nil {
		t.Fatal(err)
	}
	cache := NewCache(100)
	raw := mustMint(t, a, testClaims())
	p := testPolicy()
	v := NewVerifier(p, testSeal(t), cache)
	first, _ := v.Verify(a, raw, t0)
	if same, _ := NewVerifier(testPolicy(), testSeal(t), cache).Verify(a, raw, t0); same != first {
		t.Error("an equal policy does not find it: a reload empties the cache")
	}
	if other, err := v.Verify(b, raw, t0); err != nil || other == first {
		t.Errorf("found with other keys: %v", err)
	}
	for name, change := range map[string]func(*Policy){
		"issuer":    func(p *Policy) { p.Issuer = "other" },
		"audiences": func(p *Policy) { p.Audience = []string{"other"} },
		"apps":      func(p *Policy) { p.Apps = p.Apps[1:] },
	} {
		v.Verify(a, raw, t0)
		p := testPolicy()
		change(&p)
		if _, err := NewVerifier(p, testSeal(t), cache).Verify(a, raw, t0); err != ErrInvalid {
			t.Errorf("with other %s: %v", name, err)
		}
	}
	digests := map[[32]byte]bool{}
	for _, p := range []Policy{{}, {Issuer: "a"}, {Type: "a"}, {Audience: []string{"a"}}, {Apps: []string{"a"}}, {Audience: []string{"a", "b"}},
		{Audience: []string{"ab"}}, {Audience: []string{"a"}, Apps: []string{"b"}}, {Audience: []string{""}}, {Leeway: 1}} {
		digests[p.digest()] = true
	}
	if len(digests) != 10 {
		t.Error("two policies are taken for one")
	}
}

// TestCacheUnderContention verifies tokens in parallel while the key set changes and
// entries are evicted. No reader may get the identity of another token.
func TestCacheUnderContention(t *testing.T) {
	a := testKeys()[HS256]
	b, err := newKeySet(a.members)
	if err != nil {
		t.Fatal(err)
	}
	cache := NewCache(200)
	v := NewVerifier(testPolicy(), testSeal(t), cache)
	raws := tokens(t, a, 400)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 1500 {
				ks := a
				if g == 7 && i%100 == 0 {
					ks = b
				}
				n := (i*(g+1) + g) % len(raws)
				c, err := v.Verify(ks, raws[n], t0)
				if err != nil || c.SessionID() != fmt.Sprint("s", n) {
					t.Errorf("token %d: %+v, %v", n, c, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
