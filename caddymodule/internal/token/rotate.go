package token

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// KeyInfo is the public part of a stored key, with its use at a given time.
type KeyInfo struct {
	ID         string // kid
	Algorithm  Algorithm
	Generation int64
	Use        Use
	SignsFrom  time.Time
	Retired    time.Time // when it stops signing, see RetiredAt and the next generation; zero: not known yet
}

// Use says what a key is used for.
type Use string

const (
	Next     Use = "next"     // published, and will sign
	Signs    Use = "signs"    // signs new tokens
	Verifies Use = "verifies" // only verifies the tokens that it signed
	Over     Use = "over"     // unused; it will be removed
)

// ErrUnknownKey means that the store has no key with that id.
var ErrUnknownKey = errors.New("no such key")

// Survey returns what each stored key is used for under these settings. It changes
// nothing.
func Survey(ctx context.Context, st KeyStore, set RingSettings, now time.Time) ([]KeyInfo, error) {
	stored, err := readKeys(ctx, st)
	if err != nil {
		return nil, fmt.Errorf("reading the signing keys: %w", err)
	}
	return stored.survey(set, now), nil
}

func (t timeline) survey(set RingSettings, now time.Time) []KeyInfo {
	verifying, _ := t.arrange(set, now)
	signer := signing(verifying, now)
	infos := make([]KeyInfo, len(t))
	for i, k := range t {
		in := KeyInfo{ID: k.ID, Algorithm: k.Algorithm, Generation: k.Generation, SignsFrom: k.SignsFrom, Retired: t.retired(i)}
		switch {
		case k.ID == signer:
			in.Use = Signs
		case !slices.ContainsFunc(verifying, func(l StoredKey) bool { return l.ID == k.ID }):
			in.Use = Over
		case now.Before(k.SignsFrom) && (in.Retired.IsZero() || k.SignsFrom.Before(in.Retired)):
			in.Use = Next
		default:
			in.Use = Verifies
		}
		infos[i] = in
	}
	return infos
}

// signing returns the id of the key that signs among the arranged ones; see
// KeySet.signer.
func signing(verifying []StoredKey, now time.Time) string {
	ks := &KeySet{members: make([]member, len(verifying))}
	for i, k := range verifying {
		ks.members[i] = member{key: &key{id: k.ID}, from: k.SignsFrom, retired: k.RetiredAt}
	}
	if k := ks.signer(now); k != nil {
		return k.id
	}
	return ""
}

// Rotate stores the next key of the algorithm before it is due. It is published at once
// and signs ten minutes later, when every replica knows it, and every verifier that
// respects the max-age of the JWKS. If a next key is already published, Rotate returns
// that key, and stored is false.
func Rotate(ctx context.Context, st KeyStore, set RingSettings, now time.Time) (next KeyInfo, stored bool, err error) {
	for range maxAddTries {
		keys, err := readKeys(ctx, st)
		if err != nil {
			return KeyInfo{}, false, fmt.Errorf("reading the signing keys: %w", err)
		}
		k, _ := keys.next(set, now)
		newest, any := keys.newest(set.Algorithm)
		if any && (stored || newest.RetiredAt.IsZero() && now.Before(newest.SignsFrom)) {
			return keys.info(set, now, newest.ID), stored, nil
		}
		if any {
			// The new key signs from now on, not from the end of the former key's
			// period.
			k.SignsFrom = now.Add(publishAhead)
		}
		if stored, err = addNew(ctx, st, k); err != nil {
			return KeyInfo{}, false, err
		}
	}
	return KeyInfo{}, false, errNotKept
}

func (t timeline) info(set RingSettings, now time.Time, id string) KeyInfo {
	for _, in := range t.survey(set, now) {
		if in.ID == id {
			return in
		}
	}
	return KeyInfo{ID: id}
}

// Drop deletes a leaked key at once. Replicas accept none of its tokens once they have
// read the ring again. For each ring in which it was the signing key, a new key signs
// from now on; replacements are those keys. If there is no such key, the error is
// ErrUnknownKey.
func Drop(ctx context.Context, st KeyStore, rings []RingSettings, id string, now time.Time) (dropped KeyInfo, replacements []KeyInfo, err error) {
	stored, err := readKeys(ctx, st)
	if err != nil {
		return KeyInfo{}, nil, fmt.Errorf("reading the signing keys: %w", err)
	}
	if !slices.ContainsFunc(stored, func(k StoredKey) bool { return k.ID == id }) {
		return KeyInfo{}, nil, fmt.Errorf("%w: %q", ErrUnknownKey, id)
	}
	for i, set := range rings {
		if in := stored.info(set, now, id); i == 0 || in.Use == Signs {
			dropped = in
		}
		in, err := replace(ctx, st, set, id, now)
		if err != nil {
			return KeyInfo{}, replacements, err
		}
		if in.ID != "" {
			replacements = append(replacements, in)
		}
	}
	// Store the new key before removing the old one: a replica that finds no key makes
	// one of its own.
	if err := st.RemoveKeys(ctx, []string{id}); err != nil {
		return KeyInfo{}, replacements, fmt.Errorf("removing a signing key: %w", err)
	}
	return dropped, replacements, nil
}

