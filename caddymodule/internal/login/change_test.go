package login_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// book is an external directory that knows its users' numbers, and changes them.
type book struct {
	user.Directory
	mu      sync.Mutex
	numbers map[string]string // the user's id by number
	changes int
	fail    error
	lost    bool // the answer to a change is lost, but the change is made
	// These are called without the lock: answered before a login gets its answer, changing
	// before a change is made.
	answered, changing func()
}

func (b *book) Login(_ context.Context, l user.Login) (user.User, error) {
	b.mu.Lock()
	id := l.UserID
	if !l.Silent() {
		if b.numbers[l.Phone.National] == "" {
			b.numbers[l.Phone.National] = fmt.Sprint("m", len(b.numbers)+1)
		}
		id = b.numbers[l.Phone.National]
	}
	answered := b.answered
	b.answered = nil
	b.mu.Unlock()
	if answered != nil {
		answered()
	}
	return user.User{ID: id}, nil
}

func (b *book) Check(_ context.Context, id string) (user.User, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, known := range b.numbers {
		if known == id {
			return user.User{ID: id}, nil
		}
	}
	return user.User{}, user.ErrUnknown
}

func (b *book) Erase(context.Context, string) error { return nil }

func (b *book) ChangePhone(_ context.Context, id string, to user.Phone) error {
	b.mu.Lock()
	changing := b.changing
	b.changing = nil
	b.mu.Unlock()
	if changing != nil {
		changing()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changes++
	if b.fail != nil {
		return b.fail
	}
	if owner := b.numbers[to.National]; owner != "" && owner != id {
		return user.ErrPhoneTaken
	}
	for number, owner := range b.numbers {
		if owner == id {
			delete(b.numbers, number)
		}
	}
	b.numbers[to.National] = id
	if b.lost {
		b.lost = false
		return errors.New("the answer was lost")
	}
	return nil
}

func (b *book) owner(number string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.numbers[number]
}

// external returns a chain whose users are in an external directory, and that directory.
func external(t *testing.T) (*testChain, *book) {
	t.Helper()
	h := newBareChain(t)
	b := &book{numbers: make(map[string]string)}
	h.Directory, h.Chain.External = h.store.ExternalUsers(user.Checked(b), h.Sessions.Settings), true
	return h, b
}

func (h *testChain) change(of login.Result, phoneCode string) (login.Result, error) {
	return h.ChangePhone(context.Background(), login.ChangeRequest{
		Request:   login.Request{App: wechat.App{ID: of.Session.AppID}, PhoneCode: phoneCode},
		SessionID: of.Session.ID, UserID: of.User.ID, OpenID: of.Session.OpenID,
	})
}

func wantChange(t *testing.T, err error, want problem.Code, renew ...string) {
	t.Helper()
	var e *login.Error
	if !errors.As(err, &e) || e.Code != want || !slices.Equal(e.Renew, renew) {
		t.Errorf("%+v; want %s, renew %v", err, want, renew)
	}
}

// Bob has Alice's former number now. His login asks the directory just before she changes her
// number there, and ends just after it. He must not be let in as Alice.
func TestLoginBesideAChangeExternal(t *testing.T) {
	a, dir := external(t)
	b := a.replica()
	alice := a.login(t, "wxA", a.code("alice"), a.phoneCode("alice", number))
	dir.answered = func() {
		if _, err := a.change(alice, a.phoneCode("alice", otherNumber)); err != nil {
			t.Error(err)
		}
	}
	bob := b.login(t, "wxA", b.code("bob"), b.phoneCode("bob", number))
	if bob.User.ID == alice.User.ID {
		t.Error("Bob is logged in as Alice")
	}
	if s, err := a.store.Session(t.Context(), alice.Session.ID); err != nil || !s.EndedAt.IsZero() {
		t.Errorf("Alice's session: %v, %v", s.EndedAt, err)
	}
}

// The directory takes its time for a change. A login with the former number waits for the
// end of the change, on whichever replica.
func TestLoginWaitsForAChangeExternal(t *testing.T) {
	a, dir := external(t)
	b := a.replica()
	alice := a.login(t, "wxA", a.code("alice"), a.phoneCode("alice", number))
	met, asked := make(chan struct{}), make(chan struct{})
	dir.changing = func() {
		close(met)
		<-asked
	}
	done := make(chan error, 1)
	go func() {
		_, err := a.change(alice, a.phoneCode("alice", otherNumber))
		done <- err
	}()
	<-met
	dir.mu.Lock()
	dir.answered = sync.OnceFunc(func() { close(asked) })
	dir.mu.Unlock()
	r := login.Request{App: wechat.App{ID: "wxA"}, Code: b.code("bob"), PhoneCode: b.phoneCode("bob", number)}
	bob, err := b.Login(t.Context(), r)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err != nil { // it waits for three seconds only, and this machine may be slow
		wantChange(t, err, problem.DirectoryUnavailable)
		if bob, err = b.Login(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if bob.User.ID == alice.User.ID {
		t.Errorf("Bob is logged in as Alice, user %s", bob.User.ID)
	}
}

// The directory may or may not have changed the test user's number. A test login fails because
// of the directory, and not because of the store, which works.
func TestTestLoginBesideAChangeExternal(t *testing.T) {
	h, dir := external(t)
	h.Sessions.Test = session.TestLogin{Marks: []string{"mark"}, Until: h.Now().Add(time.Hour)}
	phone := user.Phone{Country: "86", National: number}
	attempt := func() (login.Result, error) {
		return h.TestLogin(t.Context(), login.Request{App: wechat.App{ID: "wxA"}}, phone)
	}
	res, err := attempt()
	if err != nil {
		t.Fatal(err)
	}
	dir.fail = errors.New("away")
	if err := h.Directory.(*store.ExternalDirectory).TakePhone(t.Context(), res.User.ID); !errors.Is(err, dir.fail) {
		t.Fatal(err)
	}
	_, err = attempt()
	wantChange(t, err, problem.DirectoryUnavailable)
}

// A user changes to two numbers at once, on two replicas. The directory and the store must
// end up with the same one.
func TestTwoNumbersAtOnceExternal(t *testing.T) {
	a, dir := external(t)
	b := a.replica()
	alice := a.login(t, "wxA", a.code("alice"), a.phoneCode("alice", number))
	for round := range 5 {
		numbers := []string{fmt.Sprint(13600136000 + round), fmt.Sprint(13500135000 + round)}
		var all sync.WaitGroup
		for i, h := range []*testChain{a, b} {
			code := h.phoneCode("alice", numbers[i])
			all.Go(func() {
				_, err := h.change(alice, code)
				var e *login.Error
				for errors.As(err, &e) && e.Code == problem.DirectoryUnavailable && t.Context().Err() == nil {
					_, err = h.change(alice, code) // the other change took long, on a slow machine
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		binding, _, err := a.store.Binding(t.Context(), "wxA", alice.Session.OpenID)
		if err != nil || dir.owner(binding.Phone.National) != alice.User.ID {
			t.Fatalf("the store has %s, %v; the directory %v", binding.Phone.Masked(), err, dir.numbers)
		}
	}
}

// Whatever the directory answers, the client knows what to do, and no code is exchanged
// twice.
func TestAnswersOfADirectoryToAChange(t *testing.T) {
	h, dir := external(t)
	alice := h.login(t, "wxA", h.code("alice"), h.phoneCode("alice", number))
	bob := h.login(t, "wxB", h.code("bob"), h.phoneCode("bob", otherNumber))
	const next = "13600136000"
	phoneCode := h.phoneCode("alice", next)
	phones := h.wechat.phones
	for _, c := range []struct {
		fail error
		want problem.Code
	}{
		{errors.New("away"), problem.DirectoryUnavailable},
		{fmt.Errorf("%w: an answer that makes no sense", user.ErrMisconfigured), problem.Misconfigured},
		{user.ErrPhoneFixed, problem.PhoneChangeClosed},
		{user.ErrUnknown, problem.PhoneChangeClosed}, // although it knows the user
		{user.ErrPhoneTaken, problem.PhoneTaken},
	} {
		dir.fail = c.fail
		_, err := h.change(alice, phoneCode)
		wantChange(t, err, c.want)
	}
	dir.fail, dir.lost = nil, true
	_, err := h.change(alice, phoneCode)
	wantChange(t, err, problem.DirectoryUnavailable)
	changes := dir.changes
	for i := range 2 {
		res, err := h.change(alice, phoneCode)
		if err != nil || res.User.Phone.E164() != "+86"+next || res.Session.ID != alice.Session.ID || res.Replayed != (i == 1) {
			t.Errorf("%d: %+v, %v", i, res, err)
		}
	}
	if n := h.wechat.phones - phones; n != 1 || dir.changes != changes+1 {
		t.Errorf("%d exchanges, and %d changes after the lost answer", n, dir.changes-changes)
	}
	_, err = h.change(alice, h.phoneCode("alice", otherNumber))
	wantChange(t, err, problem.PhoneTaken)
	h.login(t, "wxA", h.code("alice"), h.phoneCode("alice", next)) // no mark is left
	// Bob is erased in the directory while he waits for WeChat.
	delete(dir.numbers, otherNumber)
	_, err = h.change(bob, h.phoneCode("bob", "13500135000"))
	wantChange(t, err, problem.TokenRevoked)
	if s, err := h.store.Session(t.Context(), bob.Session.ID); err != nil || s.EndedAt.IsZero() {
		t.Errorf("Bob's session goes on: %v", err)
	}
}

// Some users cannot change their number: WeChat does not compare the openids, the session has
// no openid, or the directory does not change numbers. No code is spent on them.
func TestChangeIsClosed(t *testing.T) {
	h := newTestChain(t)
	alice := h.login(t, "wxA", h.code("alice"), h.phoneCode("alice", number))
	phones := h.wechat.phones
	closed := func(of login.Result) {
		t.Helper()
		_, err := h.change(of, h.phoneCode("alice", otherNumber))
		wantChange(t, err, problem.PhoneChangeClosed)
	}
	h.PhonesFixed = true
	closed(alice)
	h.PhonesFixed = false
	test := alice
	test.Session.OpenID = ""
	closed(test)
	withMembers(h)
	h.Chain.External = true
	closed(alice)
	if h.wechat.phones != phones {
		t.Error("a code was exchanged")
	}
}

// The users of the store have moved to an external directory, with their ids, and their rows
// are still in the store. Alice changes her number there. From then on the new number is hers,
// and a login with the former one that asked before is not let in as her.
func TestChangeAfterUsersHaveMovedExternal(t *testing.T) {
	h := newTestChain(t)
	alice := h.login(t, "wxA", h.code("alice"), h.phoneCode("alice", number))
	dir := &book{numbers: map[string]string{number: alice.User.ID}}
	h.Directory, h.Chain.External = h.store.ExternalUsers(user.Checked(dir), h.Sessions.Settings), true
	dir.answered = func() {
		if _, err := h.change(alice, h.phoneCode("alice", otherNumber)); err != nil {
			t.Error(err)
		}
	}
	if bob := h.login(t, "wxA", h.code("bob"), h.phoneCode("bob", number)); bob.User.ID == alice.User.ID {
		t.Error("Bob is logged in as Alice")
	}
	if again := h.login(t, "wxA", h.code("alice"), h.phoneCode("alice", otherNumber)); again.User.ID != alice.User.ID {
		t.Errorf("Alice is %s, and was %s", again.User.ID, alice.User.ID)
	}
	if err := h.Directory.(*store.ExternalDirectory).Erase(t.Context(), alice.User.ID); err != nil {
		t.Fatal(err)
	}
	if id, err := h.store.FindPhone(t.Context(), user.Phone{Country: "86", National: number}); !errors.Is(err, user.ErrUnknown) {
		t.Errorf("the number of %q is still here: %v", id, err)
	}
}
