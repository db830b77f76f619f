package token

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// StoredKey is a signing key as the store keeps it. The store encrypts Private.
type StoredKey struct {
	ID         string // kid
	Algorithm  Algorithm
	Private    []byte    // the private key as a JWK, JSON
	Generation int64     // 1, 2, … for each algorithm; (Algorithm, Generation) is unique
	CreatedAt  time.Time // when it was stored and published
	SignsFrom  time.Time // the key signs no token before this time
	RetiredAt  time.Time // the key signs no token from this time on; zero: until the next generation signs
}

// KeyStore stores the keys of a ring.
type KeyStore interface {
	// Keys returns all keys, in any order.
	Keys(ctx context.Context) ([]StoredKey, error)
	// AddKey stores a key, unless the store already has one of the same algorithm and
	// generation. In that case another replica was faster, and added is false.
	AddKey(ctx context.Context, k StoredKey) (added bool, err error)
	// RemoveKeys deletes keys by id. An unknown id is not an error.
	RemoveKeys(ctx context.Context, ids []string) error
}

// RingSettings are the settings of generated keys. Where several sites share a ring,
// Lifetime and Leeway are the longest among them.
type RingSettings struct {
	Algorithm Algorithm     // of the signing key
	Rotate    time.Duration // how long a key signs; 0: for ever
	Lifetime  time.Duration // of a token
	Leeway    time.Duration // in the verification of a token
}

const (
	// publishAhead is how long a key is stored and published before it signs. In that
	// time every replica loads it (they do so each minute) and every verifier fetches
	// the JWKS again (max-age=300).
	publishAhead = 10 * time.Minute
	// clockSkew is the largest expected difference between the clocks of two replicas.
	clockSkew = time.Minute
	// removeAfter is how long a key stays in the store after it has stopped verifying.
	removeAfter = 10 * time.Minute
)

// Ring holds the generated keys of a store for one signing algorithm. It is kept over
// reloads. Sites that share a store and sign with different algorithms have a ring
// each. A Ring is safe for concurrent use.
type Ring struct {
	mu       sync.Mutex // one Load at a time
	loaded   []loadedKey
	keys     atomic.Pointer[KeySet]
	loadedAt atomic.Pointer[time.Time]
}

// loadedKey identifies a key in its present state. Two loads with equal lists publish
// the same KeySet, so that the caches that depend on it stay valid.
type loadedKey struct {
	id            string
	from, retired int64
}

// NewRing makes a ring that has no keys until it is loaded.
func NewRing() *Ring { return &Ring{} }

// Keys returns the keys of the last successful Load, or nil before it.
func (r *Ring) Keys() *KeySet { return r.keys.Load() }

