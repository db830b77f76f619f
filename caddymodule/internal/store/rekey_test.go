package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

const halfAYear = 180 * 24 * time.Hour

// furnish stores a sealed value in every table that has sealed values.
func furnish(t *testing.T, s *Store, users int) []user.User {
	t.Helper()
	made := make([]user.User, users)
	for i := range made {
		made[i] = user.User{ID: newID(now), Phone: phone(t, fmt.Sprintf("138%08d", i)), CreatedAt: now}
	}
	err := s.sql.Write(t.Context(), "making users", func(tx *sqldb.Tx) error {
		for _, u := range made {
			if err := tx.Send(false, s.insertUser(u)...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, appid := range []string{"wx1", "wx1", "wx2"} {
		logIn(t, s, user.Binding{AppID: appid, OpenID: fmt.Sprintf("o%d", i), UserID: fmt.Sprintf("elsewhere%d", i),
			PhoneAt: now, Phone: phone(t, "13900139000")}, user.Keep, now)
	}
	_, err1 := s.AddKey(t.Context(), token.StoredKey{ID: "kid", Algorithm: token.ES256, Generation: 1, Private: []byte("private")})
	err2 := s.StoreToken(t.Context(), "wx1", "access token", now, now.Add(time.Hour))
	err3 := s.Keep(t.Context(), [32]byte{0, 0xff, 7}, []byte("kept"), now.Add(time.Minute))
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return made
}

// wantFurnished checks that everything that furnish has stored can be read.
func wantFurnished(t *testing.T, s *Store, users []user.User) {
	t.Helper()
	for i, u := range users {
		found, err := s.Users(false, settings).Login(t.Context(), user.Login{Phone: u.Phone})
		if err != nil || found.ID != u.ID || found.Phone != u.Phone {
			t.Fatalf("user %d: %+v %v", i, found, err)
		}
	}
	for i, appid := range []string{"wx1", "wx1", "wx2"} {
		b, bound, err := s.Binding(t.Context(), appid, fmt.Sprintf("o%d", i))
		if err != nil || !bound || b.Phone != phone(t, "13900139000") {
			t.Errorf("binding %d: %+v %v %v", i, b, bound, err)
		}
	}
	if keys, err := s.Keys(t.Context()); err != nil || len(keys) != 1 || string(keys[0].Private) != "private" {
		t.Errorf("signing keys: %v %v", keys, err)
	}
	if value, _, _, ok, err := s.LoadToken(t.Context(), "wx1"); err != nil || !ok || value != "access token" {
		t.Errorf("access token: %q %v %v", value, ok, err)
	}
	if value, ok, err := s.Kept(t.Context(), [32]byte{0, 0xff, 7}, now); err != nil || !ok || string(value) != "kept" {
		t.Errorf("kept step: %q %v %v", value, ok, err)
	}
}

// opens reports whether the database can be used with only these keys.
func opens(t *testing.T, open database, keys *Keys) bool {
	t.Helper()
	err := open(defaults).With(keys).Open(patient(t))
	if err != nil && !isPermanent(err, ErrKey) {
		t.Fatal(err)
	}
	return err == nil
}

func rekeyed(t *testing.T, s *Store, r Rekey) int {
	t.Helper()
	n, err := s.Rekey(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// After `rekey` the old key can be removed from the configuration.
func TestAfterARekeyTheOldKeyIsNotNeeded(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		first := started(t, open)
		users := furnish(t, first, 3)
		both := open(defaults).With(testKeys(t, 2, 1))
		wantFurnished(t, both, users)
		seen := 0
		if n := rekeyed(t, both, Rekey{Sessions: halfAYear, Progress: func(n int) { seen = n }}); n != 3+3+1+1+7+1 {
			t.Errorf("%d values sealed", n)
		}
		if seen < 12 {
			t.Errorf("progress ended at %d", seen)
		}
		// A replica that has both keys in the other order keeps working.
		wantFurnished(t, open(defaults).With(testKeys(t, 1, 2)), users)

		if opens(t, open, testKeys(t, 1)) {
			t.Error("the database opens with the old key alone")
		}
		alone := open(defaults).With(testKeys(t, 2))
		wantFurnished(t, alone, users)
		if n := rekeyed(t, both, Rekey{Sessions: halfAYear}); n != 0 {
			t.Errorf("%d values sealed once more", n)
		}

		// Sessions outlive the key: their refresh tokens and sealed claims stay valid.
		keys, err := alone.Secrets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		old := testKeys(t, 1)
		contains := func(list [][]byte, one []byte) bool {
			return slices.ContainsFunc(list, func(k []byte) bool { return bytes.Equal(k, one) })
		}
		if !contains(keys.RefreshMAC(), old.RefreshMAC()[0]) || !contains(keys.ClaimSeal(), old.ClaimSeal()[0]) {
			t.Error("what the old key has signed and sealed is refused")
		}
		if bytes.Equal(keys.RefreshMAC()[0], old.RefreshMAC()[0]) {
			t.Error("the old key signs")
		}
		with, err := both.Secrets(t.Context())
		if err != nil || len(with.RefreshMAC()) != 2 {
			t.Errorf("a key is named twice: %d, %v", len(with.RefreshMAC()), err)
		}
		late := open(Options{Now: func() time.Time { return now.Add(halfAYear + time.Second) }}).With(testKeys(t, 2))
		if keys, err := late.Secrets(t.Context()); err != nil || len(keys.RefreshMAC()) != 1 {
			t.Errorf("the old key is retained forever: %v", err)
		}

		// Once the old key is removed from the configuration, a further `rekey` removes its index
		// entries.
		if n := count(t, alone, `SELECT COUNT(*) FROM {user_phones}`); n != 6 {
			t.Errorf("%d entries for two keys", n)
		}
		rekeyed(t, alone, Rekey{Sessions: halfAYear})
		if n := count(t, alone, `SELECT COUNT(*) FROM {user_phones}`); n != 3 {
			t.Errorf("%d entries for one key", n)
		}
		wantFurnished(t, alone, users)
	})
}

// An interrupted `rekey` is continued by the next one.
func TestInterruptedRekeyContinues(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		first := started(t, open)
		users := furnish(t, first, rekeyBatch+20)
		both := open(defaults).With(testKeys(t, 2, 1))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n, err := both.Rekey(ctx, Rekey{Sessions: halfAYear, Progress: func(int) { cancel() }})
		if !errors.Is(err, context.Canceled) || n != rekeyBatch {
			t.Fatalf("broken off after %d: %v", n, err)
		}
		if opens(t, open, testKeys(t, 2)) || !opens(t, open, testKeys(t, 1)) {
			t.Error("only half of the values are sealed with the new key, but it is accepted alone")
		}
		wantFurnished(t, both, users)
		if n := rekeyed(t, both, Rekey{Sessions: halfAYear}); n != 20+3+1+1+7+1 {
			t.Errorf("%d values sealed by the second try", n)
		}
		wantFurnished(t, open(defaults).With(testKeys(t, 2)), users)
	})
}

// After `rekey --compromised`, nothing that the old key protected may be usable.
func TestCompromisedRekeyKeepsNothing(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		first := started(t, open)
		users := furnish(t, first, 1)
		rekeyed(t, open(defaults).With(testKeys(t, 2, 1)), Rekey{Sessions: halfAYear})
		rekeyed(t, open(defaults).With(testKeys(t, 3, 2)), Rekey{Sessions: halfAYear, Compromised: true})
		alone := open(defaults).With(testKeys(t, 3))
		wantFurnished(t, alone, users)
		if keys, err := alone.Secrets(t.Context()); err != nil || len(keys.RefreshMAC()) != 1 || len(keys.ClaimSeal()) != 1 {
			t.Errorf("something is kept: %v", err)
		}
	})
}

