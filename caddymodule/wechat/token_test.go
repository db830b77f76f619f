package wechat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// source is a Fetch that gives out what next says, and counts.
type source struct {
	clock *clock
	n     atomic.Int64
	mu    sync.Mutex
	next  func(n int, app App) (token string, life time.Duration, err error)
	gate  chan struct{} // if set, fetches wait for it
	log   []Event
}

func newSource(next func(n int, app App) (string, time.Duration, error)) *source {
	return &source{clock: newClock(), next: next}
}

func numbered(n int, _ App) (string, time.Duration, error) {
	return fmt.Sprintf("TOKEN-%d", n), 2 * time.Hour, nil
}

func (s *source) fetch(ctx context.Context, app App, _ TokenRequest) (AccessToken, error) {
	n := int(s.n.Add(1))
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return AccessToken{}, contextError(CallToken, ctx.Err(), "")
		}
	}
	token, life, err := s.next(n, app)
	now := s.clock.now()
	return AccessToken{Token: token, Fetched: now, Expires: now.Add(life)}, err
}

func (s *source) fetcher() Fetcher {
	return Fetcher{Fetch: s.fetch, Now: s.clock.now, Log: func(e Event) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.log = append(s.log, e)
	}}
}

func token(t *testing.T, src TokenSource, f Fetcher) string {
	t.Helper()
	got, err := src.Token(context.Background(), testApp, f)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestThousandLoginsMakeOneFetch(t *testing.T) {
	a := newAPI(t)
	for name, src := range map[string]TokenSource{"stable": NewStableToken(), "classic": NewClassicToken(),
		"shared": NewClassicToken(), "external": NewExternalToken(a.URL + stablePath)} {
		c := newClient(t, newClock(), a.URL)
		c.Tokens = src
		if name == "shared" {
			c.Shared = newShelf()
		}
		before := a.count(stablePath) + a.count(classicPath)
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				if err := c.WarmToken(context.Background(), testApp); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := a.count(stablePath) + a.count(classicPath) - before; n != 1 {
			t.Errorf("%s: %d fetches", name, n)
		}
	}
}

func TestWaiterLeavesAndTheFetchGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(numbered)
		s.gate = make(chan struct{})
		src := NewStableToken()
		ctx, cancel := context.WithCancel(context.Background())
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { _, err := src.Token(ctx, testApp, s.fetcher()); first <- err }()
		synctest.Wait()
		go func() { _, err := src.Token(context.Background(), testApp, s.fetcher()); second <- err }()
		synctest.Wait()
		cancel()
		err := <-first
		if e := failed(t, err); e.Kind != KindCanceled || !errors.Is(err, context.Canceled) {
			t.Errorf("got %#v", e)
		}
		close(s.gate)
		if err := <-second; err != nil {
			t.Error(err)
		}
		// A token at hand is given even to somebody whose time is up.
		if _, err := src.Token(ctx, testApp, s.fetcher()); err != nil || s.n.Load() != 1 {
			t.Errorf("%v after %d fetches", err, s.n.Load())
		}
	})
}

func TestRefreshAheadMakesNobodyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(numbered)
		src := NewStableToken()
		token(t, src, s.fetcher())
		s.gate = make(chan struct{}, 10)
		s.clock.add(2*time.Hour - 10*time.Minute - time.Second)
		if token(t, src, s.fetcher()); s.n.Load() != 1 {
			t.Error("refreshed too early")
		}
		s.clock.add(time.Second)
		for range 20 { // at once, while the one fetch hangs
			if got := token(t, src, s.fetcher()); got != "TOKEN-1" {
				t.Errorf("got %s", got)
			}
		}
		synctest.Wait()
		if s.n.Load() != 2 {
			t.Errorf("%d fetches", s.n.Load())
		}
		s.gate <- struct{}{}
		synctest.Wait()
		if got := token(t, src, s.fetcher()); got != "TOKEN-2" || s.n.Load() != 2 {
			t.Errorf("got %s after %d fetches", got, s.n.Load())
		}
	})
}

