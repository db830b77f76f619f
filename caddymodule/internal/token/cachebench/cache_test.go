package cachebench

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/maypok86/otter/v2"
	"github.com/puzpuzpuz/xsync/v4"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

const (
	entries = 100_000
	policy  = "wx-auth"
)

var now = time.Unix(1_772_366_400, 0)

// cache is one of the compared caches: get returns a token's identity if it is cached,
// and put stores it. keep holds the cache in memory.
type cache struct {
	name string
	get  func(raw string) *token.Identity
	put  func(raw string, id *token.Identity)
	keep any
}

// fixture has keys and tokens of distinct users, for all caches alike.
type fixture struct {
	keys *token.KeySet
	seal token.Sealer
	raws []string
}

func newFixture(b *testing.B, n int) *fixture {
	b.Helper()
	f := new(fixture)
	var err error
	if f.keys, err = token.StaticKeys("a secret of the benchmarks, long enough", token.HS256); err != nil {
		b.Fatal(err)
	}
	if f.seal, err = token.NewSeal(bytes.Repeat([]byte{7}, 32)); err != nil {
		b.Fatal(err)
	}
	for i := range n {
		raw, err := token.Mint(f.keys, "", f.seal, token.Claims{
			Issuer: policy, Audience: []string{policy}, AppID: "wx0123456789abcdef",
			Subject:   fmt.Sprintf("0197f0a4-7f7c-7c43-8a9a-%012d", i),
			SessionID: fmt.Sprintf("0197f0a4-7f7c-7c43-8a9b-%012d", i),
			OpenID:    "oABCDEFGHIJKLMNOPQRSTUVWXYZ0", UnionID: "uABCDEFGHIJKLMNOPQRSTUVWXYZ0",
			Phone: "+8613800138000", IssuedAt: now, Expires: now.Add(time.Hour),
		})
		if err != nil {
			b.Fatal(err)
		}
		f.raws = append(f.raws, raw)
	}
	return f
}

func (f *fixture) verifier(c *token.Cache) *token.Verifier {
	return token.NewVerifier(token.Policy{Issuer: policy, Audience: []string{policy}, Apps: []string{"wx0123456789abcdef"}}, f.seal, c)
}

// caches returns the compared caches, each with the given capacity. Our cache is
// measured with everything that Verify does around it.
func (f *fixture) caches(room int) []cache {
	ours := f.verifier(token.NewCache(room))
	verify := func(raw string) *token.Identity {
		id, err := ours.Verify(f.keys, raw, now)
		if err != nil {
			panic(err)
		}
		return id
	}
	o := otter.Must(&otter.Options[[32]byte, *token.Identity]{MaximumSize: room})
	x := xsync.NewMap[[32]byte, *token.Identity]()
	return []cache{
		{"ours", verify, func(raw string, _ *token.Identity) { verify(raw) }, ours},
		{"otter", func(raw string) *token.Identity { id, _ := o.GetIfPresent(sum(raw)); return id },
			func(raw string, id *token.Identity) { o.Set(sum(raw), id) }, o},
		{"xsync", func(raw string) *token.Identity { id, _ := x.Load(sum(raw)); return id },
			func(raw string, id *token.Identity) { x.Store(sum(raw), id) }, x},
	}
}

func sum(raw string) [32]byte {
	return sha256.Sum256(unsafe.Slice(unsafe.StringData(raw), len(raw)))
}

// BenchmarkHit looks tokens up on all cores. The caches alternate every few
// milliseconds, so that the medians stay comparable whatever else runs on the machine.
func BenchmarkHit(b *testing.B) {
	f := newFixture(b, 20_000)
	for _, n := range []int{1, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			caches, fresh := f.caches(2*entries), f.verifier(nil)
			for _, c := range caches {
				for _, raw := range f.raws[:n] {
					id, err := fresh.Verify(f.keys, raw, now)
					if err != nil {
						b.Fatal(err)
					}
					c.put(raw, id)
				}
			}
			const chunk = 5000
			cores := runtime.GOMAXPROCS(0)
			took := make([][]float64, len(caches))
			at := 0
			for b.Loop() {
				for i, c := range caches {
					start := time.Now()
					var workers sync.WaitGroup
					for w := range cores {
						workers.Go(func() {
							for j := range chunk {
								if c.get(f.raws[(at+w*7919+j)%n]) == nil {
									b.Error("no hit")
									return
								}
							}
						})
					}
					workers.Wait()
					took[i] = append(took[i], float64(time.Since(start).Nanoseconds())/float64(chunk*cores))
				}
				at += chunk
			}
			for i, c := range caches {
				slices.Sort(took[i])
				b.ReportMetric(took[i][len(took[i])/2], c.name+"-ns")
			}
		})
	}
}

// BenchmarkMemory reports the memory of one cached token with its identity.
func BenchmarkMemory(b *testing.B) {
	f := newFixture(b, entries)
	for b.Loop() {
		for i := range 3 {
			before := heap()
			c, fresh := f.caches(entries)[i], f.verifier(nil)
			for _, raw := range f.raws {
				if c.name == "ours" {
					c.put(raw, nil)
					continue
				}
				id, err := fresh.Verify(f.keys, raw, now)
				if err != nil {
					b.Fatal(err)
				}
				c.put(raw, id)
			}
			b.ReportMetric(float64(heap()-before)/entries, c.name+"-B")
			runtime.KeepAlive(c)
		}
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
