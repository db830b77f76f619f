package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// The first phone login of a number creates a user, and later ones find that user.
func TestFirstPhoneLoginMakesTheUser(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		users := started(t, open).Users(true, settings)
		login := user.Login{AppID: "wx1", OpenID: "o1", Phone: phone(t, "13800138000")}
		first, err := users.Login(t.Context(), login)
		if err != nil || !first.New || !user.ValidID(first.ID) || len(first.ID) != 36 || first.Phone != login.Phone || !first.CreatedAt.Equal(now) {
			t.Fatalf("first login: %+v, %v", first, err)
		}
		want := first
		want.New = false
		login.OpenID = "o2"
		if again, err := users.Login(t.Context(), login); err != nil || fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", want) {
			t.Errorf("again: %+v, %v", again, err)
		}
		// A login with another number does not change the number of the openid's user.
		login = user.Login{AppID: "wx1", OpenID: "o1", Phone: phone(t, "13800138001"), UserID: first.ID}
		if other, err := users.Login(t.Context(), login); err != nil || !other.New || other.ID == first.ID {
			t.Errorf("another number: %+v, %v", other, err)
		}
	})
}

// A hundred first logins of one number at once must create one user.
func TestHundredFirstLoginsMakeOneUser(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		// Two processes handle fifty logins each.
		a, b := started(t, open), started(t, open)
		var wg sync.WaitGroup
		found := make(chan user.User, 100)
		for i := range 100 {
			s := a
			if i%2 == 1 {
				s = b
			}
			wg.Go(func() {
				u, err := s.Users(true, settings).Login(t.Context(), user.Login{AppID: "wx1", OpenID: fmt.Sprint(i), Phone: phone(t, "13800138000")})
				if err != nil {
					t.Error(err)
				}
				found <- u
			})
		}
		wg.Wait()
		close(found)
		made, ids := 0, map[string]bool{}
		for u := range found {
			ids[u.ID] = true
			if u.New {
				made++
			}
		}
		if len(ids) != 1 || made != 1 || count(t, a, `SELECT COUNT(*) FROM {users}`) != 1 {
			t.Errorf("%d users, made %d times", len(ids), made)
		}
	})
}

// A silent login finds only the user that the caller is bound to.
func TestSilentLoginFindsTheBoundUserOnly(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		users := started(t, open).Users(true, settings)
		u, err := users.Login(t.Context(), user.Login{Phone: phone(t, "13800138000")})
		if err != nil {
			t.Fatal(err)
		}
		if again, err := users.Login(t.Context(), user.Login{AppID: "wx1", OpenID: "o1", UserID: u.ID}); err != nil || again.ID != u.ID || again.New {
			t.Errorf("bound: %+v, %v", again, err)
		}
		for _, id := range []string{"", "nobody"} {
			if _, err := users.Login(t.Context(), user.Login{AppID: "wx1", OpenID: "o1", UserID: id}); !errors.Is(err, user.ErrUnknown) {
				t.Errorf("bound to %q: %v", id, err)
			}
		}
	})
}

