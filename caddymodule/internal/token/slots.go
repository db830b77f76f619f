package token

import (
	"runtime"
	"sync"
)

// verificationSlots bounds how many signatures this process checks at once, to half the number
// of processors. Only the signature distinguishes a forged token from a good one, so a flood
// of forged tokens would otherwise take all processors. The other half stays free for tokens
// that the cache knows. Waiting requests are served in the order of arrival.
var verificationSlots = sync.OnceValue(func() chan struct{} {
	return make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
})

// signed checks a signature, once a verification slot is free. An HMAC needs no slot:
// it is as cheap as the rest of a request.
func (k *key) signed(text, signature []byte) bool {
	if k.alg != HS256 {
		verificationSlots() <- struct{}{}
		defer func() { <-verificationSlots() }()
	}
	return k.verifier.Verify(text, signature, k.public) == nil
}