// DropAll deletes every stored key, because all of them have leaked, and makes a new
// key for each ring, which signs at once. Replicas accept no token of a former key once
// they have read the ring again.
func DropAll(ctx context.Context, st KeyStore, rings []RingSettings, now time.Time) (replacements []KeyInfo, dropped int, err error) {
	stored, err := readKeys(ctx, st)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the signing keys: %w", err)
	}
	ids := make([]string, len(stored))
	for i, k := range stored {
		ids[i] = k.ID
	}
	for _, set := range rings {
		in, err := addSigner(ctx, st, set, now)
		if err != nil {
			return replacements, 0, err
		}
		replacements = append(replacements, in)
	}
	// Store the new keys before removing the old ones: a replica that finds no key
	// makes one of its own.
	if err := st.RemoveKeys(ctx, ids); err != nil {
		return replacements, 0, fmt.Errorf("removing the signing keys: %w", err)
	}
	return replacements, len(ids), nil
}

// addSigner stores a key that signs at once, whatever keys there are.
func addSigner(ctx context.Context, st KeyStore, set RingSettings, now time.Time) (KeyInfo, error) {
	for range maxAddTries {
		stored, err := readKeys(ctx, st)
		if err != nil {
			return KeyInfo{}, fmt.Errorf("reading the signing keys: %w", err)
		}
		made, private, err := generate(set.Algorithm)
		if err != nil {
			return KeyInfo{}, fmt.Errorf("making a signing key: %w", err)
		}
		k := StoredKey{ID: made.id, Algorithm: set.Algorithm, Private: private, Generation: 1, CreatedAt: now, SignsFrom: now}
		if newest, any := stored.newest(set.Algorithm); any {
			k.Generation = newest.Generation + 1
		}
		added, err := st.AddKey(ctx, k)
		if err != nil {
			return KeyInfo{}, fmt.Errorf("storing a signing key: %w", err)
		}
		if added {
			return KeyInfo{ID: k.ID, Algorithm: k.Algorithm, Generation: k.Generation, Use: Signs, SignsFrom: now}, nil
		}
	}
	return KeyInfo{}, errNotKept
}

// replace stores a key that signs at once, if the key with this id is the one that
// signs in the ring. Otherwise it returns no key.
func replace(ctx context.Context, st KeyStore, set RingSettings, id string, now time.Time) (KeyInfo, error) {
	for made := 0; made < maxAddTries; made++ {
		stored, err := readKeys(ctx, st)
		if err != nil {
			return KeyInfo{}, fmt.Errorf("reading the signing keys: %w", err)
		}
		verifying, _ := stored.arrange(set, now)
		if signer := signing(verifying, now); signer != id {
			if made == 0 {
				return KeyInfo{}, nil
			}
			return stored.info(set, now, signer), nil
		}
		k := StoredKey{Algorithm: set.Algorithm, Generation: 1, CreatedAt: now, SignsFrom: now}
		if newest, any := stored.newest(set.Algorithm); any {
			k.Generation = newest.Generation + 1
		}
		if _, err := addNew(ctx, st, k); err != nil {
			return KeyInfo{}, err
		}
	}
	return KeyInfo{}, errNotKept
}

// maxAddTries bounds how often a new key is made because another replica's key of the
// same generation came first.
const maxAddTries = 5

var errNotKept = errors.New("the store does not keep the signing key it was given")

// addNew makes the key material of a due key and stores it. It returns false if another
// replica was faster.
func addNew(ctx context.Context, st KeyStore, k StoredKey) (added bool, err error) {
	made, private, err := generate(k.Algorithm)
	if err != nil {
		return false, fmt.Errorf("making a signing key: %w", err)
	}
	k.ID, k.Private = made.id, private
	if added, err = st.AddKey(ctx, k); err != nil {
		return false, fmt.Errorf("storing a signing key: %w", err)
	}
	return added, nil
}
