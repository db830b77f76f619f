package store

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// The result of a step is kept until it expires, and not longer.
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
			got, ok, err := started(t, open).Kept(t.Context(), key, now) // read by another replica
			if !ok || err != nil || string(got) != value {
				t.Errorf("%q, %v, %v", got, ok, err)
			}
		}
		if _, ok, err := s.Kept(t.Context(), key, now.Add(5*time.Minute)); ok || err != nil {
			t.Error("a result is returned after it has expired", err)
		}
		if _, ok, err := s.Kept(t.Context(), [32]byte{1, 0, 254}, now); ok || err != nil {
			t.Error("found under another key", err)
		}
		if err := s.Keep(t.Context(), key, make([]byte, maxKept+1), now); err == nil {
			t.Error("a value that is too long was stored")
		}
	})
}

// lease leases one step.
func lease(t *testing.T, s *Store, step login.Key, owner string, at time.Time, life time.Duration) login.Step {
	t.Helper()
	found, err := s.Lease(t.Context(), owner, at, life, step)
	if err != nil {
		t.Fatalf("%s leases: %v", owner, err)
	}
	return found[0]
}

// Forty replicas get the same codes, and one of them exchanges them. When it dies, its lease
// expires by the database's clock, and another replica continues.
func TestLeaseIsOneOwnersUntilItEnds(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a, b := started(t, open), started(t, open)
		won := winners(t, 40, []*Store{a, b}, func(s *Store, i int) (bool, error) {
			found, err := s.Lease(t.Context(), string(rune('A'+i)), now, time.Hour, login.Key{7})
			return err == nil && found[0].Leased, err
		})
		if won != 1 {
			t.Fatalf("%d owners", won)
		}

		key := login.Key{8}
		for i, try := range []struct {
			store *Store
			owner string
			life  time.Duration
			want  bool
		}{{a, "a", time.Hour, true}, {b, "b", time.Hour, false}, {a, "a", -time.Millisecond, true}, {b, "b", time.Hour, true}, {a, "a", time.Hour, false}} {
			if lease(t, try.store, key, try.owner, now, try.life).Leased != try.want {
				t.Errorf("lease %d: %v", i, !try.want)
			}
		}
		for _, err := range []error{a.Renew(t.Context(), "a", -time.Hour, key), a.Release(t.Context(), "a", key)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if lease(t, a, key, "a", now, time.Hour).Leased {
			t.Error("another owner's lease was ended")
		}
		if err := b.Renew(t.Context(), "b", -time.Millisecond, key); err != nil {
			t.Fatal(err)
		}
		if !lease(t, a, key, "a", now, time.Hour).Leased {
			t.Error("the owner's own lease was not renewed")
		}
		if err := a.Release(t.Context(), "a", key); err != nil {
			t.Fatal(err)
		}
		if err := a.Renew(t.Context(), "a", time.Hour, key); err != nil {
			t.Fatal(err)
		}
		if !lease(t, b, key, "b", now, time.Hour).Leased {
			t.Error("a released step is not free, or was taken again by being renewed")
		}
	})
}

// A login leases both of its codes at once. Each code may be leased already, to this or another
// owner, and may have a result or not. The first lease records when a code was first seen, by the
// database's clock.
func TestLeaseOfBothCodesAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a, b := started(t, open), started(t, open)
		code, phone, other := login.Key{1}, login.Key{2}, login.Key{3}
		both := func(s *Store, owner string, steps ...login.Key) []login.Step {
			t.Helper()
			found, err := s.Lease(t.Context(), owner, now, time.Hour, steps...)
			if err != nil {
				t.Fatal(err)
			}
			return found
		}
		first := both(a, "a", code, phone)
		if !first[0].Leased || !first[1].Leased || first[0].Seen.IsZero() || first[1].Seen.IsZero() {
			t.Errorf("the first: %+v", first)
		}
		if got := both(b, "b", other, phone); !got[0].Leased || got[1].Leased || got[1].Kept {
			t.Errorf("another login code with this phone code: %+v", got)
		}
		if err := a.Keep(t.Context(), phone, []byte("number"), now.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if got := both(b, "b", code, phone); got[0].Leased || !got[1].Kept || string(got[1].Value) != "number" {
			t.Errorf("the phone step is done: %+v", got)
		}
		if err := a.Release(t.Context(), "a", code, phone); err != nil {
			t.Fatal(err)
		}
		if got := both(b, "b", phone, code); !got[0].Kept || !got[1].Leased || !got[1].Seen.Equal(first[0].Seen) {
			t.Errorf("the other order, after a release: %+v", got)
		}
	})
}

