package token

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

var ringSettings = RingSettings{Algorithm: ES256, Rotate: 90 * 24 * time.Hour, Lifetime: time.Hour, Leeway: 10 * time.Second}

func load(t *testing.T, r *Ring, st KeyStore, set RingSettings, now time.Time) *KeySet {
	t.Helper()
	if err := r.Load(context.Background(), st, set, now); err != nil {
		t.Fatal(err)
	}
	return r.Keys()
}

// kids returns the ids in the JWKS.
func kids(t *testing.T, ks *KeySet) []string {
	t.Helper()
	var set struct{ Keys []struct{ Kid string } }
	if err := json.Unmarshal(ks.JWKS(), &set); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, k := range set.Keys {
		ids = append(ids, k.Kid)
	}
	return ids
}

func mintAt(t *testing.T, ks *KeySet, at time.Time) (raw, kid string) {
	t.Helper()
	c := testClaims()
	c.IssuedAt, c.Expires = at, at.Add(time.Hour)
	return mustMint(t, ks, c), ks.signer(at).id
}

func verifies(t *testing.T, ks *KeySet, raw string, at time.Time) bool {
	t.Helper()
	_, err := NewVerifier(testPolicy(), testSeal(t), nil).Verify(ks, raw, at)
	return err == nil
}

// The first key has nothing to wait for. After a restart, tokens signed before it must
// still verify.
func TestFirstKeySignsAndOutlivesARestart(t *testing.T) {
	for _, alg := range algorithms {
		st, set := &memoryStore{}, ringSettings
		set.Algorithm = alg
		r := NewRing()
		if r.Keys() != nil || !r.LoadedAt().IsZero() {
			t.Error("a new ring has keys")
		}
		raw, _ := mintAt(t, load(t, r, st, set, t0), t0)
		if !r.LoadedAt().Equal(t0) {
			t.Error("LoadedAt")
		}
		again := load(t, NewRing(), st, set, t0.Add(time.Minute))
		if len(st.keys) != 1 || !verifies(t, again, raw, t0.Add(time.Minute)) {
			t.Errorf("%s: %d keys after a restart", alg, len(st.keys))
		}
	}
}

// A reload of unchanged keys must not empty the token caches.
func TestUnchangedKeysAreTheSameKeySet(t *testing.T) {
	st, r := &memoryStore{}, NewRing()
	first := load(t, r, st, ringSettings, t0)
	if load(t, r, st, ringSettings, t0.Add(time.Hour)) != first {
		t.Error("the caches were emptied for nothing")
	}
}

// The whole life of a key: published ten minutes early, signing, verifying only,
// removed.
func TestRotation(t *testing.T) {
	st, r := &memoryStore{}, NewRing()
	_, kid1 := mintAt(t, load(t, r, st, ringSettings, t0), t0)
	due := t0.Add(ringSettings.Rotate)

	ks := load(t, r, st, ringSettings, due.Add(-11*time.Minute))
	if len(kids(t, ks)) != 1 {
		t.Error("the next key came too early")
	}
	ks = load(t, r, st, ringSettings, due.Add(-10*time.Minute))
	if len(kids(t, ks)) != 2 {
		t.Fatal("the next key is not published ten minutes ahead")
	}
	old, kid := mintAt(t, ks, due.Add(-time.Second))
	if kid != kid1 {
		t.Error("the next key signs before its time")
	}
	// The change needs no load, because a key set knows when each key signs.
	if _, kid := mintAt(t, ks, due); kid == kid1 {
		t.Error("the next key does not sign")
	}
	if ks2 := load(t, r, st, ringSettings, due.Add(time.Minute)); ks2 != ks {
		t.Error("the keys changed again")
	}
	last := due.Add(ringSettings.Lifetime + ringSettings.Leeway - 2*time.Second)
	if !verifies(t, load(t, r, st, ringSettings, last), old, last) {
		t.Error("a retired key's last token is refused before it expires")
	}
	gone := due.Add(ringSettings.Lifetime + ringSettings.Leeway + clockSkew + time.Second)
	if ks := load(t, r, st, ringSettings, gone); len(kids(t, ks)) != 1 || kids(t, ks)[0] == kid1 || ks.Ours(old) {
		t.Error("a retired key still verifies")
	}
	load(t, r, st, ringSettings, gone.Add(removeAfter))
	if len(st.keys) != 1 {
		t.Errorf("%d keys in the store", len(st.keys))
	}
}

