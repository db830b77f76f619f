package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// numbered is an external directory that changes numbers.
type numbered struct {
	*externalBook
	refuses error
}

func (n numbered) ChangePhone(_ context.Context, id string, to user.Phone) error {
	u, ok := n.users[id]
	switch {
	case n.refuses != nil:
		return n.refuses
	case !ok:
		return user.ErrUnknown
	}
	u.Phone = to
	n.users[id] = u
	return nil
}

func (n numbered) Login(_ context.Context, l user.Login) (user.User, error) {
	for _, u := range n.users {
		if u.Phone == l.Phone {
			return u, nil
		}
	}
	return user.User{}, user.ErrUnknown
}

// in logs a WeChat account in with a number, as the login chain does, and returns the user.
func in(t *testing.T, s *Store, d user.Directory, who, number string) (user.User, error) {
	t.Helper()
	b := bindingOf(who, "", now)
	known, err := s.Known(t.Context(), login.Account{AppID: b.AppID, OpenID: b.OpenID, UnionID: b.UnionID})
	if err != nil {
		t.Fatal(err)
	}
	u, err := d.Login(t.Context(), user.Login{
		AppID: b.AppID, OpenID: b.OpenID, UnionID: b.UnionID, Phone: phone(t, number), UserID: known.UserID, Detached: known.Detached,
	})
	if err != nil || u.Disabled {
		return u, err
	}
	b.UserID = u.ID
	l := loginCommit(b, user.Replace, newSession(u.ID, b.AppID, b.OpenID, now))
	l.Session.UnionID = b.UnionID
	if _, err := commit(t, s, l); err != nil {
		t.Fatal(err)
	}
	return u, nil
}

// mustBeIn is in for a login that succeeds.
func mustBeIn(t *testing.T, s *Store, d user.Directory, who, number string) user.User {
	t.Helper()
	u, err := in(t, s, d, who, number)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

const alicesNumber, newNumber, bobsNumber = "13800138001", "13800138002", "13800138003"

// detached returns a user whom Alice's account in wx1 has detached.
func detached(t *testing.T, s *Store, d *Users) user.User {
	t.Helper()
	u, err := in(t, s, d, "+alice/wx1", alicesNumber)
	if err != nil {
		t.Fatal(err)
	}
	b := bindingOf("alice/wx1", "", now)
	if left := leave(t, s, b.AppID, b.OpenID, now); !left.Last {
		t.Fatalf("%+v", left)
	}
	if done, err := d.DetachLeft(t.Context(), u.ID, b.AppID, b.OpenID); err != nil || !done {
		t.Fatal(done, err)
	}
	return u
}

// Alice withdraws her number. Then the number is in no table and has no owner. Her next phone
// login, with this openid or with another one of her unionid, leads to her account again.
func TestDetachedUserGetsTheNewNumber(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		d := s.Users(true, settings)
		for _, who := range []string{"alice/wx1", "+alice/wx2"} {
			u := detached(t, s, d)
			if _, err := s.FindPhone(t.Context(), phone(t, alicesNumber)); !errors.Is(err, user.ErrUnknown) {
				t.Errorf("her number is still found: %v", err)
			}
			for _, query := range []string{`SELECT COUNT(*) FROM {user_phones} WHERE user_id = ?`, `SELECT COUNT(*) FROM {bindings} WHERE user_id = ? AND phone IS NOT NULL`} {
				if n := count(t, s, query, u.ID); n != 0 {
					t.Errorf("%d rows: %s", n, query)
				}
			}
			if kept, err := d.Check(t.Context(), u.ID); err != nil || !kept.Phone.IsZero() || kept.Disabled {
				t.Errorf("the user: %+v, %v", kept, err)
			}
			if list, err := s.ListUsers(t.Context(), "", 10); err != nil || len(list) != 1 || !list[0].Phone.IsZero() {
				t.Errorf("the list: %+v, %v", list, err)
			}
			back, err := in(t, s, d, who, newNumber)
			if err != nil || back.ID != u.ID || back.New || back.Phone != phone(t, newNumber) {
				t.Errorf("back as %+v, %v; want user %s", back, err, u.ID)
			}
			if id, err := s.FindPhone(t.Context(), phone(t, newNumber)); err != nil || id != u.ID {
				t.Errorf("the new number finds %s, %v", id, err)
			}
			if n := count(t, s, `SELECT COUNT(*) FROM {bindings} WHERE state = ?`, int64(user.Withdrawn)); n != 0 {
				t.Errorf("%d openids would give the user another number", n)
			}
			if err := d.Erase(t.Context(), u.ID); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A detached user's account goes to nobody else. A stranger becomes a new user, a disabled user
// stays out, and an erased user does not come back. If Alice logs in with a number that is Bob's,
// she gets into Bob's account.
func TestDetachedUserIsNobodyElses(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		d := s.Users(true, settings)
		u := detached(t, s, d)
		bob, err := in(t, s, d, "+bob/wx1", alicesNumber)
		if err != nil || bob.ID == u.ID || !bob.New {
			t.Errorf("Bob: %+v, %v", bob, err)
		}
		if err := d.SetDisabled(t.Context(), u.ID, true); err != nil {
			t.Fatal(err)
		}
		if got, err := in(t, s, d, "+alice/wx1", newNumber); err != nil || !got.Disabled || got.ID != u.ID {
			t.Errorf("disabled: %+v, %v", got, err)
		}
		if err := d.SetDisabled(t.Context(), u.ID, false); err != nil {
			t.Fatal(err)
		}
		if got, err := in(t, s, d, "+alice/wx1", alicesNumber); err != nil || got.ID != bob.ID {
			t.Errorf("with the number that is Bob's now: %+v, %v", got, err)
		}
		if got, err := in(t, s, d, "+alice/wx1", newNumber); err != nil || got.ID == u.ID || !got.New {
			t.Errorf("after she has entered his account: %+v, %v", got, err)
		}
		gone := detached(t, s, d)
		if err := d.Erase(t.Context(), gone.ID); err != nil {
			t.Fatal(err)
		}
		if got, err := in(t, s, d, "+alice/wx1", newNumber); err != nil || got.ID == gone.ID {
			t.Errorf("erased: %+v, %v", got, err)
		}
	})
}

// WeChat reports the withdrawal twice, and her second openid leaves later. Only the openid that has
// detached her can bring her back.
func TestDetachingTwiceIsDetachingOnce(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		d := s.Users(true, settings)
		u := mustBeIn(t, s, d, "alice/wx1", alicesNumber)
		logIn(t, s, bindingOf("alice/wx2", u.ID, now), user.Keep, now)
		one, two := bindingOf("alice/wx1", "", now), bindingOf("alice/wx2", "", now)
		leave(t, s, one.AppID, one.OpenID, now)
		if done, err := d.DetachLeft(t.Context(), u.ID, one.AppID, one.OpenID); err != nil || done {
			t.Errorf("the other openid still has a phone login: %v, %v", done, err)
		}
		for _, b := range []user.Binding{two, two, one} {
			leave(t, s, b.AppID, b.OpenID, now)
			if done, err := d.DetachLeft(t.Context(), u.ID, two.AppID, two.OpenID); err != nil || !done {
				t.Errorf("%s: %v, %v", b.AppID, done, err)
			}
		}
		if done, err := d.DetachLeft(t.Context(), u.ID, one.AppID, one.OpenID); err != nil || !done {
			t.Errorf("%v, %v", done, err)
		}
		if other, err := in(t, s, d, "alice/wx1", newNumber); err != nil || other.ID == u.ID {
			t.Errorf("by the first openid: %+v, %v", other, err)
		}
		if back, err := in(t, s, d, "alice/wx2", bobsNumber); err != nil || back.ID != u.ID {
			t.Errorf("by the last openid: %+v, %v", back, err)
		}
	})
}

