package session

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
)

// number returns the i-th of many ids that look random.
func number(i int) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(i))
	sum := sha256.Sum256(b[:])
	return sid(sum[:16]).String()
}

// ticks sweeps all shards once.
func ticks(r *Revoked, now time.Time) {
	for range shards {
		r.Tick(now)
	}
}

// After Add returns, no request with the session's token may pass.
func TestRevokedAtOnce(t *testing.T) {
	r := NewRevoked()
	until := start.Add(time.Hour)
	for _, id := range []string{number(1), "a name that somebody else gave", ""} {
		if r.Contains(id) {
			t.Errorf("%q: revoked already", id)
		}
		r.Add(id, until)
		r.Add(id, until)
		if !r.Contains(id) {
			t.Errorf("%q: not revoked", id)
		}
	}
	if r.Len() != 3 || r.Contains(number(2)) || r.Contains("another") {
		t.Error("more is revoked than should be")
	}
}

// The set must not grow for ever: a revocation goes once the last token that it could
// refuse has expired.
func TestRevocationsAreDroppedOnceUseless(t *testing.T) {
	r := NewRevoked()
	r.Add(number(1), start.Add(time.Hour))
	r.Add(number(2), start.Add(2*time.Hour))
	r.Add(number(2), start.Add(time.Hour)) // an earlier time does not shorten it
	r.Add(number(3), start.Add(-time.Hour))
	r.Add(number(4), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC))
	r.Add(number(5), time.Time{})
	ticks(r, start.Add(time.Hour))
	for i, want := range []bool{1: true, 2: true, 3: false, 4: true, 5: false} {
		if i > 0 && r.Contains(number(i)) != want {
			t.Errorf("%d an hour later: revoked is %v", i, !want)
		}
	}
	ticks(r, start.Add(time.Hour+2*time.Second))
	if r.Contains(number(1)) || !r.Contains(number(2)) {
		t.Error("the wrong one was dropped")
	}
	ticks(r, start.Add(3*time.Hour))
	if r.Contains(number(2)) || r.Len() != 1 {
		t.Error("kept for longer than needed")
	}
}

// A revocation that is dropped too early brings a token of an ended session back to
// life.
func TestRevocationOutlivesEveryToken(t *testing.T) {
	for _, life := range []time.Duration{time.Minute, time.Hour, 24 * time.Hour, 100 * time.Hour} {
		until := Settings{TokenLife: life}.Until(start)
		// The token was minted by a clock that is a minute ahead, and is verified by
		// one that is a minute behind.
		if last := start.Add(time.Minute + life + time.Minute); until.Before(last) {
			t.Errorf("a token of %v lives until %v, its revocation until %v", life, last, until)
		}
		// Another site's token lives for a day.
		if until.Before(start.Add(24 * time.Hour)) {
			t.Errorf("%v: forgotten before a day is over", life)
		}
	}
}