// With registration closed, only known numbers log in.
func TestClosedRegistration(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		known := user.Login{Phone: phone(t, "13800138000")}
		if _, err := s.Users(true, settings).Login(t.Context(), known); err != nil {
			t.Fatal(err)
		}
		closed := s.Users(false, settings)
		if _, err := closed.Login(t.Context(), known); err != nil {
			t.Errorf("a known number: %v", err)
		}
		if _, err := closed.Login(t.Context(), user.Login{Phone: phone(t, "13900139000")}); !errors.Is(err, user.ErrRegistrationClosed) {
			t.Errorf("an unknown number: %v", err)
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {users}`); n != 1 {
			t.Errorf("%d users", n)
		}
	})
}

// A disabled user is reported as disabled, not as unknown.
func TestDisabledUsersAreReportedAsSuch(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		users := s.Users(true, settings)
		l := user.Login{Phone: phone(t, "13800138000")}
		u, err := users.Login(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		for _, disabled := range []bool{true, false} {
			if err := s.SetDisabled(t.Context(), u.ID, disabled); err != nil {
				t.Fatal(err)
			}
			byPhone, err1 := users.Login(t.Context(), l)
			byID, err2 := users.Check(t.Context(), u.ID)
			if err1 != nil || err2 != nil || byPhone.Disabled != disabled || byID.Disabled != disabled {
				t.Errorf("%v: %+v %v, %+v %v", disabled, byPhone, err1, byID, err2)
			}
		}
		if err := s.SetDisabled(t.Context(), "nobody", true); !errors.Is(err, user.ErrUnknown) {
			t.Error(err)
		}
	})
}

// After an erasure nothing about the person is left, and their sessions have ended.
func TestErasedUsersLeaveNothing(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		users := s.Users(true, settings)
		u, err := users.Login(t.Context(), user.Login{Phone: phone(t, "13800138000")})
		if err != nil {
			t.Fatal(err)
		}
		other, err := users.Login(t.Context(), user.Login{Phone: phone(t, "13800138001")})
		if err != nil {
			t.Fatal(err)
		}
		gone, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: u.ID}, user.Keep, now)
		stays, _ := logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o2", UserID: other.ID}, user.Keep, now)

		for range 2 { // the second time the user is unknown
			if err := users.Erase(t.Context(), u.ID); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := users.Check(t.Context(), u.ID); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("erased: %v", err)
		}
		if _, bound, _ := s.Binding(t.Context(), "wx1", "o1"); bound {
			t.Error("the openid is still bound")
		}
		ended, err := s.Session(t.Context(), gone.ID)
		if err != nil || ended.EndedAt.IsZero() || ended.Address != "" || ended.UserAgent != "" {
			t.Errorf("the session: %+v, %v", ended, err)
		}
		feed, err := s.Revocations(t.Context(), 0, 0)
		if err != nil || len(feed) != 1 || feed[0].SessionID != gone.ID || !feed[0].Until.Equal(settings.Until(now)) {
			t.Errorf("the feed: %+v, %v", feed, err)
		}
		if live, err := s.Session(t.Context(), stays.ID); err != nil || !live.EndedAt.IsZero() {
			t.Errorf("another user's session: %+v, %v", live, err)
		}
		if again, err := users.Login(t.Context(), user.Login{Phone: phone(t, "13800138000")}); err != nil || !again.New || again.ID == u.ID {
			t.Errorf("the number logs in again: %+v, %v", again, err)
		}
	})
}

// While the encryption key is changed, replicas have the old key first, then both keys, then the
// new key. In each phase a number must belong to one user.
func TestOneNumberIsOneUserWhileTheKeyChanges(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		before := started(t, open)
		both := open(defaults).With(testKeys(t, 2, 1))
		ids := map[string]bool{}
		for _, l := range []struct {
			s        *Store
			national string
		}{{before, "13800138000"}, {both, "13800138000"}, {both, "13800138001"}, {before, "13800138001"}} {
			u, err := l.s.Users(true, settings).Login(t.Context(), user.Login{Phone: phone(t, l.national)})
			if l.s == before && errors.Is(err, ErrKey) {
				continue // the number is found, but sealed with a key that this replica lacks
			}
			if err != nil {
				t.Fatal(err)
			}
			ids[u.ID] = true
		}
		if n := count(t, before, `SELECT COUNT(*) FROM {users}`); n != 2 || len(ids) != 2 {
			t.Errorf("%d users of two numbers", n)
		}
	})
}

// A thief who copies the database file must not find phone numbers in it.
func TestPhoneNumbersAreNotInTheFile(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, filepath.Join(dir, "wx.db"), nil)
	u, err := s.Users(true, settings).Login(t.Context(), user.Login{Phone: phone(t, "13800138000")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Keep(t.Context(), [32]byte{1}, []byte("13800138000"), now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	var all []byte
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	if !bytes.Contains(all, []byte(u.ID)) {
		t.Fatal("the database's own files were not found")
	}
	if bytes.Contains(all, []byte("13800138000")) || bytes.Contains(all, []byte("1380013")) {
		t.Error("the phone number can be read in the file")
	}
}

// User ids have the layout of RFC 9562, version 7.
func TestNewIDIsAVersion7UUID(t *testing.T) {
	a, b := newID(now), newID(now.Add(time.Millisecond))
	if len(a) != 36 || a[14] != '7' || !strings.ContainsRune("89ab", rune(a[19])) || a[:13] >= b[:13] {
		t.Error(a, b)
	}
}