// stable_token gives the same token with the seconds that remain, until five
// minutes before its end: that must not become a fetch for each login.
func TestRefreshAheadThatBringsTheSameTokenIsNotRepeatedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *source
		s = newSource(func(n int, _ App) (string, time.Duration, error) {
			rest := start.Add(2 * time.Hour).Sub(s.clock.now())
			if rest > 5*time.Minute {
				return "TOKEN-old", rest, nil
			}
			return "TOKEN-new", 2 * time.Hour, nil
		})
		src := NewStableToken()
		token(t, src, s.fetcher())
		s.clock.add(110 * time.Minute)
		for range 595 { // one login a second, for all but the last five seconds
			token(t, src, s.fetcher())
			synctest.Wait()
			s.clock.add(time.Second)
		}
		if got := token(t, src, s.fetcher()); got != "TOKEN-new" || s.n.Load() != 3 {
			t.Errorf("got %s after %d fetches", got, s.n.Load())
		}
	})
}

func TestFailedRefreshAheadIsLoggedAndNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := &Error{Call: CallToken, Kind: KindTimeout}
		s := newSource(func(n int, app App) (string, time.Duration, error) {
			if n > 1 {
				return "", 0, fail
			}
			return numbered(n, app)
		})
		src := NewStableToken()
		token(t, src, s.fetcher())
		s.clock.add(2*time.Hour - 9*time.Minute)
		for range 30 {
			token(t, src, s.fetcher())
			synctest.Wait()
			s.clock.add(time.Second)
		}
		if n := s.n.Load() - 1; n != 3 || len(s.log) != 3 || s.log[0].AppID != testApp.ID || !errors.Is(s.log[0].Err, fail) {
			t.Errorf("%d fetches in 30 seconds, log %v", n, s.log)
		}
		// At its end the token is no longer given out.
		s.clock.add(9 * time.Minute)
		if _, err := src.Token(context.Background(), testApp, s.fetcher()); failed(t, err).Kind != KindTimeout {
			t.Errorf("got %v", err)
		}
	})
}

func TestOneFetchThatFailsIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(func(int, App) (string, time.Duration, error) {
			return "", 0, &Error{Call: CallToken, Kind: KindOperator, Code: 40125}
		})
		s.gate = make(chan struct{})
		src := NewStableToken()
		var first, repeated atomic.Int64
		for range 100 {
			go func() {
				_, err := src.Token(context.Background(), testApp, s.fetcher())
				if failed(t, err).Repeated {
					repeated.Add(1)
				} else {
					first.Add(1)
				}
			}()
		}
		synctest.Wait()
		close(s.gate)
		synctest.Wait()
		if s.n.Load() != 1 || first.Load() != 1 || repeated.Load() != 99 {
			t.Errorf("%d fetches, %d and %d", s.n.Load(), first.Load(), repeated.Load())
		}
	})
}

func TestDropForgetsOnlyTheTokenThatIsStillTheOne(t *testing.T) {
	s := newSource(numbered)
	src := NewStableToken()
	one := token(t, src, s.fetcher())
	src.Drop(testApp.ID, one, s.clock.now())
	two := token(t, src, s.fetcher())
	src.Drop(testApp.ID, one, s.clock.now()) // a login that was slow to learn
	src.Drop("wxanother", two, s.clock.now())
	if got := token(t, src, s.fetcher()); got != two || two == one || s.n.Load() != 2 {
		t.Errorf("%s, then %s, then %s after %d fetches", one, two, got, s.n.Load())
	}
}

// A refresh that was under way when its token was refused proves nothing.
func TestFetchFromBeforeTheDropIsNotTrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(func(n int, app App) (string, time.Duration, error) { return numbered(max(n-1, 1), app) })
		src := NewStableToken()
		one := token(t, src, s.fetcher())
		s.gate = make(chan struct{})
		s.clock.add(2*time.Hour - 9*time.Minute)
		token(t, src, s.fetcher()) // begins a refresh, which will bring TOKEN-1 again
		synctest.Wait()
		src.Drop(testApp.ID, one, s.clock.now())
		got := make(chan string)
		go func() { got <- token(t, src, s.fetcher()) }()
		synctest.Wait()
		close(s.gate)
		if token := <-got; token != "TOKEN-2" {
			t.Errorf("got %s", token)
		}
	})
}

