package token

import (
	"sync/atomic"
	"time"
)

// Tokens decides on the tokens that clients present to a site. It uses the current keys and
// the [Verifier], and checks whether the session has ended.
type Tokens struct {
	// Static is the key set of a configured key; nil: the keys are those of Ring.
	Static *KeySet
	Ring   *Ring
	// Verifier returns the current verifier. While there is none, it returns the error that
	// Verify is to return for a token that may be ours.
	Verifier func() (*Verifier, error)
	// Ended reports whether a session has ended.
	Ended func(sessionID string) bool
	// ReloadRing reads the ring in the background.
	ReloadRing func()

	reloadedAt atomic.Int64 // when ReloadRing was last called
}

// reloadEvery is the least time between two reloads of the ring that are caused by tokens with
// an unknown key.
const reloadEvery = 10 * time.Second

// Keys returns the current key set; nil before the first load.
func (t *Tokens) Keys() *KeySet {
	if t.Static != nil {
		return t.Static
	}
	return t.Ring.Keys()
}

// Ours reports whether a token begins with a header that we write. While no keys are
// loaded, any header of that form counts: until then our tokens must not reach an
// upstream, and another system's must not be removed.
func (t *Tokens) Ours(raw string) bool {
	if ks := t.Keys(); ks != nil {
		return ks.Ours(raw)
	}
	return new(KeySet).NamesUnknownKey(raw)
}

// Verify checks signature and claims, and then whether the session has ended. A token that is
// certainly not ours is invalid even while there is no verifier.
func (t *Tokens) Verify(raw string, now time.Time) (*Identity, error) {
	v, err := t.Verifier()
	if err != nil {
		if !t.Ours(raw) {
			return nil, ErrInvalid
		}
		return nil, err
	}
	ks := t.Keys()
	id, err := v.Verify(ks, raw, now)
	if err != nil {
		if t.Static == nil && ks.NamesUnknownKey(raw) {
			t.reloadSoon(now)
		}
		return nil, err
	}
	if t.Ended(id.SessionID()) {
		return nil, ErrRevoked
	}
	return id, nil
}

// reloadSoon starts a reload of the ring, because another replica may have made a key that is
// not known here. Clients choose the key that a token names, so such reloads are limited.
// A time in the future is from before the clock was set back.
func (t *Tokens) reloadSoon(now time.Time) {
	last := t.reloadedAt.Load()
	since := now.UnixNano() - last
	if (since < 0 || since >= int64(reloadEvery)) && t.reloadedAt.CompareAndSwap(last, now.UnixNano()) {
		t.ReloadRing()
	}
}
