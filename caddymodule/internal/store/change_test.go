package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

const numberBefore, numberAfter, anotherNumber = "13800138000", "13900139000", "13700137000"

// loggedIn logs in with a number at the store's own directory.
func loggedIn(t *testing.T, s *Store, openid, number string) session.Session {
	t.Helper()
	u, err := s.Users(true, settings).Login(t.Context(), user.Login{AppID: "wx1", OpenID: openid, Phone: phone(t, number)})
	if err != nil {
		t.Fatal(err)
	}
	opened, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: openid, UserID: u.ID, PhoneAt: now, AuthAt: now}, user.Keep, now)
	return opened
}

// changeOf returns a change of number with a phone code.
func changeOf(t *testing.T, of session.Session, number string, code byte) login.PhoneChange {
	t.Helper()
	at := now.Add(time.Duration(code) * time.Minute)
	return login.PhoneChange{Session: of, Phone: phone(t, number), At: at, Done: login.Key{code, 9}, Expires: at.Add(time.Minute)}
}

func changed(t *testing.T, s *Store, c login.PhoneChange, want error) login.PhoneChanged {
	t.Helper()
	done, err := s.ChangePhone(t.Context(), c)
	if !errors.Is(err, want) {
		t.Fatalf("to %s: %v, want %v", c.Phone.Masked(), err, want)
	}
	return done
}

