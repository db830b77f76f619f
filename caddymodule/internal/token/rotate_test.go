package token

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

// infos returns the keys in the store, by id.
func infos(t *testing.T, st KeyStore, set RingSettings, now time.Time) map[string]KeyInfo {
	t.Helper()
	list, err := Survey(context.Background(), st, set, now)
	if err != nil {
		t.Fatal(err)
	}
	byID := make(map[string]KeyInfo)
	for _, in := range list {
		byID[in.ID] = in
	}
	return byID
}

func rotate(t *testing.T, st KeyStore, set RingSettings, now time.Time) (KeyInfo, bool) {
	t.Helper()
	next, stored, err := Rotate(context.Background(), st, set, now)
	if err != nil {
		t.Fatal(err)
	}
	return next, stored
}

// An operator rotates by hand. The next key is published at once and signs ten minutes
// later, so that no verifier meets an unknown key.
func TestRotatedKeyIsPublishedBeforeItSigns(t *testing.T) {
	st, r := &memoryStore{}, NewRing()
	raw, old := mintAt(t, load(t, r, st, ringSettings, t0), t0)
	now := t0.Add(time.Hour)

	next, stored := rotate(t, st, ringSettings, now)
	if !stored || next.Use != Next || !next.SignsFrom.Equal(now.Add(publishAhead)) || next.Generation != 2 {
		t.Fatalf("rotated to %+v, %v", next, stored)
	}
	ks := load(t, r, st, ringSettings, now.Add(time.Minute))
	if !slices.Contains(kids(t, ks), next.ID) {
		t.Error("the next key is not published")
	}
	if _, kid := mintAt(t, ks, next.SignsFrom.Add(-time.Second)); kid != old {
		t.Error("the next key signs too early")
	}
	if _, kid := mintAt(t, ks, next.SignsFrom); kid != next.ID {
		t.Error("the next key does not sign in its time")
	}
	if at := next.SignsFrom.Add(time.Minute); !verifies(t, load(t, r, st, ringSettings, at), raw, t0) {
		t.Error("the former key's tokens are refused")
	}

	// A second rotation within the ten minutes does nothing.
	again, stored := rotate(t, st, ringSettings, now.Add(5*time.Minute))
	if stored || again.ID != next.ID || len(st.keys) != 2 {
		t.Errorf("rotated again to %+v, %v", again, stored)
	}
	// After the ten minutes, a rotation makes the next key.
	if third, stored := rotate(t, st, ringSettings, now.Add(11*time.Minute)); !stored || third.Generation != 3 {
		t.Errorf("rotated a second time to %+v, %v", third, stored)
	}
}

// A rotation in an empty store makes the first key, which signs at once.
func TestRotateMakesTheFirstKey(t *testing.T) {
	st := &memoryStore{}
	first, stored := rotate(t, st, ringSettings, t0)
	if !stored || first.Use != Signs || len(st.keys) != 1 {
		t.Fatalf("%+v, %v", first, stored)
	}
	if _, kid := mintAt(t, load(t, NewRing(), st, ringSettings, t0), t0); kid != first.ID {
		t.Error("another key signs")
	}
}

// Rotating by hand works where rotation by time is turned off.
func TestRotateWithoutATimeTableRotates(t *testing.T) {
	st, set := &memoryStore{}, ringSettings
	set.Rotate = 0
	load(t, NewRing(), st, set, t0)
	if next, stored := rotate(t, st, set, t0.Add(time.Hour)); !stored || next.Use != Next {
		t.Errorf("%+v, %v", next, stored)
	}
}

// An operator lists the keys and must see which one signs now, which will, and which
// only verify.
func TestSurveyReportsTheUseOfEachKey(t *testing.T) {
	st, r := &memoryStore{}, NewRing()
	first := load(t, r, st, ringSettings, t0).members[0].id
	second, _ := rotate(t, st, ringSettings, t0.Add(time.Hour))
	at := second.SignsFrom.Add(time.Minute)
	third, _ := rotate(t, st, ringSettings, at)
	want := func(now time.Time, uses map[string]Use) {
		t.Helper()
		got := infos(t, st, ringSettings, now)
		for id, use := range uses {
			if got[id].Use != use {
				t.Errorf("at %s: %s, want %s: %+v", now, got[id].Use, use, got[id])
			}
		}
	}
	want(at, map[string]Use{first: Verifies, second.ID: Signs, third.ID: Next})
	want(third.SignsFrom, map[string]Use{first: Verifies, second.ID: Verifies, third.ID: Signs})
	want(third.SignsFrom.Add(61*time.Minute+10*time.Second), map[string]Use{first: Over, second.ID: Verifies, third.ID: Signs})
	// The key that is listed as signing must be the one that signs.
	load(t, r, st, ringSettings, at)
	if _, kid := mintAt(t, r.Keys(), at); kid != second.ID {
		t.Errorf("%s signs", kid)
	}
}

