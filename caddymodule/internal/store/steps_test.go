package store

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

func TestKeptStepIsThereUntilItExpires(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		key := [32]byte{1, 0, 255}
		if _, ok, err := s.Kept(t.Context(), key, now); ok || err != nil {
			t.Error(ok, err)
		}
		for _, value := range []string{"first", "second", ""} {
			if err := s.Keep(t.Context(), key, []byte(value), now.Add(5*time.Minute)); err != nil {
				t.Fatal(err)
			}
			got, ok, err := started(t, open).Kept(t.Context(), key, now) // on another replica
			if !ok || err != nil || string(got) != value {
				t.Errorf("%q, %v, %v", got, ok, err)
			}
		}
		if _, ok, err := s.Kept(t.Context(), key, now.Add(5*time.Minute)); ok || err != nil {
			t.Error("still there when over", err)
		}
		if _, ok, err := s.Kept(t.Context(), [32]byte{1, 0, 254}, now); ok || err != nil {
			t.Error("found under another key", err)
		}
		for range 2 {
			if err := s.Forget(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		if _, ok, err := s.Kept(t.Context(), key, now); ok || err != nil {
			t.Error("not forgotten", err)
		}
		if err := s.Keep(t.Context(), key, make([]byte, maxKept+1), now); err == nil {
			t.Error("an endless value was kept")
		}
	})
}

func TestClaimIsOneOwnersUntilItsLeaseEnds(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a, b := started(t, open), started(t, open)
		key := [32]byte{7}
		var won atomic.Int32
		var wg sync.WaitGroup
		for i := range 40 {
			s := a
			if i%2 == 1 {
				s = b
			}
			owner := string(rune('A' + i))
			wg.Go(func() {
				if ok, err := s.Claim(t.Context(), key, owner, now, now.Add(time.Minute)); err != nil {
					t.Error(err)
				} else if ok {
					won.Add(1)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d owners", won.Load())
		}

		key = [32]byte{8}
		for _, step := range []struct {
			owner string
			at    time.Duration
			want  bool
		}{{"a", 0, true}, {"b", time.Second, false}, {"a", 30 * time.Second, true}, {"b", 61 * time.Second, false}, {"b", 90 * time.Second, true}, {"a", 91 * time.Second, false}} {
			at := now.Add(step.at)
			if ok, err := a.Claim(t.Context(), key, step.owner, at, at.Add(time.Minute)); ok != step.want || err != nil {
				t.Errorf("%+v: %v, %v", step, ok, err)
			}
		}
		if err := a.Release(t.Context(), key, "a"); err != nil {
			t.Fatal(err)
		}
		if ok, _ := a.Claim(t.Context(), key, "a", now.Add(92*time.Second), now); ok {
			t.Error("somebody else's claim was released")
		}
		if err := a.Release(t.Context(), key, "b"); err != nil {
			t.Fatal(err)
		}
		if ok, err := a.Claim(t.Context(), key, "a", now, now); !ok || err != nil {
			t.Error("a released claim is not free", err)
		}
	})
}

func TestSigningKeysAreSealedAndAgreedOn(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a, b := started(t, open), started(t, open)
		want := token.StoredKey{ID: "kid1", Algorithm: "ES256", Private: []byte(`{"d":"secret"}`), Generation: 1, CreatedAt: now, SignsFrom: now.Add(time.Minute)}
		if added, err := a.AddKey(t.Context(), want); !added || err != nil {
			t.Fatal(added, err)
		}
		late := want
		late.ID = "kid2"
		if added, err := b.AddKey(t.Context(), late); added || err != nil {
			t.Error("two keys of one generation", err)
		}
		late.Algorithm = "EdDSA"
		if added, err := b.AddKey(t.Context(), late); !added || err != nil {
			t.Error("another algorithm has generations of its own", err)
		}
		keys, err := b.Keys(t.Context())
		if err != nil || len(keys) != 2 || keys[0].ID != "kid1" || !bytes.Equal(keys[0].Private, want.Private) ||
			!keys[0].SignsFrom.Equal(want.SignsFrom) || !keys[0].CreatedAt.Equal(now) || !keys[0].RetiredAt.IsZero() || keys[0].Generation != 1 {
			t.Fatalf("%+v, %v", keys, err)
		}
		if n := count(t, a, `SELECT COUNT(*) FROM {signing_keys} WHERE private_key LIKE '%secret%'`); n != 0 {
			t.Error("the private key is not sealed")
		}
		if err := a.RemoveKeys(t.Context(), []string{"kid1", "kid0"}); err != nil {
			t.Fatal(err)
		}
		if keys, err := b.Keys(t.Context()); err != nil || len(keys) != 1 || keys[0].ID != "kid2" {
			t.Errorf("%+v, %v", keys, err)
		}
	})
}

func TestSharedAccessTokenHasOneFetcherAtATime(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a, b := started(t, open), started(t, open)
		if _, _, _, ok, err := a.LoadToken(t.Context(), "wx1"); ok || err != nil {
			t.Fatal(ok, err)
		}
		lease := func(s *Store, owner string, after time.Duration, want bool) {
			t.Helper()
			at := now.Add(after)
			if ok, err := s.LeaseToken(t.Context(), "wx1", owner, at, at.Add(10*time.Second)); ok != want || err != nil {
				t.Errorf("%s leases: %v, %v", owner, ok, err)
			}
		}
		lease(a, "a", 0, true)
		lease(b, "b", time.Second, false)
		if _, _, _, ok, err := b.LoadToken(t.Context(), "wx1"); ok || err != nil {
			t.Error("a lease is taken for a token", err)
		}
		if err := a.StoreToken(t.Context(), "wx1", "ACCESS", now, now.Add(2*time.Hour)); err != nil {
			t.Fatal(err)
		}
		lease(b, "b", 2*time.Second, false)
		if value, fetched, expires, ok, err := b.LoadToken(t.Context(), "wx1"); value != "ACCESS" || !fetched.Equal(now) || !expires.Equal(now.Add(2*time.Hour)) || !ok || err != nil {
			t.Error(value, fetched, expires, ok, err)
		}
		if err := b.ReleaseToken(t.Context(), "wx1", "b"); err != nil {
			t.Fatal(err)
		}
		lease(b, "b", 3*time.Second, false)
		lease(b, "b", 10*time.Second, true) // a died
		if err := b.ReleaseToken(t.Context(), "wx1", "b"); err != nil {
			t.Fatal(err)
		}
		lease(a, "a", 11*time.Second, true)
		if _, _, _, ok, err := a.LoadToken(t.Context(), "wx2"); ok || err != nil {
			t.Error("another app's token", err)
		}
		if n := count(t, a, `SELECT COUNT(*) FROM {access_tokens} WHERE token LIKE '%ACCESS%'`); n != 0 {
			t.Error("the access token is not sealed")
		}
	})
}