// LoadedAt returns the time of the last successful Load, or zero before it.
func (r *Ring) LoadedAt() time.Time {
	if t := r.loadedAt.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// Load reads the keys. If the first or the next key is due, it makes and stores one.
// Then it publishes the result and removes the keys whose tokens have all expired.
// Replicas need not talk to each other to agree: if two make the same generation, the
// store takes one, and both use it.
//
// After an error the former keys stay in use, except that an error of removing comes
// after the new ones were published.
func (r *Ring) Load(ctx context.Context, st KeyStore, set RingSettings, now time.Time) error {
	if !set.Algorithm.known() || set.Rotate < 0 || set.Lifetime <= 0 || set.Leeway < 0 {
		return fmt.Errorf("loading the signing keys: settings out of range: %+v", set)
	}
	r.mu.Lock()
	defer r.mu.Unlock()

	var stored timeline
	for try := 0; ; try++ {
		var err error
		if stored, err = readKeys(ctx, st); err != nil {
			return fmt.Errorf("loading the signing keys: %w", err)
		}
		next, due := stored.next(set, now)
		if !due {
			break
		}
		if try == maxAddTries {
			return fmt.Errorf("loading the signing keys: %w", errNotKept)
		}
		// Either our key or another replica's was stored. Read it from the store in
		// both cases.
		if _, err := addNew(ctx, st, next); err != nil {
			return err
		}
	}

	verifying, removable := stored.arrange(set, now)
	if err := r.publish(verifying); err != nil {
		return fmt.Errorf("loading the signing keys: %w", err)
	}
	r.loadedAt.Store(&now)
	if len(removable) > 0 {
		if err := st.RemoveKeys(ctx, removable); err != nil {
			return fmt.Errorf("removing retired signing keys: %w", err)
		}
	}
	return nil
}

func (r *Ring) publish(verifying []StoredKey) error {
	loaded := make([]loadedKey, len(verifying))
	for i, k := range verifying {
		loaded[i] = loadedKey{id: k.ID, from: k.SignsFrom.UnixNano()}
		if !k.RetiredAt.IsZero() {
			loaded[i].retired = k.RetiredAt.UnixNano()
		}
	}
	if r.keys.Load() != nil && slices.Equal(loaded, r.loaded) {
		return nil
	}
	known := make(map[string]*key)
	if ks := r.keys.Load(); ks != nil {
		for _, m := range ks.members {
			known[m.id] = m.key
		}
	}
	members := make([]member, len(verifying))
	for i, k := range verifying {
		parsed := known[k.ID]
		if parsed == nil {
			var err error
			if parsed, err = parseKey(string(k.Private), k.Algorithm); err != nil {
				return fmt.Errorf("the %s key %s in the store: %w", k.Algorithm, k.ID, err)
			}
		}
		if parsed.id != k.ID || parsed.alg != k.Algorithm {
			return fmt.Errorf("the %s key %s in the store is another key", k.Algorithm, k.ID)
		}
		members[i] = member{key: parsed, from: k.SignsFrom, retired: k.RetiredAt}
	}
	ks, err := newKeySet(members)
	if err != nil {
		return err
	}
	r.loaded = loaded
	r.keys.Store(ks)
	return nil
}

// timeline holds the stored keys, with each algorithm's newest generation first.
type timeline []StoredKey

func readKeys(ctx context.Context, st KeyStore) (timeline, error) {
	keys, err := st.Keys(ctx)
	if err != nil {
		return nil, err
	}
	// A newer version of this program may have stored keys for algorithms that this one
	// does not know.
	t := timeline(slices.DeleteFunc(slices.Clone(keys), func(k StoredKey) bool { return !k.Algorithm.known() }))
	slices.SortFunc(t, func(a, b StoredKey) int {
		return cmp.Or(cmp.Compare(a.Algorithm, b.Algorithm), -cmp.Compare(a.Generation, b.Generation))
	})
	return t, nil
}

func (t timeline) newest(alg Algorithm) (StoredKey, bool) {
	i := slices.IndexFunc(t, func(k StoredKey) bool { return k.Algorithm == alg })
	if i < 0 {
		return StoredKey{}, false
	}
	return t[i], true
}

// next returns the key to make, without its key material, and whether one is due.
func (t timeline) next(set RingSettings, now time.Time) (StoredKey, bool) {
	k := StoredKey{Algorithm: set.Algorithm, Generation: 1, CreatedAt: now, SignsFrom: now.Add(publishAhead)}
	newest, ok := t.newest(set.Algorithm)
	if !ok {
		// The very first key signs at once. After a change of the algorithm, the key of
		// the former algorithm signs until every verifier knows this one.
		if !t.canSign(now) {
			k.SignsFrom = now
		}
		return k, true
	}
	k.Generation = newest.Generation + 1
	if !newest.RetiredAt.IsZero() {
		if !t.canSign(now) {
			k.SignsFrom = now
		}
		return k, true
	}
	if set.Rotate == 0 {
		return k, false
	}
	ends := newest.SignsFrom.Add(set.Rotate)
	if ends.After(k.SignsFrom) {
		k.SignsFrom = ends
	}
	return k, !now.Before(ends.Add(-publishAhead))
}

// canSign reports whether any key may sign now.
func (t timeline) canSign(now time.Time) bool {
	for i, k := range t {
		if retired := t.retired(i); !now.Before(k.SignsFrom) && (retired.IsZero() || now.Before(retired)) {
			return true
		}
	}
	return false
}

// retired returns when a key stops signing, either because its RetiredAt says so or
// because the next generation signs. It is zero if there is no such time yet.
func (t timeline) retired(i int) time.Time {
	at := t[i].RetiredAt
	for j := i - 1; j >= 0 && t[j].Algorithm == t[i].Algorithm; j-- {
		if from := t[j].SignsFrom; at.IsZero() || from.Before(at) {
			at = from
		}
	}
	return at
}

// arrange returns the keys that verify, preferred signers first, and the ids of the keys that
// the store need not keep.
//
// A key is retired once the next generation signs. It verifies until the last token that it
// can have signed has expired. The newest key of another algorithm has no next generation:
// either the algorithm was changed, or another site with the same store still uses it. Such a
// key verifies for as long as our own rotation would have let it sign. It is never removed,
// because the other site's ring would lose it.
func (t timeline) arrange(set RingSettings, now time.Time) (verifying []StoredKey, removable []string) {
	verifies := set.Lifetime + set.Leeway + clockSkew
	var others, stale []StoredKey
	for i, k := range t {
		newest := i == 0 || t[i-1].Algorithm != k.Algorithm
		retired := t.retired(i)
		k.RetiredAt = retired
		overdue := newest && set.Rotate > 0 && now.After(k.SignsFrom.Add(set.Rotate+publishAhead+verifies))
		switch {
		case !retired.IsZero() && now.After(retired.Add(verifies)):
			if !newest && now.After(retired.Add(verifies+removeAfter)) {
				removable = append(removable, k.ID)
			}
		case k.Algorithm != set.Algorithm:
			if !overdue {
				others = append(others, k)
			}
		case overdue:
			stale = append(stale, k)
		default:
			verifying = append(verifying, k)
		}
	}
	slices.SortStableFunc(others, func(a, b StoredKey) int { return b.SignsFrom.Compare(a.SignsFrom) })
	return slices.Concat(verifying, others, stale), removable
}