// Every request looks into the set, so a lookup must not allocate.
func TestContainsAllocatesNothing(t *testing.T) {
	r := NewRevoked()
	in, out := number(1), number(2)
	r.Add(in, start)
	if n := testing.AllocsPerRun(1000, func() {
		if !r.Contains(in) || r.Contains(out) {
			t.Error("wrong answer")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// An operator revokes a million sessions. The set may take 45 MiB for them, not more.
func TestAMillionRevocationsFitIn45MiB(t *testing.T) {
	before := heapInUse()
	r := NewRevoked()
	for i := range 1_000_000 {
		r.Add(number(i), start.Add(time.Hour))
	}
	if full := heapInUse() - before; full > 45<<20 {
		t.Errorf("%d MiB", full>>20)
	} else {
		t.Logf("%.1f MiB", float64(full)/(1<<20))
	}
	ticks(r, start.Add(2*time.Hour))
	if empty := heapInUse() - before; r.Len() != 0 || empty > 1<<20 {
		t.Errorf("after their end %d are left, in %d KiB", r.Len(), empty>>10)
	}
	runtime.KeepAlive(r)
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Readers run beside writers and sweeps: a revoked session must never be missed.
func TestRevokedUnderLoad(t *testing.T) {
	r := NewRevoked()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				id := number(g*500 + i)
				r.Add(id, start.Add(time.Hour))
				if !r.Contains(id) {
					t.Error("not revoked at once")
				}
				watched := r.Watch(number(i), start, ending(func(error) {}))
				r.Tick(start)
				watched.Release()
			}
		})
	}
	wg.Wait()
	if r.Len() != 4000 || r.Watching() != 0 {
		t.Errorf("%d revoked, %d watched", r.Len(), r.Watching())
	}
}

// The lookup that every request pays for, in an empty, a small and a large set.
func BenchmarkContains(b *testing.B) {
	for _, n := range []int{0, 1000, 1_000_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			r := NewRevoked()
			ids := make([]string, 1<<14) // half of them are revoked, unless the set is empty
			for i := range n {
				r.Add(number(i), start)
			}
			for i := range ids {
				if ids[i] = number(i * 61 % (n + 1)); i%2 == 0 {
					ids[i] = number(-i - 1)
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					r.Contains(ids[i%len(ids)])
				}
			})
		})
	}
}

// A mass revocation adds sessions one after another.
func BenchmarkAdd(b *testing.B) {
	r := NewRevoked()
	ids := make([]string, 1<<16)
	for i := range ids {
		ids[i] = number(i)
	}
	for i := 0; b.Loop(); i++ {
		r.Add(ids[i%len(ids)], start)
	}
}

// A random sequence adds, repeats and drops sessions, including ids of other issuers. A
// plain map is the model.
func TestRevokedKeepsWhatAMapWould(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	r, want := NewRevoked(), map[string]time.Time{}
	name := func(i int) string {
		if i%3 == 0 {
			return fmt.Sprint("theirs ", i)
		}
		return number(i)
	}
	now := start
	for round := range 30 {
		for range 400 {
			id, until := name(rnd.IntN(3000)), now.Add(time.Duration(rnd.IntN(3600))*time.Second)
			r.Add(id, until)
			if until.After(want[id]) {
				want[id] = until
			}
		}
		now = now.Add(time.Duration(rnd.IntN(900)) * time.Second)
		ticks(r, now)
		for id, until := range want {
			if !until.Add(time.Second).After(now) {
				delete(want, id)
			}
		}
		for i := range 3000 {
			if _, in := want[name(i)]; r.Contains(name(i)) != in {
				t.Fatalf("round %d: %s: got %v", round, name(i), !in)
			}
		}
		if r.Len() != len(want) {
			t.Fatalf("round %d: %d, want %d", round, r.Len(), len(want))
		}
	}
}

// A site that shares a signing key with us names its sessions as it likes, also by ids that begin
// with zeros. Such a session stays revoked when the table grows.
func TestRevokedKeepsAnIDOfZeros(t *testing.T) {
	r := NewRevoked()
	zeros := make([]string, 64)
	for i := range zeros {
		zeros[i] = fmt.Sprintf("00000000-0000-0000-8000-%010x07", i)
		r.Add(zeros[i], start.Add(time.Hour))
	}
	for i, id := range zeros {
		if !r.Contains(id) {
			t.Errorf("%d: %s is lost", i, id)
		}
	}
}

// BenchmarkRevokedMemory reports the memory of a million revoked sessions.
func BenchmarkRevokedMemory(b *testing.B) {
	for b.Loop() {
		before := heapInUse()
		r := NewRevoked()
		for i := range 1_000_000 {
			r.Add(number(i), start.Add(time.Hour))
		}
		b.ReportMetric(float64(heapInUse()-before)/(1<<20), "MiB")
		runtime.KeepAlive(r)
	}
}