func TestRevokedTokenUnderManyLoginsIsFetchedOnce(t *testing.T) {
	a := newAPI(t)
	var good atomic.Value
	good.Store("TOKEN-1")
	a.on(phonePath, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("access_token") != good.Load() {
			io.WriteString(w, fails([]int{40001, 40014, 42001}[a.count(phonePath)%3]))
			return
		}
		io.WriteString(w, phoneOK("86"))
	})
	c := newClient(t, newClock(), a.URL)
	if err := ask(c, CallPhone); err != nil {
		t.Fatal(err)
	}
	good.Store("TOKEN-2")
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			if err := ask(c, CallPhone); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := a.count(stablePath); n != 2 {
		t.Errorf("%d fetches", n)
	}
}

func TestSameTokenAgainStops(t *testing.T) {
	a := newAPI(t)
	a.on(stablePath, says(`{"access_token":"TOKEN-1","expires_in":7200}`))
	a.on(phonePath, says(fails(40001)))
	clock := newClock()
	c := newClient(t, clock, a.URL)
	e := failed(t, ask(c, CallPhone))
	if e.Kind != KindOperator || e.Code != 40001 || !renewIs(e) || a.count(phonePath) != 1 || a.count(stablePath) != 2 {
		t.Errorf("%#v after %d and %d requests", e, a.count(phonePath), a.count(stablePath))
	}
	// Other logins do not fetch again for the same answer …
	for range 50 {
		failed(t, ask(c, CallPhone))
	}
	if n := a.count(stablePath); n != 2 {
		t.Errorf("%d fetches", n)
	}
	// … but for as long only.
	clock.add(confirmedFor)
	a.on(stablePath, says(`{"access_token":"TOKEN-2","expires_in":7200}`))
	a.on(phonePath, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("access_token") == "TOKEN-1" {
			io.WriteString(w, fails(40001))
			return
		}
		io.WriteString(w, phoneOK("86"))
	})
	if err := ask(c, CallPhone); err != nil {
		t.Error(err)
	}
}

func TestAnotherTokenThatIsRefusedStops(t *testing.T) {
	a := newAPI(t)
	a.on(phonePath, says(fails(42001)))
	e := failed(t, ask(newClient(t, newClock(), a.URL), CallPhone))
	if e.Kind != KindOperator || a.count(phonePath) != 2 || a.count(stablePath) != 2 {
		t.Errorf("%#v after %d and %d requests", e, a.count(phonePath), a.count(stablePath))
	}
}

// A code that was lost on the way before the token was found bad has had its
// second try: it is not lost a third time.
func TestLossesAreCountedOverBothTokens(t *testing.T) {
	var codes atomic.Int64
	s := newRawServer(t, func(n int, r *http.Request) (string, bool) {
		if r.URL.Path == stablePath {
			return http200(fmt.Sprintf(`{"access_token":"TOKEN-%d","expires_in":7200}`, n)), true
		}
		if codes.Add(1) == 2 {
			return http200(fails(40001)), true
		}
		return "", false
	})
	e := failed(t, ask(newClient(t, newClock(), s.url), CallPhone))
	if codes.Load() != 3 || !e.Unanswered || !renewIs(e) {
		t.Errorf("%#v after %d", e, codes.Load())
	}
}

