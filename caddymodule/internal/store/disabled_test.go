package store

import (
	"context"
	"errors"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// externalBook is an external directory that records which users it was asked to erase.
type externalBook struct {
	users  map[string]user.User
	broken error
}

func (e *externalBook) Login(ctx context.Context, l user.Login) (user.User, error) {
	return e.Check(ctx, l.Phone.E164())
}

func (e *externalBook) Check(_ context.Context, id string) (user.User, error) {
	u, ok := e.users[id]
	if !ok {
		return u, user.ErrUnknown
	}
	return u, e.broken
}

func (e *externalBook) Erase(_ context.Context, id string) error {
	if e.broken == nil {
		delete(e.users, id)
	}
	return e.broken
}

// The backend disables a user of an external directory. The store records that, because the
// directory may not.
func TestExternalUsersAreDisabledHere(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		number := phone(t, "13800138000")
		there := &externalBook{users: map[string]user.User{number.E164(): {ID: number.E164(), Phone: number}}}
		users := s.ExternalUsers(there, settings)
		for _, disabled := range []bool{true, true, false, false} {
			if err := users.SetDisabled(t.Context(), number.E164(), disabled); err != nil {
				t.Fatal(err)
			}
			byPhone, err1 := users.Login(t.Context(), user.Login{Phone: number})
			byID, err2 := users.Check(t.Context(), number.E164())
			if err1 != nil || err2 != nil || byPhone.Disabled != disabled || byID.Disabled != disabled {
				t.Errorf("%v: %+v %v, %+v %v", disabled, byPhone, err1, byID, err2)
			}
		}
		// The directory can disable a user as well.
		there.users[number.E164()] = user.User{ID: number.E164(), Disabled: true}
		if u, err := users.Check(t.Context(), number.E164()); err != nil || !u.Disabled {
			t.Errorf("disabled there: %+v %v", u, err)
		}
	})
}

// If the external directory cannot erase a user, nothing is erased here either, so that the call
// can be repeated.
func TestErasingReachesTheOtherDirectoryFirst(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		there := &externalBook{users: map[string]user.User{"u": {ID: "u"}}, broken: errors.New("away")}
		users := s.ExternalUsers(there, settings)
		opened, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UnionID: "n1", UserID: "u"}, user.Keep, now)
		if err := users.SetDisabled(t.Context(), "u", true); err != nil {
			t.Fatal(err)
		}
		if err := users.Erase(t.Context(), "u"); !errors.Is(err, there.broken) {
			t.Fatalf("the directory is unavailable: %v", err)
		}
		if _, bound, _ := s.Binding(t.Context(), "wx1", "o1"); !bound {
			t.Error("the binding is gone: nobody could repeat the erasure by the openid")
		}
		there.broken = nil
		if err := users.Erase(t.Context(), "u"); err != nil {
			t.Fatal(err)
		}
		if len(there.users) != 0 {
			t.Error("the directory still has the user")
		}
		if _, bound, _ := s.Binding(t.Context(), "wx1", "o1"); bound {
			t.Error("the openid is still bound")
		}
		if got, err := s.Session(t.Context(), opened.ID); err != nil || got.EndedAt.IsZero() || got.OpenID != "" || got.UnionID != "" || got.Address != "" {
			t.Errorf("the session: %+v %v", got, err)
		}
		there.users["u"] = user.User{ID: "u"}
		if u, err := users.Check(t.Context(), "u"); err != nil || !u.Disabled {
			t.Errorf("the id was assigned again, and is no longer disabled: %+v %v", u, err)
		}
		if err := users.SetDisabled(t.Context(), "u", false); err != nil {
			t.Fatal(err)
		}
		if u, err := users.Check(t.Context(), "u"); err != nil || u.Disabled {
			t.Errorf("enabled again: %+v %v", u, err)
		}
	})
}

// A user is disabled or erased after a login has asked the directory and before it opens its
// session.
func TestDisabledMeanwhileOpensNoSession(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		own := s.Users(true, settings)
		logIn := func(national string) user.User {
			u, err := own.Login(t.Context(), user.Login{Phone: phone(t, national)})
			if err != nil {
				t.Fatal(err)
			}
			return u
		}
		settled := func(id string) error {
			_, err := commit(t, s, loginCommit(user.Binding{AppID: "wx1", OpenID: "o-" + id, UserID: id}, user.Keep, newSession(id, "wx1", "o-"+id, now)))
			return err
		}
		disabled, erased, other := logIn("13800138000"), logIn("13800138001"), logIn("13800138002")
		there := s.ExternalUsers(&externalBook{}, settings)
		for _, err := range []error{
			own.SetDisabled(t.Context(), disabled.ID, true),
			own.Erase(t.Context(), erased.ID),
			there.SetDisabled(t.Context(), "elsewhere", true),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for id, want := range map[string]error{
			disabled.ID: user.ErrDisabled, erased.ID: user.ErrUnknown, "elsewhere": user.ErrDisabled, other.ID: nil,
		} {
			if err := settled(id); !errors.Is(err, want) {
				t.Errorf("%s: %v; want %v", id, err, want)
			}
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {sessions}`); n != 1 {
			t.Errorf("%d sessions", n)
		}
		if err := own.SetDisabled(t.Context(), disabled.ID, false); err != nil {
			t.Fatal(err)
		}
		if err := settled(disabled.ID); err != nil {
			t.Errorf("enabled again: %v", err)
		}
	})
}

// Housekeeping removes the tombstones of erased users after a day. It must not enable
// a disabled user.
func TestPurgeKeepsDisabledExternalUsers(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		own := s.Users(true, settings)
		u, err := own.Login(t.Context(), user.Login{Phone: phone(t, "13800138000")})
		if err != nil {
			t.Fatal(err)
		}
		if err := own.Erase(t.Context(), u.ID); err != nil {
			t.Fatal(err)
		}
		if err := s.ExternalUsers(&externalBook{}, settings).SetDisabled(t.Context(), "elsewhere", true); err != nil {
			t.Fatal(err)
		}
		execute(t, s, `UPDATE {barred_users} SET erased_at = ? WHERE erased_at > 0`, s.db.millis(now))
		for i, want := range []int{2, 1} {
			execute(t, s, `UPDATE {barred_users} SET erased_at = {now} - ? WHERE erased_at > 0`, i*48*3600*1000)
			if _, err := s.Purge(t.Context(), 100); err != nil {
				t.Fatal(err)
			}
			if n := count(t, s, `SELECT COUNT(*) FROM {barred_users}`); n != want {
				t.Errorf("%d barred users left, want %d", n, want)
			}
		}
	})
}