// Two of her devices log in at once, with two new numbers. One number becomes hers, and the other
// login creates another user.
func TestAttachTwiceAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		replicas := []*Store{started(t, open), started(t, open)}
		d := replicas[0].Users(true, settings)
		u := detached(t, replicas[0], d)
		var wg sync.WaitGroup
		ids := make([]string, 2)
		for i, number := range []string{newNumber, bobsNumber} {
			wg.Go(func() {
				got, err := replicas[i].Users(true, settings).Login(context.Background(), user.Login{Phone: phone(t, number), Detached: u.ID})
				if err != nil {
					t.Error(err)
				}
				ids[i] = got.ID
			})
		}
		wg.Wait()
		if (ids[0] == u.ID) == (ids[1] == u.ID) {
			t.Errorf("%s and %s, want %s once", ids[0], ids[1], u.ID)
		}
	})
}

// The backend takes the number away from an unused account. A login under way with the number opens
// no session of that account. The next owner of the number becomes a new user.
func TestTakePhoneFreesTheNumber(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		d := s.Users(true, settings)
		u := mustBeIn(t, s, d, "alice/wx1", alicesNumber)
		for range 2 {
			if err := d.TakePhone(t.Context(), u.ID); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.TakePhone(t.Context(), "nobody"); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("nobody: %v", err)
		}
		l := loginCommit(bindingOf("alice/wx1", u.ID, now), user.Replace, newSession(u.ID, "wx1", "alice@wx1", now))
		l.Phone = phone(t, alicesNumber)
		if err := s.Keep(t.Context(), l.Code, nil, l.Expires); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(t.Context(), l); !errors.Is(err, login.ErrChanged) {
			t.Errorf("a login under way: %v", err)
		}
		if bob, err := in(t, s, d, "bob/wx1", alicesNumber); err != nil || bob.ID == u.ID || !bob.New {
			t.Errorf("the next owner: %+v, %v", bob, err)
		}
		if kept, err := d.Check(t.Context(), u.ID); err != nil || !kept.Phone.IsZero() {
			t.Errorf("the account: %+v, %v", kept, err)
		}
	})
}