func TestOperatorsErrorPausesFetches(t *testing.T) {
	for code, rest := range map[int]time.Duration{40001: 45 * time.Second, 40013: 45 * time.Second, 40125: 45 * time.Second, 40243: 45 * time.Second,
		40164: 45 * time.Second, 61004: 45 * time.Second, 89503: 45 * time.Second, 89506: 24 * time.Hour, 89507: time.Hour, 50002: 45 * time.Second,
		45009: 10 * time.Minute, 45011: time.Minute} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			a, clock := newAPI(t), newClock()
			c := newClient(t, clock, a.URL)
			a.on(stablePath, says(fails(code)))
			if e := failed(t, ask(c, CallToken)); e.Code != code || e.Repeated || e.RetryAfter != rest {
				t.Errorf("got %#v, repeated %v, retry %v", e, e.Repeated, e.RetryAfter)
			}
			a.on(stablePath, a.nextToken)
			clock.add(rest - time.Second)
			for range 10 {
				if e := failed(t, ask(c, CallPhone)); e.Code != code || e.Call != CallToken || !e.Repeated || e.RetryAfter != time.Second || !renewIs(e) {
					t.Errorf("got %#v, repeated %v, retry %v", e, e.Repeated, e.RetryAfter)
				}
			}
			if n := a.count(stablePath); n != 1 {
				t.Errorf("%d fetches", n)
			}
			clock.add(time.Second)
			if err := ask(c, CallToken); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestChangedSecretEndsThePauseAtOnce(t *testing.T) {
	a := newAPI(t)
	c := newClient(t, newClock(), a.URL)
	a.on(stablePath, says(fails(40125)))
	failed(t, ask(c, CallToken))
	a.on(stablePath, a.nextToken)
	// The next config's client, on the same transport and source.
	c2 := &Client{APIs: c.APIs, Tokens: c.Tokens, Transport: c.Transport, Now: c.Now}
	if err := c2.WarmToken(context.Background(), App{testApp.ID, "another secret"}); err != nil {
		t.Error(err)
	}
}

func TestWaiterWithTheNewSecretDoesNotFailWithTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(func(n int, app App) (string, time.Duration, error) {
			if app == testApp {
				return "", 0, &Error{Call: CallToken, Kind: KindOperator, Code: 40125}
			}
			return numbered(n, app)
		})
		s.gate = make(chan struct{})
		src := NewStableToken()
		done := make(chan error, 1)
		go func() { _, err := src.Token(context.Background(), testApp, s.fetcher()); done <- err }()
		synctest.Wait()
		changed := make(chan error, 1)
		go func() {
			_, err := src.Token(context.Background(), App{testApp.ID, "another secret"}, s.fetcher())
			changed <- err
		}()
		synctest.Wait()
		close(s.gate)
		if err := <-changed; err != nil {
			t.Error(err)
		}
		if err := <-done; err == nil {
			t.Error("the old secret worked")
		}
	})
}

func TestLoginCodesAreNotSentWithARefusedSecret(t *testing.T) {
	a, clock := newAPI(t), newClock()
	c := newClient(t, clock, a.URL)
	for code, pauses := range map[int]bool{40125: true, 40164: true, 89507: true, 40013: false, 45011: false, 40226: false, 48001: false} {
		clock.add(48 * time.Hour)
		a.on(sessionPath, says(fails(code)))
		before := a.count(sessionPath)
		failed(t, ask(c, CallSession))
		if e := failed(t, ask(c, CallSession)); e.Repeated != pauses || (a.count(sessionPath)-before == 1) != pauses {
			t.Errorf("%d: %#v after %d", code, e, a.count(sessionPath)-before)
		}
	}
}

func TestFailureThatIsNobodysMistakeDoesNotPause(t *testing.T) {
	a := newAPI(t)
	c := newClient(t, newClock(), a.URL)
	for _, h := range []http.HandlerFunc{says(fails(-1)), says("<html>"), func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(502) }, says("{}"),
		says(`{"access_token":"","expires_in":7200}`), says(`{"access_token":"TOKEN-1","expires_in":0}`), says(`{"access_token":"TOKEN 1","expires_in":9}`),
		says(`{"access_token":"TOKEN-1","expires_in":-5}`), says(`{"access_token":"` + strings.Repeat("x", 1025) + `","expires_in":7200}`)} {
		a.on(stablePath, h)
		if e := failed(t, ask(c, CallToken)); !e.Kind.WeChat() || e.Repeated || e.Unanswered || !renewIs(e) {
			t.Errorf("got %#v", e)
		}
	}
	a.on(stablePath, says(string(vectors(t)["stable_token_ok_remaining"])))
	if err := ask(c, CallToken); err != nil {
		t.Error(err)
	}
}

