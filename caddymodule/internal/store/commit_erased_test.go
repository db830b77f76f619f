package store

import (
	"errors"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// An erasure refuses logins that began before it, but not later ones.
func TestTombstoneRefusesLoginsFromBefore(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		there := s.ExternalUsers(&externalBook{users: make(map[string]user.User)}, settings)
		settled := func(begun time.Time) error {
			l := loginCommit(user.Binding{AppID: "wx1", OpenID: "o1", UserID: "u", PhoneAt: now}, user.Replace, newSession("u", "wx1", "o1", now))
			l.Begun = begun
			_, err := commit(t, s, l)
			return err
		}
		before := seen(t, s, 1)
		if err := s.Release(t.Context(), "me", login.Key{1}); err != nil { // the first attempt of this login failed
			t.Fatal(err)
		}
		for range 2 {
			if err := there.Erase(t.Context(), "u"); err != nil {
				t.Fatal(err)
			}
		}
		if again := seen(t, s, 1); !again.Equal(before) {
			t.Errorf("a code that was first seen at %v is reported as first seen at %v", before, again)
		}
		time.Sleep(2 * time.Millisecond)
		after := seen(t, s, 2)
		for _, begun := range []time.Time{before, {}} {
			if err := settled(begun); !errors.Is(err, user.ErrUnknown) {
				t.Errorf("begun %v: %v", begun, err)
			}
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {bindings}`); n != 0 {
			t.Errorf("%d bindings of an erased user", n)
		}
		if err := settled(after); err != nil {
			t.Errorf("begun after the erasure: %v", err)
		}
		// The later login may belong to another person with the same id.
		if err := settled(before); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("begun before the erasure, and ended after a later login: %v", err)
		}
	})
}

// A mark records an openid that was unbound from a user. It is personal data, so an erasure removes
// it.
func TestErasureTakesMarksAlong(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		c := newCast(t, s)
		c.play(0, scene{who: "alice/wx1", user: "a", rule: user.Deny})
		c.play(1, scene{who: "alice/wx1", user: "b", rule: user.Deny})
		if n := count(t, s, `SELECT COUNT(*) FROM {former_openids}`); n != 1 {
			t.Fatalf("%d marks", n)
		}
		if err := s.Users(true, settings).Erase(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {former_openids}`); n != 0 {
			t.Errorf("%d marks of an erased user", n)
		}
	})
}