// A key has leaked. Tokens that it signed stop working at once, and a new key signs
// wherever the leaked one did.
func TestCompromisedKeyIsGoneAtOnce(t *testing.T) {
	other := ringSettings
	other.Algorithm = EdDSA
	ctx := context.Background()
	for name, c := range map[string]struct {
		which        Use // of the dropped key
		replacements int
	}{
		"the one that signs":       {Signs, 1},
		"the next one":             {Next, 0},
		"one that verifies still":  {Verifies, 0},
		"another algorithm's ring": {"", 1},
	} {
		t.Run(name, func(t *testing.T) {
			st, r, foreign := &memoryStore{}, NewRing(), NewRing()
			raw := make(map[string]string)
			minted := func(ks *KeySet, at time.Time) {
				tok, kid := mintAt(t, ks, at)
				raw[kid] = tok
			}
			minted(load(t, r, st, ringSettings, t0), t0)
			second, _ := rotate(t, st, ringSettings, t0.Add(time.Minute))
			at := second.SignsFrom
			minted(load(t, r, st, ringSettings, at), at)
			third, _ := rotate(t, st, ringSettings, at)
			// The other site signed for two weeks.
			minted(load(t, foreign, st, other, at), at.Add(publishAhead-time.Second))
			now := at.Add(5 * time.Minute)
			load(t, r, st, ringSettings, now)

			var id string
			for _, in := range infos(t, st, ringSettings, now) {
				if in.Use == c.which && in.Algorithm == ES256 {
					id = in.ID
				}
			}
			if c.which == "" {
				id = foreign.Keys().signer(at.Add(publishAhead)).id
				now = at.Add(publishAhead)
			}
			dropped, replacements, err := Drop(ctx, st, []RingSettings{ringSettings, other}, id, now)
			if err != nil || dropped.ID != id {
				t.Fatalf("dropped %+v: %v", dropped, err)
			}
			signed := 0
			for _, in := range replacements {
				if in.Use != Signs {
					t.Errorf("the replacement does not sign: %+v", in)
				}
				if in.Algorithm == dropped.Algorithm {
					signed++
				}
			}
			if signed != c.replacements {
				t.Errorf("%d replacements: %+v", signed, replacements)
			}
			for _, ring := range []struct {
				*Ring
				RingSettings
			}{{r, ringSettings}, {foreign, other}} {
				ks := load(t, ring.Ring, st, ring.RingSettings, now)
				if slices.Contains(kids(t, ks), id) || ks.Ours(raw[id]) || raw[id] != "" && verifies(t, ks, raw[id], at) {
					t.Error("the dropped key is in force")
				}
				if _, kid := mintAt(t, ks, now); kid == id {
					t.Error("the dropped key signs")
				}
				for kid, tok := range raw {
					if kid != id && !ks.Ours(tok) {
						t.Errorf("tokens of another key are refused: %s", kid)
					}
				}
			}
			if c.which == Signs {
				if _, kid := mintAt(t, r.Keys(), now); kid != replacements[0].ID || kid == third.ID {
					t.Errorf("%s signs, not the new key", kid)
				}
			}
		})
	}
}

// An operator mistypes the id of a key.
func TestDroppingAnUnknownKeyChangesNothing(t *testing.T) {
	st := &memoryStore{}
	load(t, NewRing(), st, ringSettings, t0)
	if _, _, err := Drop(context.Background(), st, []RingSettings{ringSettings}, "nobody", t0); !errors.Is(err, ErrUnknownKey) {
		t.Error(err)
	}
	if len(st.keys) != 1 {
		t.Errorf("%d keys", len(st.keys))
	}
}
