package wechat

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestOperatorsErrorPausesFetches answers errors that only the operator can fix.
// Fetches pause, because repeating them would use up the quota or lock the app.
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

// TestChangedSecretEndsThePauseAtOnce corrects the secret by a reload: the next login
// must not wait for the end of the pause.
func TestChangedSecretEndsThePauseAtOnce(t *testing.T) {
	a := newAPI(t)
	c := newClient(t, newClock(), a.URL)
	a.on(stablePath, says(fails(40125)))
	failed(t, ask(c, CallToken))
	a.on(stablePath, a.nextToken)
	// The client of the next configuration shares the transport and the source.
	c2 := &Client{APIs: c.APIs, Tokens: c.Tokens, Transport: c.Transport, Now: c.Now}
	if err := c2.WarmToken(context.Background(), App{testApp.ID, "another secret"}); err != nil {
		t.Error(err)
	}
}

// TestWaiterWithANewSecretIsNotFailed has a login with the corrected secret wait for a
// fetch that began with the wrong one: it makes its own fetch.
func TestWaiterWithANewSecretIsNotFailed(t *testing.T) {
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

// TestRefusedSecretStopsLoginCodes has WeChat refuse the secret at a login: no further
// login code is spent with it.
func TestRefusedSecretStopsLoginCodes(t *testing.T) {
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

// TestPassingFailureDoesNotPause answers failures that may pass: the next login tries
// again at once.
func TestPassingFailureDoesNotPause(t *testing.T) {
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