func TestAppsHaveTokensOfTheirOwn(t *testing.T) {
	s := newSource(func(n int, app App) (string, time.Duration, error) { return "TOKEN-" + app.ID, time.Hour, nil })
	src := NewStableToken()
	for range 3 {
		for _, id := range []string{"wx1", "wx2"} {
			if got, err := src.Token(context.Background(), App{id, "s"}, s.fetcher()); err != nil || got != "TOKEN-"+id {
				t.Errorf("%s: %s %v", id, got, err)
			}
		}
	}
	if s.n.Load() != 2 {
		t.Errorf("%d fetches", s.n.Load())
	}
}

func TestExternalToken(t *testing.T) {
	a := newAPI(t)
	tests := []struct {
		name, body string
		life       time.Duration // 0: refused
	}{
		{"WeChat's JSON", `{"access_token":"TOKEN-ext","expires_in":7200}`, 2 * time.Hour},
		{"seconds as a string", `{"access_token":"TOKEN-ext","expires_in":"600"}`, 10 * time.Minute},
		{"too long a life", `{"access_token":"TOKEN-ext","expires_in":9000000000000000000}`, 2 * time.Hour},
		{"no life", `{"access_token":"TOKEN-ext"}`, time.Minute},
		{"bare", "TOKEN-ext\n", time.Minute},
		{"bare in quotes", `"TOKEN-ext"`, time.Minute},
		{"html", "<html></html>", 0},
		{"words", "not found", 0},
		{"empty", "", 0},
		{"an errcode", fails(40013), 0},
		{"other JSON", `{"token":"TOKEN-ext"}`, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var query, user string
			a.on("/central", func(w http.ResponseWriter, r *http.Request) {
				query = r.URL.RawQuery
				user, _, _ = r.BasicAuth()
				io.WriteString(w, tt.body)
			})
			clock := newClock()
			c := newClient(t, clock, "http://unused.invalid")
			c.Tokens = NewExternalToken(strings.Replace(a.URL, "://", "://me:pw@", 1) + "/central?key=K&app={appid}")
			got, err := c.token(context.Background(), testApp)
			if query != "key=K&app="+testApp.ID || user != "me" {
				t.Errorf("asked for %q as %q", query, user)
			}
			if tt.life == 0 {
				failed(t, err)
				return
			}
			if err != nil || got != "TOKEN-ext" {
				t.Fatalf("%q %v", got, err)
			}
			before := a.count("/central")
			clock.add(tt.life * 5 / 6 * 99 / 100)
			c.token(context.Background(), testApp)
			if a.count("/central") != before {
				t.Error("asked again too early")
			}
			clock.add(tt.life)
			c.token(context.Background(), testApp)
			if a.count("/central") != before+1 {
				t.Error("not asked again")
			}
		})
	}
	for status, kind := range map[int]Kind{401: KindOperator, 404: KindOperator, 302: KindBadAnswer, 500: KindBadAnswer} {
		a.on("/central", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) })
		c := newClient(t, newClock())
		c.Tokens = NewExternalToken(a.URL + "/central")
		if e := failed(t, ask(c, CallToken)); e.Kind != kind || e.Status != status {
			t.Errorf("%d: %#v", status, e)
		}
		if e := failed(t, ask(c, CallToken)); e.Repeated != (kind == KindOperator) {
			t.Errorf("%d: %#v", status, e)
		}
	}
}

func TestZeroClientWorks(t *testing.T) {
	c := new(Client)
	c.init()
	if c.APIs[0] != DefaultAPI || c.Timeout != DefaultTimeout || c.Tokens == nil || c.Transport == nil || c.Now == nil || c.jitter == nil {
		t.Errorf("got %+v", c)
	}
}