// A server was off for a long time and has only an old key. That key goes on signing
// until the next one has been published long enough.
func TestRotationThatIsOverdue(t *testing.T) {
	st := &memoryStore{}
	_, kid1 := mintAt(t, load(t, NewRing(), st, ringSettings, t0), t0)
	now := t0.Add(10 * ringSettings.Rotate)
	ks := load(t, NewRing(), st, ringSettings, now)
	if _, kid := mintAt(t, ks, now.Add(publishAhead-1)); kid != kid1 {
		t.Error("a key signs that verifiers cannot know yet")
	}
	if _, kid := mintAt(t, ks, now.Add(publishAhead)); kid == kid1 {
		t.Error("the new key does not sign")
	}
}

// With rotation turned off, one key signs for ever.
func TestNoRotation(t *testing.T) {
	st, set := &memoryStore{}, ringSettings
	set.Rotate = 0
	load(t, NewRing(), st, set, t0)
	load(t, NewRing(), st, set, t0.Add(100*365*24*time.Hour))
	if len(st.keys) != 1 {
		t.Errorf("%d keys", len(st.keys))
	}
}

// Eight replicas start, or rotate, at the same moment. They must end up with the same
// key.
func TestReplicasAgreeOnOneKey(t *testing.T) {
	st := &memoryStore{}
	var replicas [8]*Ring
	for generation := range int64(3) {
		now := t0.Add(time.Duration(generation) * ringSettings.Rotate)
		var wg sync.WaitGroup
		for i := range replicas {
			if replicas[i] == nil {
				replicas[i] = NewRing()
			}
			wg.Go(func() { load(t, replicas[i], st, ringSettings, now) })
		}
		wg.Wait()
		raw, kid := mintAt(t, replicas[0].Keys(), now.Add(publishAhead))
		for _, r := range replicas {
			// A replica may have loaded the keys before another stored the new one. It
			// loads them again soon.
			ks := load(t, r, st, ringSettings, now.Add(time.Minute))
			if other := ks.signer(now.Add(publishAhead)).id; other != kid || !verifies(t, ks, raw, now.Add(publishAhead)) {
				t.Fatalf("generation %d: %s and %s", generation, kid, other)
			}
		}
	}
	generations := map[int64]int{}
	for _, k := range st.keys {
		generations[k.Generation]++
	}
	for g, n := range generations {
		if n != 1 {
			t.Errorf("%d keys of generation %d", n, g)
		}
	}
}

// Another replica stores its first key between our read and our write. We use that one.
func TestSlowerReplicaTakesTheOthersKey(t *testing.T) {
	st, other := &memoryStore{}, NewRing()
	st.beforeAdd = func() { load(t, other, st, ringSettings, t0) }
	ks := load(t, NewRing(), st, ringSettings, t0)
	if len(st.keys) != 1 || ks.signer(t0).id != other.Keys().signer(t0).id {
		t.Error("two first keys")
	}
}

// The clock of a replica is a minute behind the one that made the first key. It must be
// able to sign all the same.
func TestReplicaWithASlowClockSigns(t *testing.T) {
	st := &memoryStore{}
	load(t, NewRing(), st, ringSettings, t0)
	before := t0.Add(-time.Minute)
	if _, kid := mintAt(t, load(t, NewRing(), st, ringSettings, before), before); kid == "" || len(st.keys) != 1 {
		t.Error("no key signs")
	}
}