// After this replica has looked for a result, and before it takes the lease, another replica may
// finish the step. The step must not be done a second time.
func TestLeaseFindsResultAndKeepEndsLease(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a, b := started(t, open), started(t, open)
		key := login.Key{9}
		if !lease(t, a, key, "a", now, time.Hour).Leased {
			t.Fatal("not leased")
		}
		if err := a.Keep(t.Context(), key, []byte("result"), now.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if st := lease(t, b, key, "b", now, time.Hour); !st.Kept || st.Leased || string(st.Value) != "result" {
				t.Errorf("%+v", st)
			}
		}
		if n := count(t, a, `SELECT COUNT(*) FROM {claimed_steps}`); n != 0 {
			t.Errorf("%d leases of steps that are done", n)
		}
		if st := lease(t, b, key, "b", now.Add(time.Minute), time.Hour); st.Kept || !st.Leased {
			t.Errorf("when the result has expired: %+v", st)
		}
	})
}

// A committed login can be repeated with both codes, and its login code opens no other session.
func TestCommittedLoginIsKeptAndItsCodeSpent(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		ann := loginCommit(user.Binding{AppID: "wx1", OpenID: "ann", UserID: "u", PhoneAt: now}, user.Deny, newSession("u", "wx1", "ann", now))
		if err := s.Keep(t.Context(), ann.Code, []byte("whose"), now.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if !lease(t, s, ann.Login, "a", now, time.Hour).Leased {
			t.Fatal("not leased")
		}
		if _, err := s.Commit(t.Context(), ann); err != nil {
			t.Fatal(err)
		}
		if st := lease(t, s, ann.Login, "b", now, time.Hour); string(st.Value) != ann.Session.ID {
			t.Errorf("%+v", st)
		}
		if value, ok, err := s.Kept(t.Context(), ann.Code, now); string(value) != "spent" || !ok || err != nil {
			t.Errorf("of the login code is known %q, %t, %v", value, ok, err)
		}

		// Another replica with the same codes gets the session that they have opened.
		late := ann
		late.Session = newSession("u", "wx1", "ann", now)
		var opened *login.Opened
		if _, err := s.Commit(t.Context(), late); !errors.As(err, &opened) || string(opened.Value) != ann.Session.ID {
			t.Errorf("committed once more: %v", err)
		}
		if _, err := s.Session(t.Context(), late.Session.ID); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("and has a session: %v", err)
		}

		// A commit writes everything or nothing.
		bob := loginCommit(user.Binding{AppID: "wx1", OpenID: "bob", UserID: "u", PhoneAt: now}, user.Deny, newSession("u", "wx1", "bob", now))
		if err := s.Keep(t.Context(), bob.Code, []byte("whose"), now.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(t.Context(), bob); !errors.Is(err, user.ErrNewOpenID) {
			t.Fatal(err)
		}
		if _, ok, err := s.Kept(t.Context(), bob.Login, now); ok || err != nil {
			t.Errorf("a login that was refused is kept: %v", err)
		}
		if _, ok, err := s.Kept(t.Context(), bob.Code, now); !ok || err != nil {
			t.Errorf("and its login code forgotten: %v", err)
		}
		if value, _, _ := s.Kept(t.Context(), bob.Code, now); string(value) != "whose" {
			t.Errorf("its login code is %q", value)
		}
		bob.Value = make([]byte, maxKept+1)
		if _, err := s.Commit(t.Context(), bob); err == nil {
			t.Error("a value that is too long was stored")
		}
	})
}

// A result was stored, but its writer did not learn that, and stores it again after another replica
// has used it. The login code stays used, and the result does not say again whose it is.
func TestResultStoredLateIsNotUsedTwice(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a, b := started(t, open), started(t, open)
		l := loginCommit(user.Binding{AppID: "wx1", OpenID: "ann", UserID: "u", PhoneAt: now}, user.Deny, newSession("u", "wx1", "ann", now))
		keep := func() {
			t.Helper()
			if err := a.KeepLight(t.Context(), l.Code, []byte("whose"), now.Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
		keep()
		if _, err := b.Commit(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		keep()
		if value, ok, err := b.Kept(t.Context(), l.Code, now); string(value) != "spent" || !ok || err != nil {
			t.Errorf("of the login code is known %q, %t, %v", value, ok, err)
		}
	})
}

// Signing keys are sealed in the database, and replicas agree on one key for each generation.
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

// WeChat's classic tokens invalidate each other. So two replicas must not fetch one at the same
// time.
func TestSharedAccessTokenHasOneFetcher(t *testing.T) {
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
		lease(b, "b", 10*time.Second, true) // replica a died
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
