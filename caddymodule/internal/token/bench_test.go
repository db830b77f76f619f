package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"math/big"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// paired measures ours, and reports the median of its time relative to bare. It runs both
// alternately, a few milliseconds each, so that other load on the machine affects both alike.
func paired(b *testing.B, bare, ours func()) {
	chunk := func(f func(), n int) time.Duration {
		start := time.Now()
		for range n {
			f()
		}
		return time.Since(start)
	}
	n := int(max(1, 2*time.Millisecond/max(1, chunk(ours, 1))))
	chunk(bare, n)
	n = int(max(1, 2*time.Millisecond*time.Duration(n)/max(1, chunk(ours, n))))
	var ratios []float64
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += n {
		b.StopTimer()
		before := chunk(bare, n)
		b.StartTimer()
		took := chunk(ours, min(n, b.N-done))
		b.StopTimer()
		if done+n <= b.N {
			ratios = append(ratios, 2*float64(took)/float64(before+chunk(bare, n)))
		}
		b.StartTimer()
	}
	slices.Sort(ratios)
	if len(ratios) > 0 {
		b.ReportMetric(ratios[len(ratios)/2], "x-bare")
	}
}

// BenchmarkVerifyMiss compares a verification without a cache with the standard
// library's bare check of the same signature.
func BenchmarkVerifyMiss(b *testing.B) {
	for _, alg := range algorithms {
		ks := testKeys()[alg]
		raw := mustMint(b, ks, testClaims())
		dot := strings.LastIndexByte(raw, '.')
		sig := make([]byte, 1024)
		sig, _ = decodeSegment(sig, []byte(raw[dot+1:]))
		signed := []byte(raw[:dot])
		b.Run(string(alg), func(b *testing.B) {
			v := NewVerifier(testPolicy(), testSeal(b), nil)
			paired(b, func() {
				if !bareVerify(barePublic(ks), signed, sig) {
					b.Fatal("bad signature")
				}
			}, func() {
				if _, err := v.Verify(ks, raw, t0); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

func barePublic(ks *KeySet) any {
	if p, ok := ks.members[0].public.(publicKey); ok {
		return p.key
	}
	return ks.members[0].public
}

func bareVerify(public any, signed, sig []byte) bool {
	sum := sha256.Sum256(signed)
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.Verify(k, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
	case ed25519.PublicKey:
		return ed25519.Verify(k, signed, sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], sig) == nil
	case []byte:
		m := hmac.New(sha256.New, k)
		m.Write(signed)
		return hmac.Equal(m.Sum(nil), sig)
	}
	return false
}

// BenchmarkMint compares minting with the standard library's bare signature.
func BenchmarkMint(b *testing.B) {
	for _, alg := range algorithms {
		ks := testKeys()[alg]
		raw := mustMint(b, ks, testClaims())
		signed := []byte(raw[:strings.LastIndexByte(raw, '.')])
		b.Run(string(alg), func(b *testing.B) {
			seal, c := testSeal(b), testClaims()
			c.ID = "" // a random one, as for every token
			paired(b, func() { bareSign(b, ks.members[0].private, signed) }, func() {
				if _, err := Mint(ks, "", seal, c); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

func bareSign(b *testing.B, private any, signed []byte) {
	sum := sha256.Sum256(signed)
	var err error
	switch k := private.(type) {
	case stableECDSA:
		_, err = ecdsa.SignASN1(rand.Reader, k.PrivateKey, sum[:])
	case ed25519.PrivateKey:
		ed25519.Sign(k, signed)
	case *rsa.PrivateKey:
		_, err = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	case []byte:
		m := hmac.New(sha256.New, k)
		m.Write(signed)
		m.Sum(nil)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// manyTokens mints n tokens of distinct users.
func manyTokens(b *testing.B, ks *KeySet, n int) []string {
	raws := make([]string, n)
	seal, c := testSeal(b), testClaims()
	for i := range raws {
		c.Subject = fmt.Sprintf("0197f0a4-7f7c-7c43-8a9a-%012d", i)
		c.SessionID = fmt.Sprintf("0197f0a4-7f7c-7c43-8a9b-%012d", i)
		c.ID = fmt.Sprintf("0197f0a4-7f7c-7c43-8a9c-%012d", i)
		var err error
		if raws[i], err = Mint(ks, "", seal, c); err != nil {
			b.Fatal(err)
		}
	}
	return raws
}

// BenchmarkVerifyHit looks tokens up in turn. Run it with -cpu 1,2.
func BenchmarkVerifyHit(b *testing.B) {
	for _, alg := range []Algorithm{ES256, HS256} {
		for _, n := range []int{1, 1000, 20_000, 100_000, 1_000_000} {
			if alg == ES256 && n > 1000 {
				continue
			}
			b.Run(fmt.Sprintf("%s/%d", alg, n), func(b *testing.B) {
				ks := testKeys()[alg]
				raws := manyTokens(b, ks, n)
				v := NewVerifier(testPolicy(), testSeal(b), NewCache(2*n+cacheShards*8))
				for _, raw := range raws {
					if _, err := v.Verify(ks, raw, t0); err != nil {
						b.Fatal(err)
					}
				}
				runtime.GC()
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for i := 0; pb.Next(); i++ {
						if _, err := v.Verify(ks, raws[i%n], t0); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

// BenchmarkReject measures the cost of refusing malformed and forged tokens.
func BenchmarkReject(b *testing.B) {
	ks := testKeys()[ES256]
	raw := mustMint(b, ks, testClaims())
	dot := strings.IndexByte(raw, '.')
	for name, bad := range map[string]string{
		"header":           "x" + raw,
		"no dots":          strings.Repeat("A", 600),
		"dots":             strings.Repeat(".", 8000),
		"short":            raw[:len(raw)-1],
		"base64 signature": raw[:len(raw)-10] + "!" + raw[len(raw)-9:],
		"base64 payload":   raw[:dot+100] + "!" + raw[dot+101:],
		"1 MB":             strings.Repeat("A", 1<<20),
		"signature":        raw[:dot+100] + "ABCD" + raw[dot+104:],
	} {
		b.Run(name, func(b *testing.B) {
			v := NewVerifier(testPolicy(), testSeal(b), NewCache(1000))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(ks, bad, t0); err != ErrInvalid {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCacheMemory reports the memory of a cached token, all included.
func BenchmarkCacheMemory(b *testing.B) {
	const n = 100_000
	ks := testKeys()[HS256]
	raws := manyTokens(b, ks, n)
	for b.Loop() {
		cache := NewCache(n)
		v := NewVerifier(testPolicy(), testSeal(b), cache)
		used := heapGrowth(func() {
			for _, raw := range raws {
				if _, err := v.Verify(ks, raw, t0); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.ReportMetric(float64(used)/float64(cache.Len()), "B/token")
		b.ReportMetric(float64(cache.Len()), "tokens")
		b.ReportMetric(float64(used)/(1<<20), "MiB")
		runtime.KeepAlive(v)
	}
}