// An operator changes the algorithm. Tokens of the former one stay good until they
// expire, and changing back works at once.
func TestChangedAlgorithm(t *testing.T) {
	st, r := &memoryStore{}, NewRing()
	old, kid1 := mintAt(t, load(t, r, st, ringSettings, t0), t0)
	set := ringSettings
	set.Algorithm = EdDSA
	now := t0.Add(time.Hour / 2)
	ks := load(t, NewRing(), st, set, now)
	if len(kids(t, ks)) != 2 || !verifies(t, ks, old, now) {
		t.Error("not both kinds verify")
	}
	if _, kid := mintAt(t, ks, now.Add(publishAhead-1)); kid != kid1 {
		t.Error("the new kind signs before verifiers can know its key")
	}
	raw, kid := mintAt(t, ks, now.Add(publishAhead))
	if kid == kid1 || ks.signer(now.Add(publishAhead)).alg != EdDSA || !verifies(t, ks, raw, now.Add(publishAhead)) {
		t.Error("the new kind does not sign")
	}
	// The operator changes it back. Everybody knows the former key, so it signs at
	// once.
	if _, kid := mintAt(t, load(t, NewRing(), st, ringSettings, now), now); kid != kid1 {
		t.Error("changing back makes another key")
	}
	// In the end, the key of the former algorithm stops verifying.
	late := t0.Add(set.Rotate + 2*time.Hour)
	load(t, NewRing(), st, set, late)
	ks = load(t, NewRing(), st, set, late)
	for _, m := range ks.members {
		if m.alg != EdDSA {
			t.Errorf("a %s key still verifies", m.alg)
		}
	}
}

// Two sites share a store and use different algorithms. Each leaves the other's keys
// alone.
func TestTwoAlgorithmsInOneStore(t *testing.T) {
	st, a, b := &memoryStore{}, NewRing(), NewRing()
	setB := ringSettings
	setB.Algorithm, setB.Rotate = HS256, 30*24*time.Hour
	for now := t0; now.Before(t0.Add(200 * 24 * time.Hour)); now = now.Add(12 * time.Hour) {
		ksA, ksB := load(t, a, st, ringSettings, now), load(t, b, st, setB, now)
		if now.Sub(t0) < publishAhead {
			continue
		}
		if alg := ksA.signer(now).alg; alg != ES256 {
			t.Fatalf("%s: A signs with %s", now, alg)
		}
		if alg := ksB.signer(now).alg; alg != HS256 {
			t.Fatalf("%s: B signs with %s", now, alg)
		}
	}
	if n := len(st.keys); n < 2 || n > 4 {
		t.Errorf("%d keys in the store", n)
	}
}

// A key whose RetiredAt has come stops signing and is followed by a new one.
func TestRetiredByOrder(t *testing.T) {
	st, r := &memoryStore{}, NewRing()
	id := load(t, r, st, ringSettings, t0).members[0].id
	now := t0.Add(time.Hour)
	k := st.keys[id]
	k.RetiredAt = now
	st.keys[id] = k
	ks := load(t, r, st, ringSettings, now)
	if _, kid := mintAt(t, ks, now); kid == id {
		t.Error("a retired key signs")
	}
	if len(kids(t, ks)) != 2 {
		t.Error("a retired key does not verify")
	}
}

// An operator deletes a leaked key from the store. Its tokens stop working, and a new
// key signs at once.
func TestRemovedKeyIsReplacedAtOnce(t *testing.T) {
	st, r := &memoryStore{}, NewRing()
	raw, kid := mintAt(t, load(t, r, st, ringSettings, t0), t0)
	delete(st.keys, kid)
	ks := load(t, r, st, ringSettings, t0.Add(time.Minute))
	if ks.Ours(raw) || verifies(t, ks, raw, t0) {
		t.Error("a removed key verifies")
	}
	if _, other := mintAt(t, ks, t0.Add(time.Minute)); other == kid {
		t.Error("a removed key signs")
	}
}

