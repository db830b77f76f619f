package token

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// KeyInfo is what may be told of a stored key, and what it does at a time.
type KeyInfo struct {
	ID         string // kid
	Algorithm  Algorithm
	Generation int64
	Use        Use
	SignsFrom  time.Time
	Retired    time.Time // when it ceases to sign, by order or for a later key; zero: not foreseen
}

// Use is what a key does.
type Use string

const (
	Next     Use = "next"     // it is published and will sign
	Signs    Use = "signs"    // new tokens are signed with it
	Verifies Use = "verifies" // tokens that it signed are accepted
	Over     Use = "over"     // nothing; it will be removed
)

// ErrUnknownKey says that the store holds no key of an id.
var ErrUnknownKey = errors.New("no such key")

// Survey tells what each stored key does for those who share these settings.
// It changes nothing.
func Survey(ctx context.Context, st KeyStore, set RingSettings, now time.Time) ([]KeyInfo, error) {
	stored, err := readKeys(ctx, st)
	if err != nil {
		return nil, fmt.Errorf("reading the signing keys: %w", err)
	}
	return stored.survey(set, now), nil
}

func (t timeline) survey(set RingSettings, now time.Time) []KeyInfo {
	live, _ := t.arrange(set, now)
	signer := signing(live, now)
	infos := make([]KeyInfo, len(t))
	for i, k := range t {
		in := KeyInfo{ID: k.ID, Algorithm: k.Algorithm, Generation: k.Generation, SignsFrom: k.SignsFrom, Retired: t.retired(i)}
		switch {
		case k.ID == signer:
			in.Use = Signs
		case !slices.ContainsFunc(live, func(l StoredKey) bool { return l.ID == k.ID }):
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

// signing is the id of the key that signs, of those arranged; see KeySet.signer.
func signing(live []StoredKey, now time.Time) string {
	ks := &KeySet{members: make([]member, len(live))}
	for i, k := range live {
		ks.members[i] = member{key: &key{id: k.ID}, from: k.SignsFrom, retired: k.RetiredAt}
	}
	if k := ks.signer(now); k != nil {
		return k.id
	}
	return ""
}

// Rotate stores the next key of the algorithm now, before its time. It is
// published at once and signs ten minutes later, when every replica and every
// verifier that keeps to the JWKS's max-age knows it. If a next key is published
// already, there is nothing to do: it is returned, and stored is false.
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
			// Not when the former key's time is over, but now.
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

// Drop deletes a key at once, because somebody else has it: no token that it
// signed is accepted any more by those who have read the ring again. Where it
// was the one that signed for a ring of these settings, a new key signs from
// now on; replacements are those. ErrUnknownKey: there is no such key.
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
	// The new key first: a replica that finds none makes one of its own.
	if err := st.RemoveKeys(ctx, []string{id}); err != nil {
		return KeyInfo{}, replacements, fmt.Errorf("removing a signing key: %w", err)
	}
	return dropped, replacements, nil
}

// DropAll deletes every stored key, because somebody else has all of them, and has
// a new one sign at once for each ring. No token that a former key signed is accepted
// any more by replicas that have read the ring again.
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
		in, err := succeed(ctx, st, set, now)
		if err != nil {
			return replacements, 0, err
		}
		replacements = append(replacements, in)
	}
	// The new keys first: a replica that finds none makes one of its own.
	if err := st.RemoveKeys(ctx, ids); err != nil {
		return replacements, 0, fmt.Errorf("removing the signing keys: %w", err)
	}
	return replacements, len(ids), nil
}

// succeed stores a key that signs at once, whatever there is.
func succeed(ctx context.Context, st KeyStore, set RingSettings, now time.Time) (KeyInfo, error) {
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

// replace stores a key that signs at once, if without the key of this id none
// of the ring's algorithm would. Without need it returns no key.
func replace(ctx context.Context, st KeyStore, set RingSettings, id string, now time.Time) (KeyInfo, error) {
	for made := 0; made < maxAddTries; made++ {
		stored, err := readKeys(ctx, st)
		if err != nil {
			return KeyInfo{}, fmt.Errorf("reading the signing keys: %w", err)
		}
		live, _ := stored.arrange(set, now)
		if signer := signing(live, now); signer != id {
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

// maxAddTries bounds how often a key is made that another replica's takes the
// place of.
const maxAddTries = 5

var errNotKept = errors.New("the store does not keep the signing key it was given")

// addNew makes the secrets of a key that is due and stores it; false if
// another replica was quicker.
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