// A user changes the phone number. The former number is in no table any more, and belongs to the
// next person who logs in with it. Repeating the change with the same phone code gives the same
// answer, but not after a further change.
func TestNumberMoves(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		// Another replica writes its numbers under two keys.
		s, two := started(t, open), open(defaults).With(testKeys(t, 1, 2))
		d := two.Users(true, settings)
		alice := loggedIn(t, s, "alice", numberBefore)
		first := changeOf(t, alice, numberAfter, 1)
		if done := changed(t, two, first, nil); done.Replayed || !done.AuthAt.Equal(first.At) {
			t.Errorf("%+v", done)
		}
		again := first
		again.At = again.At.Add(time.Second)
		if done := changed(t, s, again, nil); !done.Replayed || !done.AuthAt.Equal(first.At) {
			t.Errorf("again: %+v", done)
		}
		if found, err := s.Session(t.Context(), alice.ID); err != nil || !found.AuthAt.Equal(first.At) {
			t.Errorf("auth_time %v, %v", found.AuthAt, err)
		}
		if u, err := d.Check(t.Context(), alice.UserID); err != nil || u.Phone.E164() != "+86"+numberAfter {
			t.Errorf("%s, %v", u.Phone.Masked(), err)
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {user_phones}`); n != 2 { // one for each key
			t.Errorf("%d entries in the index", n)
		}
		if u, err := d.Login(t.Context(), user.Login{AppID: "wx1", OpenID: "alice", Phone: phone(t, numberAfter)}); err != nil || u.ID != alice.UserID {
			t.Errorf("with the new number: user %s, %v", u.ID, err)
		}
		if u, err := d.Login(t.Context(), user.Login{AppID: "wx1", OpenID: "bob", Phone: phone(t, numberBefore)}); err != nil || !u.New {
			t.Errorf("with the former number: %+v, %v", u.ID, err)
		}
		changed(t, s, changeOf(t, alice, anotherNumber, 2), nil)
		changed(t, s, first, login.ErrChangedSince)
		changed(t, s, changeOf(t, alice, numberBefore, 3), user.ErrPhoneTaken)
		changed(t, s, changeOf(t, alice, anotherNumber, 4), nil) // the number that she has already
		if u, err := d.Check(t.Context(), alice.UserID); err != nil || u.Phone.E164() != "+86"+anotherNumber {
			t.Errorf("%s, %v", u.Phone.Masked(), err)
		}
	})
}

// The session has ended, or the user was disabled or erased, while WeChat exchanged the code.
// Nothing changes then.
func TestNumberStaysIfSomethingEnded(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		d := s.Users(true, settings)
		ended := loggedIn(t, s, "a", numberBefore)
		if _, err := s.End(t.Context(), ended.ID, ending(now, now.Add(time.Hour))); err != nil {
			t.Fatal(err)
		}
		changed(t, s, changeOf(t, ended, numberAfter, 1), session.ErrEnded)
		disabled := loggedIn(t, s, "b", anotherNumber)
		if err := s.SetDisabled(t.Context(), disabled.UserID, true); err != nil {
			t.Fatal(err)
		}
		changed(t, s, changeOf(t, disabled, numberAfter, 2), user.ErrDisabled)
		erased := loggedIn(t, s, "c", "13600136000")
		if err := d.Erase(t.Context(), erased.UserID); err != nil {
			t.Fatal(err)
		}
		changed(t, s, changeOf(t, erased, numberAfter, 3), user.ErrUnknown)
		moved := loggedIn(t, s, "d", "13500135000")
		execute(t, s, `UPDATE {bindings} SET user_id = 'other' WHERE openid = 'd'`)
		changed(t, s, changeOf(t, moved, numberAfter, 4), session.ErrEnded)
		if _, err := s.FindPhone(t.Context(), phone(t, numberAfter)); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("the new number belongs to somebody: %v", err)
		}
	})
}

// Two users want the same number at once, and two users want each other's numbers. Each number must
// have one owner, and each user one number.
func TestTwoWantOneNumber(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		replicas := []*Store{started(t, open), started(t, open)}
		alice, bob := loggedIn(t, replicas[0], "alice", numberBefore), loggedIn(t, replicas[0], "bob", anotherNumber)
		atOnce := func(a, b login.PhoneChange) (errs [2]error) {
			var wg sync.WaitGroup
			for i, c := range []login.PhoneChange{a, b} {
				wg.Go(func() { _, errs[i] = replicas[i].ChangePhone(t.Context(), c) })
			}
			wg.Wait()
			return errs
		}
		for round := range 5 {
			code := byte(10 + 6*round)
			errs := atOnce(changeOf(t, alice, numberAfter, code), changeOf(t, bob, numberAfter, code+1))
			if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[:]...), user.ErrPhoneTaken) {
				t.Fatalf("%v", errs)
			}
			changed(t, replicas[0], changeOf(t, alice, numberBefore, code+2), nil)
			changed(t, replicas[1], changeOf(t, bob, anotherNumber, code+3), nil)
			for i, err := range atOnce(changeOf(t, alice, anotherNumber, code+4), changeOf(t, bob, numberBefore, code+5)) {
				if !errors.Is(err, user.ErrPhoneTaken) {
					t.Errorf("%d: %v", i, err)
				}
			}
			if n := count(t, replicas[0], `SELECT COUNT(*) FROM {user_phones}`); n != 2 {
				t.Fatalf("%d entries in the index", n)
			}
		}
	})
}

// A login with a number is committed while its user changes to another number. The login must not
// open a session of that user.
func TestNumberMovesBesideALogin(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		alice := loggedIn(t, s, "alice", numberBefore)
		bob := loginCommit(user.Binding{AppID: "wx1", OpenID: "bob", UserID: alice.UserID, PhoneAt: now, AuthAt: now}, user.Keep, newSession(alice.UserID, "wx1", "bob", now))
		if err := s.Keep(t.Context(), bob.Code, []byte("whose"), now.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		changed(t, s, changeOf(t, alice, numberAfter, 1), nil)
		if _, err := s.Commit(t.Context(), bob); !errors.Is(err, login.ErrChanged) {
			t.Errorf("%v", err)
		}
		bob.Phone = phone(t, numberAfter)
		if _, err := s.Commit(t.Context(), bob); err != nil {
			t.Errorf("with the new number: %v", err)
		}
	})
}

// A user of an external directory changes the number. The directory is not part of the transaction,
// so a login that asked it before the change has ended must ask it again.
func TestMarkOfAnExternalChange(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		b := user.Binding{AppID: "wx1", OpenID: "alice", UserID: "a", PhoneAt: now, AuthAt: now, Phone: phone(t, numberBefore)}
		alice, _ := logIn(t, open(defaults).With(testKeys(t, 1)), b, user.Keep, now)
		execute(t, s, `DELETE FROM {users}`)
		external := open(defaults).With(testKeys(t, 1)) // without users of its own
		other := b
		other.AppID, other.OpenID = "wx2", "alice2"
		for _, one := range []user.Binding{other, {AppID: "wx3", OpenID: "alice3", UserID: "a", PhoneAt: now}} {
			l := loginCommit(one, user.Keep, newSession("a", one.AppID, one.OpenID, now))
			if err := external.Keep(t.Context(), l.Code, []byte("whose"), now.Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := external.Commit(t.Context(), l); err != nil {
				t.Fatal(err)
			}
		}
		known := func() login.Known {
			t.Helper()
			k, err := external.Known(t.Context(), login.Account{AppID: "wx1", OpenID: "bob", Phone: phone(t, numberBefore)})
			if err != nil || k.Asked.IsZero() {
				t.Fatalf("%+v, %v", k, err)
			}
			return k
		}
		bob := loginCommit(user.Binding{AppID: "wx1", OpenID: "bob", UserID: "a", PhoneAt: now}, user.Keep, newSession("a", "wx1", "bob", now))
		commits := func(k login.Known, want error) {
			t.Helper()
			bob.Known = k
			if err := external.Keep(t.Context(), bob.Code, []byte("whose"), now.Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := external.Commit(t.Context(), bob); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		}
		before := known()
		c := changeOf(t, alice, numberAfter, 1)
		c.External, c.Owner = true, "me"
		if done, err := external.BeginPhoneChange(t.Context(), c, time.Minute); err != nil || done.Replayed {
			t.Fatalf("%+v, %v", done, err)
		}
		during := known()
		commits(before, login.ErrChanging)
		commits(during, login.ErrChanging)
		changed(t, external, c, nil)
		commits(before, login.ErrChanged)
		commits(during, login.ErrChanged)
		time.Sleep(2 * time.Millisecond) // the next reading of the clock must differ
		commits(known(), nil)
		if done, err := external.BeginPhoneChange(t.Context(), c, time.Minute); err != nil || done.AuthAt != c.At {
			t.Errorf("begun again: %+v, %v", done, err)
		}
		for appid, want := range map[string]string{"wx1": "+86" + numberAfter, "wx2": "+86" + numberAfter, "wx3": "+86" + numberAfter} {
			openid := map[string]string{"wx1": "alice", "wx2": "alice2", "wx3": "alice3"}[appid]
			if b, ok, err := external.Binding(t.Context(), appid, openid); err != nil || !ok || b.Phone.E164() != want {
				t.Errorf("%s: %v, %s, %v", appid, ok, b.Phone.Masked(), err)
			}
		}
		// If it is unknown whether a change was made, its mark expires.
		execute(t, s, `UPDATE {claimed_steps} SET lease_until = {now} - 1`)
		bob.Session.ID, bob.Login, bob.Code = newID(now), login.Key{1, 1}, login.Key{1, 2}
		time.Sleep(2 * time.Millisecond)
		commits(known(), nil)
	})
}

// changer is an external directory that changes numbers. It calls meanwhile before it answers.
type changer struct {
	externalBook
	meanwhile func()
	err       error
}

func (c *changer) ChangePhone(context.Context, string, user.Phone) error {
	if c.meanwhile != nil {
		c.meanwhile()
	}
	return c.err
}

// The backend takes away a user's number in an external directory. A login that asked the directory
// before opens no session of this user. A change of number that is under way does not write a
// number back.
func TestExternalNumberIsTakenAway(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		for i, taken := range []error{nil, user.ErrPhoneFixed, user.ErrUnknown, errors.New("away")} {
			id := fmt.Sprint("u", i)
			answered := func(openid string) login.Commit {
				t.Helper()
				b := user.Binding{AppID: "wx1", OpenID: openid + id, UserID: id, PhoneAt: now, AuthAt: now, Phone: phone(t, numberBefore)}
				l := loginCommit(b, user.Keep, newSession(id, b.AppID, b.OpenID, now))
				if err := s.Keep(t.Context(), l.Code, []byte("whose"), now.Add(time.Minute)); err != nil {
					t.Fatal(err)
				}
				var err error
				if l.Known, err = s.Known(t.Context(), login.Account{AppID: b.AppID, OpenID: b.OpenID, Phone: b.Phone}); err != nil {
					t.Fatal(err)
				}
				return l
			}
			alice := answered("alice")
			if _, err := s.Commit(t.Context(), alice); err != nil {
				t.Fatal(err)
			}
			bob := answered("bob")
			c := changeOf(t, alice.Session, numberAfter, byte(i))
			c.External, c.Owner = true, "me"
			if _, err := s.BeginPhoneChange(t.Context(), c, time.Minute); err != nil {
				t.Fatal(err)
			}
			there := &changer{err: taken, meanwhile: func() {
				if _, err := s.Commit(t.Context(), bob); !errors.Is(err, login.ErrChanging) {
					t.Errorf("%v: a login meanwhile: %v", taken, err)
				}
			}}
			if err := s.ExternalUsers(there, settings).TakePhone(t.Context(), id); !errors.Is(err, taken) {
				t.Fatalf("%v, want %v", err, taken)
			}
			changed(t, s, c, login.ErrChanging)
			want := login.ErrChanged
			if taken != nil && !errors.Is(taken, user.ErrUnknown) && !errors.Is(taken, user.ErrPhoneFixed) {
				want = login.ErrChanging // it is unknown whether the number was taken away
			}
			if _, err := s.Commit(t.Context(), bob); !errors.Is(err, want) {
				t.Errorf("%v: a login after it: %v, want %v", taken, err, want)
			}
		}
	})
}
