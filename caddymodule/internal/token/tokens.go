package token

import (
	"sync/atomic"
	"time"
)

// Tokens decides on the tokens that clients present to a site: by the keys in force, the
// [Verifier], and whether the session has ended.
type Tokens struct {
	// Static is the key set of a configured key; nil: the keys are those of Ring.
	Static *KeySet
	Ring   *Ring
	// Verifier returns the verifier in force. While there is none, it returns the error
	// that Verify is to return for a token that may be ours.
	Verifier func() (*Verifier, error)
	// Ended reports whether a session has ended.
	Ended func(sessionID string) bool
	// ReloadRing reads the ring in the background.
	ReloadRing func()

	reloadedAt atomic.Int64 // when ReloadRing was last called
}

// reloadEvery is how often tokens that name an unknown key make the ring reload before
// its time.
const reloadEvery = 10 * time.Second

// Keys returns the key set in force; nil before the first load.
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

// Verify checks signature and claims, and then whether the session has ended. A token
// that is certainly not ours is invalid even while no verifier is in force.
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

// reloadSoon has the ring reloaded, as another replica may have made a key that is not
// known here. Clients choose the name of the key, so this is limited.
func (t *Tokens) reloadSoon(now time.Time) {
	last := t.reloadedAt.Load()
	if now.UnixNano()-last >= int64(reloadEvery) && t.reloadedAt.CompareAndSwap(last, now.UnixNano()) {
		t.ReloadRing()
	}
}
