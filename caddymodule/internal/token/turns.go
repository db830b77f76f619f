package token

import (
	"runtime"
	"sync"
)

// turns bounds how many signatures are checked at once in this process: half as many as
// there are processors. A flood of forged tokens, which only their signatures tell from
// good ones, leaves the other half to the tokens that the cache knows. Who waits is
// served in the order of arrival.
var turns = sync.OnceValue(func() chan struct{} {
	return make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
})

// signed checks a signature when it is its turn. An HMAC needs none, it is as cheap as
// what else a request costs.
func (k *key) signed(text, signature []byte) bool {
	if k.alg != HS256 {
		turns() <- struct{}{}
		defer func() { <-turns() }()
	}
	return k.verifier.Verify(text, signature, k.public) == nil
}