// Keys rotate as fast as possible. A verifier that caches our JWKS for as long as
// allowed must never meet an unknown kid, and no good token may be refused.
func TestRotationEverySecondsLosesNoToken(t *testing.T) {
	st, a, b := &memoryStore{}, NewRing(), NewRing()
	set := RingSettings{Algorithm: EdDSA, Rotate: 30 * time.Second, Lifetime: 5 * time.Minute, Leeway: 10 * time.Second}
	type minted struct {
		raw string
		at  time.Time
	}
	var alive []minted
	var cached []string
	for second := 0; second < 3600; second += 15 {
		now := t0.Add(time.Duration(second) * time.Second)
		if second%60 == 0 {
			load(t, a, st, set, now)
		}
		if second%60 == 30 || second == 0 {
			load(t, b, st, set, now)
		}
		if second%300 == 0 {
			cached = kids(t, a.Keys())
		}
		for _, ks := range []*KeySet{a.Keys(), b.Keys()} {
			raw, kid := mintAt(t, ks, now)
			if !strings.Contains(strings.Join(cached, " "), kid) {
				t.Fatalf("second %d: the JWKS of five minutes ago lacks %s", second, kid)
			}
			alive = append(alive, minted{raw, now})
		}
		for len(alive) > 0 && now.Sub(alive[0].at) >= set.Lifetime {
			alive = alive[1:]
		}
		for _, m := range alive {
			if !a.Keys().Ours(m.raw) || !b.Keys().Ours(m.raw) {
				t.Fatalf("second %d: a token of %s is refused", second, m.at)
			}
		}
	}
	if len(st.keys) > 100 {
		t.Errorf("%d keys in the store", len(st.keys))
	}
}

// The store fails, or holds something broken. The keys that were loaded before stay in
// use.
func TestLoadErrorsLeaveTheFormerKeys(t *testing.T) {
	st, r := &memoryStore{}, NewRing()
	first := load(t, r, st, ringSettings, t0)
	ctx := context.Background()
	st.fail = errStore
	if err := r.Load(ctx, st, ringSettings, t0); !errors.Is(err, errStore) || r.Keys() != first {
		t.Errorf("error %v", err)
	}
	st.fail = nil
	k := st.keys[first.members[0].id]
	for what, spoil := range map[string]func(*StoredKey){
		"key":       func(k *StoredKey) { k.Private = []byte(`{"kty":"EC"}`) },
		"id":        func(k *StoredKey) { k.ID = strings.Repeat("A", 43) },
		"algorithm": func(k *StoredKey) { k.Algorithm = RS256 },
	} {
		bad := k
		spoil(&bad)
		fresh := NewRing()
		err := fresh.Load(ctx, &memoryStore{keys: map[string]StoredKey{bad.ID: bad}}, RingSettings{Algorithm: bad.Algorithm, Lifetime: time.Hour}, t0)
		if err == nil || fresh.Keys() != nil {
			t.Errorf("another %s: %v", what, err)
		} else if strings.Contains(err.Error(), string(k.Private[40:60])) {
			t.Errorf("the error holds the key: %v", err)
		}
	}
	// Keys of an algorithm that only a newer version knows are left alone.
	st.keys["new"] = StoredKey{ID: "new", Algorithm: "ML-DSA-65", Generation: 1}
	if load(t, r, st, ringSettings, t0) != first || len(st.keys) != 2 {
		t.Error("a key of another version disturbs")
	}
	for _, set := range []RingSettings{{}, {Algorithm: "none", Lifetime: 1}, {Algorithm: ES256}, {Algorithm: ES256, Lifetime: 1, Rotate: -1}, {Algorithm: ES256, Lifetime: 1, Leeway: -1}} {
		if err := NewRing().Load(ctx, &memoryStore{}, set, t0); err == nil {
			t.Errorf("settings %+v are taken", set)
		}
	}
	forgetful := forgetfulStore{}
	if err := NewRing().Load(ctx, forgetful, ringSettings, t0); err == nil {
		t.Error("a store that keeps nothing is no error")
	}
}

type forgetfulStore struct{}

func (forgetfulStore) Keys(context.Context) ([]StoredKey, error)       { return nil, nil }
func (forgetfulStore) AddKey(context.Context, StoredKey) (bool, error) { return false, nil }
func (forgetfulStore) RemoveKeys(context.Context, []string) error      { return nil }
