package token

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// slowVerifier records how many signatures are checked at the same time.
type slowVerifier struct{ now, most, all atomic.Int64 }

func (s *slowVerifier) Verify(_, _ []byte, _ any) error {
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	time.Sleep(time.Millisecond)
	if s.all.Add(1)%3 == 0 {
		panic("a check that panics gives its slot back")
	}
	return errors.New("forged")
}

// TestSignaturesUseHalfTheProcessors has many forged tokens checked at once. Only as
// many checks as there are verification slots may run together, a check that panics
// must give its slot back, and HMACs must not wait.
func TestSignaturesUseHalfTheProcessors(t *testing.T) {
	for alg, ks := range testKeys() {
		k := *ks.members[0].key
		slow := new(slowVerifier)
		k.verifier = slow
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				defer func() { _ = recover() }()
				if k.signed(nil, nil) {
					t.Error("a forged signature is good")
				}
			})
		}
		all.Wait()
		bound := int64(max(1, runtime.GOMAXPROCS(0)/2))
		switch most := slow.most.Load(); {
		case alg != HS256 && most > bound:
			t.Errorf("%s: %d at once, want %d at most", alg, most, bound)
		case alg == HS256 && most <= bound:
			t.Errorf("an HMAC waited: %d at once", most)
		}
	}
	if n := len(verificationSlots()); n > 0 {
		t.Errorf("%d slots were not given back", n)
	}
}
