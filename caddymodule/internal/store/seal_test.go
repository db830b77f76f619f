package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// An attacker with write access to the database copies a sealed value into another row or column.
func TestSealedValueOpensOnlyInItsPlace(t *testing.T) {
	k := testKeys(t, 1)
	home := place{"users", "phone", "u1"}
	sealed := k.seal(home, []byte("value"))
	if got, err := k.open(home, sealed); err != nil || string(got) != "value" {
		t.Fatal(string(got), err)
	}
	for _, p := range []place{
		{"kept_steps", "phone", "u1"}, {"users", "value", "u1"}, {"users", "phone", "u2"},
		{"usersphone", "", "u1"}, {"users", "phoneu", "1"}, {"user", "sphone", "u1"}, {},
	} {
		if _, err := k.open(p, sealed); !errors.Is(err, errSealed) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	for i := range sealed {
		changed := append([]byte(nil), sealed...)
		changed[i] ^= 1
		if _, err := k.open(home, changed); err == nil {
			t.Errorf("byte %d changed, and it opens", i)
		}
		if _, err := k.open(home, sealed[:i]); err == nil {
			t.Errorf("cut at %d, and it opens", i)
		}
	}
	if again := k.seal(home, []byte("value")); string(again) == string(sealed) {
		t.Error("two seals are equal")
	}
}

// While keys change, new values are sealed with the newest key, and old values still
// open.
func TestNewestKeySealsAndOldOnesOpen(t *testing.T) {
	home := place{"users", "phone", "u1"}
	old, both, fresh := testKeys(t, 1), testKeys(t, 2, 1), testKeys(t, 2)
	if got, err := both.open(home, old.seal(home, []byte("v"))); err != nil || string(got) != "v" {
		t.Error(err)
	}
	if got, err := fresh.open(home, both.seal(home, []byte("v"))); err != nil || string(got) != "v" {
		t.Error(err)
	}
	if _, err := fresh.open(home, old.seal(home, []byte("v"))); !errors.Is(err, ErrKey) {
		t.Error(err)
	}
}

// An attacker with write access to the database swaps the sealed values of two rows.
func TestSealedRowsCannotBeSwapped(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		users := s.Users(true, settings)
		a, err := users.Login(t.Context(), user.Login{Phone: phone(t, "13800138000")})
		if err != nil {
			t.Fatal(err)
		}
		b, err := users.Login(t.Context(), user.Login{Phone: phone(t, "13800138001")})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			if err := s.Keep(t.Context(), [32]byte{byte(i)}, []byte{byte(i)}, now.Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.AddKey(t.Context(), token.StoredKey{ID: fmt.Sprint(i), Algorithm: "ES256", Generation: int64(i), Private: []byte("{}")}); err != nil {
				t.Fatal(err)
			}
		}
		copied := func(target, source string, where ...any) {
			execute(t, s, `UPDATE `+target+` = (SELECT copied FROM (SELECT `+source+`) AS c) WHERE `+fmt.Sprint(where[0]), where[1:]...)
		}

		copied(`{users} SET phone`, `phone AS copied FROM {users} WHERE disabled = 0 ORDER BY id LIMIT 1`, `disabled = 0`)
		_, errA := users.Check(t.Context(), a.ID)
		_, errB := users.Check(t.Context(), b.ID)
		if errors.Is(errA, errSealed) == errors.Is(errB, errSealed) {
			t.Errorf("a phone number copied to another user: %v, %v", errA, errB)
		}
		copied(`{kept_steps} SET value`, `value AS copied FROM {kept_steps} ORDER BY step LIMIT 1`, `1 = 1`)
		if _, ok, err := s.Kept(t.Context(), [32]byte{1}, now); ok || !errors.Is(err, errSealed) {
			t.Errorf("a step copied to another: %v", err)
		}
		copied(`{kept_steps} SET value`, `phone AS copied FROM {users} ORDER BY id LIMIT 1`, `1 = 1`)
		if _, ok, err := s.Kept(t.Context(), [32]byte{0}, now); ok || !errors.Is(err, errSealed) {
			t.Errorf("a phone number copied to a step: %v", err)
		}
		copied(`{signing_keys} SET private_key`, `private_key AS copied FROM {signing_keys} ORDER BY id LIMIT 1`, `1 = 1`)
		if keys, err := s.Keys(t.Context()); !errors.Is(err, errSealed) {
			t.Errorf("a signing key copied to another: %+v, %v", keys, err)
		}
	})
}

// A key of another length or encoding is refused when the configuration is loaded.
func TestParseKeysTakesBase64Of32Bytes(t *testing.T) {
	good := testKey(250) // its text contains + and /
	for _, spelling := range []string{good, strings.TrimRight(good, "="), " " + good + "\n", strings.NewReplacer("+", "-", "/", "_").Replace(good)} {
		if _, err := ParseKeys(spelling); err != nil {
			t.Errorf("%q: %v", spelling, err)
		}
	}
	for _, bad := range []string{"", "c2hvcnQ=", good + "AAAA", strings.Repeat("A", 43) + "=", strings.Repeat("ab", 32), good[:20] + " " + good[20:], "hunter2hunter2hunter2hunter2hunt"} {
		_, err := ParseKeys(bad)
		if err == nil {
			t.Errorf("%q was accepted", bad)
		} else if len(bad) > 8 && strings.Contains(err.Error(), bad) {
			t.Errorf("the error contains the key: %v", err)
		}
		if _, err := ParseKeys(good, bad); err == nil || !strings.Contains(err.Error(), "old encryption key 1") {
			t.Errorf("as an old key: %v", err)
		}
	}
	if _, err := ParseKeys(good, testKey(1), good); err == nil {
		t.Error("a repeated key was accepted")
	}
}

// If two purposes shared a key, a value made for one could be used for the other. No key may be
// printed.
func TestDerivedKeysDifferAndAreNotPrinted(t *testing.T) {
	k := testKeys(t, 2, 1)
	seen := map[string]bool{}
	for _, list := range [][][]byte{k.RefreshMAC(), k.ClaimSeal(), {k.keys[0].phoneIndex, k.keys[1].phoneIndex}} {
		if len(list) != 2 {
			t.Fatalf("%d keys of two", len(list))
		}
		for _, key := range list {
			if len(key) != 32 || seen[string(key)] {
				t.Error("a key is short or used twice")
			}
			seen[string(key)] = true
		}
	}
	k.RefreshMAC()[0][0] ^= 1
	if seen[string(k.RefreshMAC()[0])] == false {
		t.Error("a caller changed the key")
	}
	for _, printed := range []string{fmt.Sprint(k), fmt.Sprintf("%+v", k), fmt.Sprintf("%#v", k), fmt.Sprintf("%v", struct{ K *Keys }{k})} {
		if len(printed) > 60 {
			t.Errorf("printed: %s", printed)
		}
	}
}
