package login_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// fakeWeChat exchanges codes of the form "person/phone" and counts the calls. As at WeChat, a
// code works once.
type fakeWeChat struct {
	mu       sync.Mutex
	used     map[string]bool
	sessions int
	phones   int
	union    bool // return unionids
	country  string
	fail     error
	entered  chan struct{} // if set, receives once per phone call
	gate     chan struct{} // if set, phone calls wait for it
}

func (f *fakeWeChat) Code2Session(_ context.Context, app wechat.App, code string) (wechat.Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sessions++
	if f.used[code] {
		return wechat.Session{}, &wechat.Error{Call: wechat.CallSession, Kind: wechat.KindLoginCode, Code: 40163, Renew: []wechat.Renew{wechat.RenewCode}}
	}
	f.used[code] = true
	person, _, _ := strings.Cut(code, "/")
	s := wechat.Session{OpenID: person + "@" + app.ID}
	if f.union {
		s.UnionID = "union-" + person
	}
	return s, nil
}

func (f *fakeWeChat) WarmToken(context.Context, wechat.App) error { return nil }

func (f *fakeWeChat) PhoneNumber(_ context.Context, app wechat.App, code, openid string) (wechat.PhoneNumber, error) {
	if f.entered != nil {
		f.entered <- struct{}{}
	}
	if f.gate != nil {
		<-f.gate
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.phones++
	if f.fail != nil {
		return wechat.PhoneNumber{}, f.fail
	}
	parts := strings.Split(code, "/") // person/number/n
	if parts[0]+"@"+app.ID != openid {
		return wechat.PhoneNumber{}, &wechat.Error{Call: wechat.CallPhone, Kind: wechat.KindMismatch, Code: 40003, Renew: []wechat.Renew{wechat.RenewCode, wechat.RenewPhoneCode}}
	}
	if f.used["p"+code] {
		return wechat.PhoneNumber{}, &wechat.Error{Call: wechat.CallPhone, Kind: wechat.KindPhoneCode, Code: 40029, Renew: []wechat.Renew{wechat.RenewPhoneCode}}
	}
	f.used["p"+code] = true
	return wechat.PhoneNumber{PurePhoneNumber: parts[1], CountryCode: cmp.Or(f.country, "86")}, nil
}

// faultyStore fails on demand, before it does anything.
type faultyStore struct {
	*store.Store
	failing    atomic.Bool
	committing atomic.Bool // logins can be committed
	refusal    error       // of each commit
	panics     atomic.Bool // Keep panics
}

var errStore = errors.New("the disk is gone")

func (f *faultyStore) Keep(ctx context.Context, k login.Key, v []byte, expires time.Time, next ...login.Account) error {
	if f.failing.Load() {
		return errStore
	}
	if f.panics.Load() {
		panic("a fault")
	}
	return f.Store.Keep(ctx, k, v, expires, next...)
}

func (f *faultyStore) KeepLight(ctx context.Context, k login.Key, v []byte, expires time.Time, next ...login.Account) error {
	if f.failing.Load() {
		return errStore
	}
	return f.Store.KeepLight(ctx, k, v, expires, next...)
}

func (f *faultyStore) Commit(ctx context.Context, c login.Commit) (login.Committed, error) {
	if f.failing.Load() || !f.committing.Load() {
		return login.Committed{}, errStore
	}
	if f.refusal != nil {
		return login.Committed{}, f.refusal
	}
	return f.Store.Commit(ctx, c)
}

// testChain is a login chain over an SQLite store and a fake WeChat, with a clock that the test
// moves.
type testChain struct {
	*login.Chain
	wechat *fakeWeChat
	store  *faultyStore
	clock  atomic.Int64
	n      atomic.Int64
}

func newTestChain(t *testing.T) *testChain {
	t.Helper()
	h := newBareChain(t)
	h.Directory = h.store.Users(true, h.Sessions.Settings)
	return h
}

// newBareChain returns a testChain without a directory.
func newBareChain(t *testing.T) *testChain {
	t.Helper()
	h := &testChain{wechat: &fakeWeChat{used: make(map[string]bool)}}
	h.clock.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	now := func() time.Time { return time.Unix(0, h.clock.Load()).UTC() }
	db, err := store.New("sqlite:"+filepath.Join(t.TempDir(), "wx.db"), store.Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	h.store = &faultyStore{Store: db.With(nil)}
	h.store.committing.Store(true)
	secrets, err := h.store.Secrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := session.NewKeys(secrets.RefreshMAC()...)
	if err != nil {
		t.Fatal(err)
	}
	set := session.Settings{Idle: 30 * 24 * time.Hour, Lifetime: 180 * 24 * time.Hour, Grace: time.Minute, TokenLife: time.Hour}
	h.Chain = &login.Chain{
		WeChat: h.wechat, Store: h.store, State: new(login.State),
		Sessions: session.Sessions{
			Store: h.store, Keys: keys, Settings: set, Issuer: "wx-auth", Apps: []string{"wxA", "wxB"}, Revoked: session.NewRevoked(),
		},
		Settings: login.Settings{Silent: 90 * 24 * time.Hour, NewOpenID: user.Replace},
		Mint:     func(s session.Session, _ user.User, _ time.Time) (string, error) { return "token of " + s.ID, nil },
		Hold:     func() func() { return func() {} },
		Now:      now,
	}
	return h
}

func (h *testChain) pass(d time.Duration) { h.clock.Add(int64(d)) }

// code makes a fresh login code of a person, and phoneCode a fresh phone code.
func (h *testChain) code(person string) string { return fmt.Sprintf("%s/%d", person, h.n.Add(1)) }
func (h *testChain) phoneCode(person, number string) string {
	return fmt.Sprintf("%s/%s/%d", person, number, h.n.Add(1))
}

func (h *testChain) login(t *testing.T, app, code, phoneCode string) login.Result {
	t.Helper()
	res, err := h.Login(t.Context(), login.Request{App: wechat.App{ID: app}, Code: code, PhoneCode: phoneCode})
	if err != nil {
		t.Fatalf("login of %q, %q: %v", code, phoneCode, err)
	}
	return res
}

// failAfterExchange begins a login whose phone code WeChat exchanges while the store has begun to
// fail, and returns its codes.
func (h *testChain) failAfterExchange(t *testing.T) (code, phoneCode string) {
	t.Helper()
	h.wechat.entered, h.wechat.gate = make(chan struct{}, 1), make(chan struct{})
	code, phoneCode = h.code("ann"), h.phoneCode("ann", number)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.refused(t, "wxA", code, phoneCode, problem.StoreUnavailable)
	}()
	<-h.wechat.entered // the login code's result is kept by now
	h.store.failing.Store(true)
	close(h.wechat.gate)
	<-done
	return code, phoneCode
}

func (h *testChain) refused(t *testing.T, app, code, phoneCode string, want problem.Code, renew ...string) {
	t.Helper()
	_, err := h.Login(t.Context(), login.Request{App: wechat.App{ID: app}, Code: code, PhoneCode: phoneCode})
	var le *login.Error
	if !errors.As(err, &le) {
		t.Fatalf("login of %q, %q: %v, want %s", code, phoneCode, err, want)
	}
	if le.Code != want || !slices.Equal(le.Renew, renew) {
		t.Fatalf("login of %q, %q: %s, renew %v (%v); want %s, renew %v", code, phoneCode, le.Code, le.Renew, err, want, renew)
	}
}

const number, otherNumber = "13800138000", "13900139000"

// The owner of a phone number logs in for the first time, and again.
func TestLoginFindsOrCreatesTheUser(t *testing.T) {
	h := newTestChain(t)
	first := h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", number))
	if !first.User.New || first.User.Phone.E164() != "+86"+number {
		t.Errorf("first login: %+v", first.User)
	}
	second := h.login(t, "wxB", h.code("ann"), h.phoneCode("ann", number))
	if second.User.New || second.User.ID != first.User.ID {
		t.Errorf("the same number in another app is another user: %+v", second.User)
	}
	if second.Session.ID == first.Session.ID {
		t.Error("two logins share a session")
	}
}

// A client sends one pair of codes many times at once. It is one login with one
// session.
func TestParallelLoginsWithOnePairAreOne(t *testing.T) {
	h := newTestChain(t)
	h.wechat.gate = make(chan struct{})
	code, phoneCode := h.code("ann"), h.phoneCode("ann", number)
	var wg sync.WaitGroup
	answers := make([]login.Result, 100)
	for i := range answers {
		wg.Go(func() { answers[i] = h.login(t, "wxA", code, phoneCode) })
	}
	close(h.wechat.gate)
	wg.Wait()
	if h.wechat.sessions != 1 || h.wechat.phones != 1 {
		t.Errorf("WeChat was asked %d and %d times", h.wechat.sessions, h.wechat.phones)
	}
	for _, a := range answers {
		if a.Session.ID != answers[0].Session.ID || a.User.ID != answers[0].User.ID || a.RefreshToken != answers[0].RefreshToken {
			t.Fatalf("different answers: %+v and %+v", a, answers[0])
		}
	}
}

// A client that lost the answer sends the same codes again within a minute.
func TestSamePairIsTheSameSessionForAMinute(t *testing.T) {
	h := newTestChain(t)
	code, phoneCode := h.code("ann"), h.phoneCode("ann", number)
	first := h.login(t, "wxA", code, phoneCode)
	h.pass(59 * time.Second)
	again := h.login(t, "wxA", code, phoneCode)
	if again.Session.ID != first.Session.ID || again.RefreshToken != first.RefreshToken || !again.Replayed {
		t.Errorf("the same pair after 59 s opened another session")
	}
	h.pass(2 * time.Second)
	h.refused(t, "wxA", code, phoneCode, problem.LoginCodeInvalid, "code")
	if h.wechat.phones != 1 {
		t.Errorf("the phone code was exchanged %d times", h.wechat.phones)
	}
}

// The user has logged out. The codes of that session, sent again, must not revive it.
func TestEndedSessionIsNotRevivedByItsCodes(t *testing.T) {
	h := newTestChain(t)
	code, phoneCode := h.code("ann"), h.phoneCode("ann", number)
	first := h.login(t, "wxA", code, phoneCode)
	if _, err := h.Sessions.End(t.Context(), first.Session.ID, session.ReasonLogout, h.Now()); err != nil {
		t.Fatal(err)
	}
	h.refused(t, "wxA", code, phoneCode, problem.LoginCodeInvalid, "code")
}

// Two replicas have one pair of codes, and the user is erased as soon as one of them has opened the
// session. The other finds the codes used and no user, however often it asks. That is no outage.
func TestCodesOfAnErasedUserAreUsed(t *testing.T) {
	h := newTestChain(t)
	h.store.refusal = login.ErrOpenedBefore
	h.refused(t, "wxA", h.code("ann"), h.phoneCode("ann", number), problem.LoginCodeInvalid, "code")
	h.store.refusal = login.ErrChanged
	h.refused(t, "wxA", h.code("ann"), h.phoneCode("ann", number), problem.StoreUnavailable)
}

// The answer was lost. The client comes back with a new login code and the same phone code,
// which is paid for.
func TestLostAnswerIsFoundWithANewLoginCode(t *testing.T) {
	h := newTestChain(t)
	phoneCode := h.phoneCode("ann", number)
	first := h.login(t, "wxA", h.code("ann"), phoneCode)
	second := h.login(t, "wxA", h.code("ann"), phoneCode)
	if second.User.ID != first.User.ID || h.wechat.phones != 1 {
		t.Errorf("phone exchanges: %d", h.wechat.phones)
	}
	h.pass(5*time.Minute + time.Second)
	h.refused(t, "wxA", h.code("ann"), phoneCode, problem.PhoneCodeInvalid, "phoneCode")
}

// A thief presents a stolen phone code with a login code of their own, before and after the
// owner does.
func TestSomebodyElsesPhoneCodeIsRefused(t *testing.T) {
	h := newTestChain(t)
	phoneCode := h.phoneCode("ann", number)
	h.refused(t, "wxA", h.code("eve"), phoneCode, problem.PhoneCodeInvalid, "code", "phoneCode") // before the owner
	h.login(t, "wxA", h.code("ann"), phoneCode)
	h.refused(t, "wxA", h.code("eve"), phoneCode, problem.PhoneCodeInvalid, "code", "phoneCode") // after the owner
}

// A login code has expired. The phone code beside it must not be spent.
func TestBadLoginCodeSparesThePhoneCode(t *testing.T) {
	h := newTestChain(t)
	spent, phoneCode := h.code("ann"), h.phoneCode("ann", number)
	h.login(t, "wxA", spent, h.phoneCode("ann", number))
	h.pass(2 * time.Minute)
	h.refused(t, "wxA", spent, phoneCode, problem.LoginCodeInvalid, "code")
	h.login(t, "wxA", h.code("ann"), phoneCode)
}

// The store fails after WeChat has exchanged the codes. The same codes must work once
// it is back.
func TestStoreFailureAfterTheExchange(t *testing.T) {
	h := newTestChain(t)
	code, phoneCode := h.failAfterExchange(t)
	h.refused(t, "wxA", code, phoneCode, problem.StoreUnavailable)
	h.store.failing.Store(false)
	h.login(t, "wxA", code, phoneCode)
	if h.wechat.sessions != 1 || h.wechat.phones != 1 {
		t.Errorf("WeChat was asked %d and %d times", h.wechat.sessions, h.wechat.phones)
	}
}

// The client hangs up during the login. The login goes on, and the client finds its
// result later.
func TestLoginGoesOnWhenTheClientHangsUp(t *testing.T) {
	h := newTestChain(t)
	h.wechat.gate = make(chan struct{})
	code, phoneCode := h.code("ann"), h.phoneCode("ann", number)
	ctx, hangUp := context.WithCancel(t.Context())
	go func() { h.wechat.gate <- struct{}{} }()
	hangUp()
	if _, err := h.Login(ctx, login.Request{App: wechat.App{ID: "wxA"}, Code: code, PhoneCode: phoneCode}); !errors.Is(err, context.Canceled) {
		t.Fatalf("the caller who hung up got %v", err)
	}
	res := h.login(t, "wxA", code, phoneCode)
	if h.wechat.phones != 1 || res.User.ID == "" {
		t.Errorf("phone exchanges: %d", h.wechat.phones)
	}
}

// A known user logs in without the phone button, for as long as the settings allow.
func TestSilentLogin(t *testing.T) {
	h := newTestChain(t)
	code := h.code("ann")
	h.refused(t, "wxA", code, "", problem.PhoneRequired)
	first := h.login(t, "wxA", code, h.phoneCode("ann", number)) // the same login code still works
	silent := h.login(t, "wxA", h.code("ann"), "")
	if silent.User.ID != first.User.ID || silent.User.New {
		t.Errorf("silent login: %+v", silent.User)
	}
	h.pass(89 * 24 * time.Hour)
	h.login(t, "wxA", h.code("ann"), "")
	h.pass(2 * 24 * time.Hour) // a silent login does not extend the time
	h.refused(t, "wxA", h.code("ann"), "", problem.PhoneRequired)
	h.Silent = 0
	asked := h.wechat.sessions
	h.refused(t, "wxA", h.code("ann"), "", problem.PhoneRequired)
	if h.wechat.sessions != asked {
		t.Error("silent_login off asks WeChat")
	}
}

// A user of one mini program opens another one of the same company.
func TestSilentLoginByUnionID(t *testing.T) {
	h := newTestChain(t)
	h.wechat.union = true
	first := h.login(t, "wxA", h.code("ann"), h.phoneCode("ann", number))
	other := h.login(t, "wxB", h.code("ann"), "")
	if other.User.ID != first.User.ID {
		t.Errorf("the same unionid is another user: %s", other.User.ID)
	}
}

// Each kind of WeChat's failures becomes the right code for the client, with the codes to
// renew.
func TestWeChatsFailuresReachTheClient(t *testing.T) {
	for _, tc := range []struct {
		err   *wechat.Error
		want  problem.Code
		renew []string
	}{
		{&wechat.Error{Kind: wechat.KindPhoneCode, Renew: []wechat.Renew{wechat.RenewPhoneCode}}, problem.PhoneCodeInvalid, []string{"phoneCode"}},
		{&wechat.Error{Kind: wechat.KindMismatch, Renew: []wechat.Renew{wechat.RenewCode, wechat.RenewPhoneCode}}, problem.PhoneCodeInvalid, []string{"code", "phoneCode"}},
		{&wechat.Error{Kind: wechat.KindBlocked}, problem.UserBlocked, nil},
		{&wechat.Error{Kind: wechat.KindBusy}, problem.WeChatUnavailable, nil},
		{&wechat.Error{Kind: wechat.KindQuota}, problem.WeChatUnavailable, nil},
		{&wechat.Error{Kind: wechat.KindUnreachable}, problem.WeChatUnavailable, nil},
		{&wechat.Error{Kind: wechat.KindOperator}, problem.Misconfigured, nil},
		{&wechat.Error{Kind: wechat.KindBug}, problem.Misconfigured, nil},
		{&wechat.Error{Kind: wechat.KindTimeout}, problem.WeChatTimeout, nil},
		{&wechat.Error{Kind: wechat.KindBadAnswer, Unanswered: true, Renew: []wechat.Renew{wechat.RenewPhoneCode}}, problem.WeChatError, []string{"phoneCode"}},
	} {
		h := newTestChain(t)
		h.wechat.fail = tc.err
		code, phoneCode := h.code("ann"), h.phoneCode("ann", number)
		h.refused(t, "wxA", code, phoneCode, tc.want, tc.renew...)
		h.wechat.fail = nil
		h.login(t, "wxA", code, phoneCode) // the login code's result was kept
		if h.wechat.sessions != 1 {
			t.Errorf("%s: the login code was exchanged %d times", tc.want, h.wechat.sessions)
		}
	}
}
