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

// StoredKey is a signing key as the key store keeps it. The store seals Private.
type StoredKey struct {
	ID         string // kid
	Algorithm  Algorithm
	Private    []byte    // the private key as a JWK, JSON
	Generation int64     // 1, 2, … for each algorithm; (Algorithm, Generation) is unique
	CreatedAt  time.Time // when it was stored, and so published
	SignsFrom  time.Time // it signs no token before
	RetiredAt  time.Time // it signs no token from then on; zero: until the next generation signs
}

// KeyStore is where a ring's keys are kept.
type KeyStore interface {
	// Keys returns all keys, in any order.
	Keys(ctx context.Context) ([]StoredKey, error)
	// AddKey stores a key, unless there is one of the same algorithm and
	// generation already: another replica was quicker, and added is false.
	AddKey(ctx context.Context, k StoredKey) (added bool, err error)
	// RemoveKeys deletes keys by id. Ids that are unknown are no error.
	RemoveKeys(ctx context.Context, ids []string) error
}

// RingSettings is what a configuration says of generated keys. Where several
// share a ring, Lifetime and Leeway are the longest of theirs.
type RingSettings struct {
	Algorithm Algorithm     // of the key that signs
	Rotate    time.Duration // how long a key signs; 0: for ever
	Lifetime  time.Duration // of the tokens
	Leeway    time.Duration // that their verification allows
}

const (
	// publishAhead is how long a key is stored and published before it signs:
	// long enough for every replica to have loaded it (each minute) and for
	// every verifier to have fetched the JWKS again (max-age=300).
	publishAhead = 10 * time.Minute
	// clockSkew is how far the clocks of two replicas may differ.
	clockSkew = time.Minute
	// removeAfter is how long a key that verifies no more stays in the store.
	removeAfter = 10 * time.Minute
)

// Ring is the generated keys of a store for one algorithm that signs, kept over
// reloads. Sites that share a store and sign with different algorithms have a
// ring each. It is safe for concurrent use.
type Ring struct {
	mu       sync.Mutex // one Load at a time
	loaded   []loadedKey
	keys     atomic.Pointer[KeySet]
	loadedAt atomic.Pointer[time.Time]
}

// loadedKey is a key as the ring uses it. Two loads with equal lists publish
// the same KeySet, so that what is cached for it stays.
type loadedKey struct {
	id            string
	from, retired int64
}

// NewRing makes a ring that has no keys until it is loaded.
func NewRing() *Ring { return &Ring{} }

// Keys returns the keys of the last Load that succeeded; nil before it.
func (r *Ring) Keys() *KeySet { return r.keys.Load() }

// LoadedAt is the time of the last Load that succeeded; zero before it.
func (r *Ring) LoadedAt() time.Time {
	if t := r.loadedAt.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// Load reads the keys, makes and stores the first or the next one where it is
// due, publishes the result, and removes the keys whose tokens have all
// expired. Replicas agree without talking: of two that make the same generation
// the store takes one, and both use it.
//
// After an error the former keys stay, but for one of removing: then the new
// ones are in force already.
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
		// Whether ours or another replica's was taken: read it as it is stored.
		if _, err := addNew(ctx, st, next); err != nil {
			return err
		}
	}

	live, gone := stored.arrange(set, now)
	if err := r.publish(live); err != nil {
		return fmt.Errorf("loading the signing keys: %w", err)
	}
	r.loadedAt.Store(&now)
	if len(gone) > 0 {
		if err := st.RemoveKeys(ctx, gone); err != nil {
			return fmt.Errorf("removing retired signing keys: %w", err)
		}
	}
	return nil
}

func (r *Ring) publish(live []StoredKey) error {
	loaded := make([]loadedKey, len(live))
	for i, k := range live {
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
	members := make([]member, len(live))
	for i, k := range live {
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

// timeline is the stored keys, each algorithm's newest generation first.
type timeline []StoredKey

func readKeys(ctx context.Context, st KeyStore) (timeline, error) {
	keys, err := st.Keys(ctx)
	if err != nil {
		return nil, err
	}
	// A newer version of this program may have stored keys of further kinds.
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

// next returns the key to make, without its secrets, if one is due.
func (t timeline) next(set RingSettings, now time.Time) (StoredKey, bool) {
	k := StoredKey{Algorithm: set.Algorithm, Generation: 1, CreatedAt: now, SignsFrom: now.Add(publishAhead)}
	newest, ok := t.newest(set.Algorithm)
	if !ok {
		// The very first key of all signs at once. After a change of the
		// algorithm, the former one's key signs until this one is known.
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

// retired returns when a key ceases to sign: by order, or because the next
// generation does; zero: not foreseen.
func (t timeline) retired(i int) time.Time {
	at := t[i].RetiredAt
	for j := i - 1; j >= 0 && t[j].Algorithm == t[i].Algorithm; j-- {
		if from := t[j].SignsFrom; at.IsZero() || from.Before(at) {
			at = from
		}
	}
	return at
}

// arrange returns the keys that verify, in the order in which they are asked to
// sign, and the ids of those that the store need not keep.
//
// A key is retired once the next generation signs, and verifies until the last
// token it can have signed has expired. The newest key of another algorithm has
// no successor: it was in use until the algorithm was changed, or another site
// with the same store uses it still. It verifies as long as it could have been
// signing by our own rotation, and is never removed: the ring of that other site
// would be without it.
func (t timeline) arrange(set RingSettings, now time.Time) (live []StoredKey, gone []string) {
	verifies := set.Lifetime + set.Leeway + clockSkew
	var foreign, stale []StoredKey
	for i, k := range t {
		newest := i == 0 || t[i-1].Algorithm != k.Algorithm
		retired := t.retired(i)
		k.RetiredAt = retired
		overdue := newest && set.Rotate > 0 && now.After(k.SignsFrom.Add(set.Rotate+publishAhead+verifies))
		switch {
		case !retired.IsZero() && now.After(retired.Add(verifies)):
			if !newest && now.After(retired.Add(verifies+removeAfter)) {
				gone = append(gone, k.ID)
			}
		case k.Algorithm != set.Algorithm:
			if !overdue {
				foreign = append(foreign, k)
			}
		case overdue:
			stale = append(stale, k)
		default:
			live = append(live, k)
		}
	}
	slices.SortStableFunc(foreign, func(a, b StoredKey) int { return b.SignsFrom.Compare(a.SignsFrom) })
	return slices.Concat(live, foreign, stale), gone
}