// A value that no configured key can open is reported, and the database still belongs to the old
// key.
func TestRekeyReportsAValueOfAnUnknownKey(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		first := started(t, open)
		furnish(t, first, 1)
		stranger := testKeys(t, 9)
		execute(t, first, `UPDATE {access_tokens} SET token = ?`, stranger.seal(accessTokenPlace("wx1"), []byte("x")))
		_, err := open(defaults).With(testKeys(t, 2, 1)).Rekey(t.Context(), Rekey{})
		if !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "access_tokens.token") {
			t.Errorf("a value of a third key: %v", err)
		}
		if !opens(t, open, testKeys(t, 1)) {
			t.Error("the database belongs to the new key, although not all values are sealed with it")
		}
	})
}

// An operator who began with the generated key configures one later.
func TestGeneratedKeyIsReplacedByAConfigured(t *testing.T) {
	open := newSQLite(t)
	s := open(defaults).With(nil)
	users := furnish(t, s, 2)
	if _, err := s.Rekey(t.Context(), Rekey{}); err == nil || !strings.Contains(err.Error(), "{file."+s.db.KeyFile()+"}") {
		t.Errorf("without a configured key: %v", err)
	}
	generated, err := readKeyFile(s.db.KeyFile())
	if err != nil {
		t.Fatal(err)
	}
	both := testKeys(t, 2)
	both.keys = append(both.keys, generated.keys...)
	rekeyed(t, open(defaults).With(both), Rekey{Sessions: halfAYear})
	wantFurnished(t, open(defaults).With(testKeys(t, 2)), users)
}

// Users log in during a `rekey`, also at replicas whose newest key is still the old one.
func TestRekeyUnderLoginsLosesNobody(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		first := started(t, open)
		users := furnish(t, first, 50)
		var logins sync.WaitGroup
		made := make([][]user.User, 2)
		for i, keys := range []*Keys{testKeys(t, 1, 2), testKeys(t, 2, 1)} {
			replica := open(defaults).With(keys)
			logins.Go(func() {
				for n := range 30 {
					u, err := replica.Users(true, settings).Login(context.Background(), user.Login{Phone: phone(t, fmt.Sprintf("137%d%07d", i, n))})
					if err != nil {
						t.Error(err)
						return
					}
					made[i] = append(made[i], u)
					if n%3 == 0 {
						if err := replica.Users(true, settings).Erase(context.Background(), users[2*n/3+i].ID); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		both := open(defaults).With(testKeys(t, 2, 1))
		rekeyed(t, both, Rekey{Sessions: halfAYear})
		logins.Wait()
		rekeyed(t, both, Rekey{Sessions: halfAYear})
		alone := open(defaults).With(testKeys(t, 2))
		wantFurnished(t, alone, append(slices.Concat(made...), users[22:]...))
		if n := count(t, alone, `SELECT COUNT(*) FROM {user_phones} WHERE user_id NOT IN (SELECT id FROM {users})`); n != 0 {
			t.Errorf("%d entries of users who were erased", n)
		}
	})
}
