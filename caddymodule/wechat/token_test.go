package wechat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// source is a Fetch that returns the results of next, and counts its calls.
type source struct {
	clock *testClock
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

// TestThousandLoginsMakeOneFetch starts a thousand logins at once without a token. More
// than one fetch would use up the quota and, for classic tokens, invalidate the others.
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

// TestWaiterLeavesAndTheFetchGoesOn has the client that started a fetch hang up: the
// others still get its token.
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
		// A token that is there is returned even if the caller's time is up.
		if _, err := src.Token(ctx, testApp, s.fetcher()); err != nil || s.n.Load() != 1 {
			t.Errorf("%v after %d fetches", err, s.n.Load())
		}
	})
}

// TestRefreshAheadMakesNobodyWait refreshes a token ten minutes before its end: logins
// use the old one meanwhile.
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
		for range 20 { // while the one fetch hangs
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

// TestRefreshAheadWithTheSameTokenPauses: stable_token returns the same token, with the
// remaining seconds, until five minutes before its end. That must not cause a fetch for
// each login.
func TestRefreshAheadWithTheSameTokenPauses(t *testing.T) {
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
		for range 595 { // one login per second, until five seconds before the token's end
			token(t, src, s.fetcher())
			synctest.Wait()
			s.clock.add(time.Second)
		}
		if got := token(t, src, s.fetcher()); got != "TOKEN-new" || s.n.Load() != 3 {
			t.Errorf("got %s after %d fetches", got, s.n.Load())
		}
	})
}

// TestFailedRefreshAheadIsLogged fails refreshes ahead of the end: they are logged, and
// repeated only every ten seconds.
func TestFailedRefreshAheadIsLogged(t *testing.T) {
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
		// After its end the token is no longer returned.
		s.clock.add(9 * time.Minute)
		if _, err := src.Token(context.Background(), testApp, s.fetcher()); failed(t, err).Kind != KindTimeout {
			t.Errorf("got %v", err)
		}
	})
}

// TestOneFailedFetchIsReportedOnce has a hundred logins wait for one fetch that fails.
// One gets the error, and the others get it as repeated, so that the log has one line.
func TestOneFailedFetchIsReportedOnce(t *testing.T) {
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

// TestDropRemovesOnlyTheCurrentToken drops a token that was replaced meanwhile: the new
// one stays.
func TestDropRemovesOnlyTheCurrentToken(t *testing.T) {
	s := newSource(numbered)
	src := NewStableToken()
	one := token(t, src, s.fetcher())
	src.Drop(testApp.ID, one, s.clock.now())
	two := token(t, src, s.fetcher())
	src.Drop(testApp.ID, one, s.clock.now()) // a slow login, whose call began with the old token
	src.Drop("wxanother", two, s.clock.now())
	if got := token(t, src, s.fetcher()); got != two || two == one || s.n.Load() != 2 {
		t.Errorf("%s, then %s, then %s after %d fetches", one, two, got, s.n.Load())
	}
}

// TestFetchFromBeforeTheDropIsNotTrusted drops a token during a refresh. The refresh
// may return the dropped token, which must not be used.
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

// TestRevokedTokenIsFetchedOnce revokes the token under 200 concurrent
// logins: all succeed, with one fetch.
func TestRevokedTokenIsFetchedOnce(t *testing.T) {
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

// TestSameTokenAgainStops has WeChat refuse a token, and return it again from the next
// fetch. The login fails, and further logins do not fetch again.
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
	// Other logins do not fetch again for the same answer for a while.
	for range 50 {
		failed(t, ask(c, CallPhone))
	}
	if n := a.count(stablePath); n != 2 {
		t.Errorf("%d fetches", n)
	}
	// After that, they do.
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

// TestAnotherTokenThatIsRefusedStops has WeChat refuse the next token too: there is no
// endless loop.
func TestAnotherTokenThatIsRefusedStops(t *testing.T) {
	a := newAPI(t)
	a.on(phonePath, says(fails(42001)))
	e := failed(t, ask(newClient(t, newClock(), a.URL), CallPhone))
	if e.Kind != KindOperator || a.count(phonePath) != 2 || a.count(stablePath) != 2 {
		t.Errorf("%#v after %d and %d requests", e, a.count(phonePath), a.count(stablePath))
	}
}

// TestLossesAreCountedOverBothTokens loses a code, then has the token refused, then
// loses the code again. The second attempt was already made, so there is no further
// one.
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

// TestEachAppHasItsOwnToken asks for the tokens of two apps in turn.
func TestEachAppHasItsOwnToken(t *testing.T) {
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

// TestZeroClientWorks checks the defaults of a Client.
func TestZeroClientWorks(t *testing.T) {
	c := new(Client)
	c.init()
	if c.APIs[0] != DefaultAPI || c.Timeout != DefaultTimeout || c.Tokens == nil || c.Transport == nil || c.Now == nil || c.jitter == nil {
		t.Errorf("got %+v", c)
	}
}
