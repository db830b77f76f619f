package store

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Two stores with different table prefixes share a database and no users.
func TestTwoStoresWithPrefixesShareADatabase(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a := open(Options{Prefix: "a_"}).With(testKeys(t, 1))
		b := open(Options{Prefix: "b_"}).With(testKeys(t, 2))
		key := [32]byte{1}
		if err := a.Keep(t.Context(), key, []byte("a"), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := b.Kept(t.Context(), key, time.Now()); ok || err != nil {
			t.Fatal(ok, err)
		}
	})
}

// After a restart everything is still there.
func TestDataOutlivesClosing(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		created, err := s.Users(true, settings).Login(t.Context(), user.Login{AppID: "wx1", OpenID: "o1", Phone: phone(t, "13800138000")})
		if err != nil {
			t.Fatal(err)
		}
		opened, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: created.ID, PhoneAt: now}, user.Replace, now)
		if err := s.db.Close(); err != nil {
			t.Fatal(err)
		}
		if err := ping(t.Context(), s); err == nil {
			t.Error("a closed store answers")
		}

		s = started(t, open)
		if u, err := s.Users(true, settings).Check(t.Context(), created.ID); err != nil || u.Phone != created.Phone || u.New {
			t.Errorf("the user came back as %+v, %v", u, err)
		}
		if got, err := s.Session(t.Context(), opened.ID); err != nil || got != opened {
			t.Errorf("the session came back as %+v, %v", got, err)
		}
	})
}

// Replicas that open an old store at once must not run a migration twice.
func TestConcurrentOpenMigratesOnce(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		keys := testKeys(t, 1)
		var stores []*Store
		for range 3 { // three processes, each with many callers
			s := open(defaults).With(keys)
			stores = append(stores, s, s, s, s)
		}
		errs := make(chan error)
		for _, s := range stores {
			go func() { errs <- s.Open(context.Background()) }()
		}
		for range stores {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if n := count(t, stores[0], `SELECT COUNT(*) FROM {meta}`); n != 2 {
			t.Errorf("%d rows in meta", n)
		}
	})
}

// A start with the wrong encryption key is refused before it can damage anything.
func TestWrongKeyIsRefusedAndNothingIsWritten(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		before := dump(t, s)
		wrong := open(defaults).With(testKeys(t, 2))
		err := wrong.Open(t.Context())
		if !isPermanent(err, ErrKey) {
			t.Fatalf("wrong key: %v", err)
		}
		if err := wrong.Keep(t.Context(), [32]byte{1}, []byte("x"), now.Add(time.Hour)); !isPermanent(err, ErrKey) {
			t.Errorf("writing with a wrong key: %v", err)
		}
		if _, err := wrong.Secrets(t.Context()); !isPermanent(err, ErrKey) {
			t.Errorf("a wrong key was handed out: %v", err)
		}
		if after := dump(t, s); after != before {
			t.Errorf("written with a wrong key:\n%s\nbefore:\n%s", after, before)
		}
		// The same handle works with the right key, as after a corrected reload.
		if err := wrong.db.With(testKeys(t, 3, 1)).Open(patient(t)); err != nil {
			t.Errorf("an old key that is right: %v", err)
		}
	})
}

// A caller that hangs up is no failure of the store. A caller that waits too long is one.
func TestCancelledIsNotUnavailable(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		for name, ask := range map[string]func(context.Context) error{
			"read":  func(ctx context.Context) error { _, err := s.Session(ctx, "x"); return err },
			"write": func(ctx context.Context) error { return s.Release(ctx, "", login.Key{}) },
		} {
			if err := ask(cancelled); !isPermanent(err, context.Canceled) {
				t.Errorf("%s, cancelled: %v", name, err)
			}
			if err := ask(late); !strings.Contains(fmt.Sprint(err), ErrUnavailable.Error()) {
				t.Errorf("%s, late: %v", name, err)
			}
		}
	})
}