// An external directory takes away and gives numbers. If it reports that it cannot, nothing is
// changed here.
func TestExternalUsersAreDetached(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		there := numbered{externalBook: &externalBook{users: map[string]user.User{"u": {ID: "u", Phone: phone(t, alicesNumber)}}}}
		d := s.ExternalUsers(user.Checked(&there), settings)
		if _, err := in(t, s, d, "+alice/wx1", alicesNumber); err != nil {
			t.Fatal(err)
		}
		b := bindingOf("alice/wx1", "", now)
		if done, err := d.DetachLeft(t.Context(), "u", b.AppID, b.OpenID); err != nil || done || there.users["u"].Phone.IsZero() {
			t.Errorf("with a phone login left: %v, %v", done, err)
		}
		leave(t, s, b.AppID, b.OpenID, now)
		there.refuses = user.ErrPhoneFixed
		if done, err := d.DetachLeft(t.Context(), "u", b.AppID, b.OpenID); !errors.Is(err, user.ErrPhoneFixed) || done {
			t.Errorf("a directory that cannot: %v, %v", done, err)
		}
		if err := d.TakePhone(t.Context(), "u"); !errors.Is(err, user.ErrPhoneFixed) {
			t.Errorf("a directory that cannot: %v", err)
		}
		there.refuses = nil
		for range 2 {
			if done, err := d.DetachLeft(t.Context(), "u", b.AppID, b.OpenID); err != nil || !done || !there.users["u"].Phone.IsZero() {
				t.Errorf("%v, %v", done, err)
			}
		}
		there.refuses = user.ErrPhoneTaken
		if _, err := in(t, s, d, "+alice/wx1", newNumber); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("a number that is taken there: %v", err)
		}
		there.refuses = nil
		if err := d.SetDisabled(t.Context(), "u", true); err != nil {
			t.Fatal(err)
		}
		if got, err := in(t, s, d, "+alice/wx2", newNumber); err != nil || !got.Disabled || !there.users["u"].Phone.IsZero() {
			t.Errorf("disabled: %+v, %v", got, err)
		}
		if err := d.SetDisabled(t.Context(), "u", false); err != nil {
			t.Fatal(err)
		}
		if back, err := in(t, s, d, "+alice/wx2", newNumber); err != nil || back.ID != "u" || there.users["u"].Phone != phone(t, newNumber) {
			t.Errorf("back as %+v, %v", back, err)
		}
	})
}

// After `rekey`, no index entry leads to a detached user, and the user still gets the number of the
// next phone login.
func TestDetachedUserOutlivesARekey(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		u := detached(t, s, s.Users(true, settings))
		both := open(defaults).With(testKeys(t, 2, 1))
		rekeyed(t, both, Rekey{Sessions: halfAYear})
		if n := count(t, both, `SELECT COUNT(*) FROM {user_phones}`); n != 0 {
			t.Errorf("%d entries of numbers", n)
		}
		if back, err := in(t, both, both.Users(true, settings), "alice/wx1", newNumber); err != nil || back.ID != u.ID {
			t.Errorf("back as %+v, %v", back, err)
		}
	})
}

// Alice logs in to another app while another replica handles WeChat's report of her withdrawal.
// Either the login comes too late, or she keeps the number.
func TestDetachBesideALogin(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		a, b := started(t, open), started(t, open)
		d := a.Users(true, settings)
		for round := range 10 {
			u, err := in(t, a, d, fmt.Sprintf("alice%d/wx1", round), fmt.Sprint("1380013810", round))
			if err != nil {
				t.Fatal(err)
			}
			one, two := bindingOf(fmt.Sprintf("alice%d/wx1", round), u.ID, now), bindingOf(fmt.Sprintf("alice%d/wx2", round), u.ID, now)
			leave(t, a, one.AppID, one.OpenID, now)
			l := loginCommit(two, user.Keep, newSession(u.ID, two.AppID, two.OpenID, now))
			l.Phone = u.Phone
			if err := b.Keep(t.Context(), l.Code, nil, l.Expires); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			var done bool
			var loggedIn error
			wg.Go(func() {
				if done, err = d.DetachLeft(context.Background(), u.ID, one.AppID, one.OpenID); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() { _, loggedIn = b.Commit(context.Background(), l) })
			wg.Wait()
			kept, err := d.Check(t.Context(), u.ID)
			if err != nil || done == (loggedIn == nil) || done != kept.Phone.IsZero() || loggedIn != nil && !errors.Is(loggedIn, login.ErrChanged) {
				t.Errorf("round %d: detached %v, the login %v, the user %+v, %v", round, done, loggedIn, kept, err)
			}
		}
	})
}

// A detached user moves to another database without a number, and gets a new number there.
func TestDetachedUserMoves(t *testing.T) {
	moves(t, func(t *testing.T, from, to database) {
		old := started(t, from)
		u := detached(t, old, old.Users(true, settings))
		if _, err := (Move{From: old, To: to(defaults).Filler(testKeys(t, 9)), Sessions: halfAYear}).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := to(defaults).With(testKeys(t, 9))
		if n := count(t, s, `SELECT COUNT(*) FROM {user_phones}`); n != 0 {
			t.Errorf("%d entries of numbers", n)
		}
		if back, err := in(t, s, s.Users(true, settings), "alice/wx1", newNumber); err != nil || back.ID != u.ID {
			t.Errorf("back as %+v, %v", back, err)
		}
	})
}
