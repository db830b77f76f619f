package wechat

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

const (
	fetchBound   = 30 * time.Second // of one fetch with all its tries and waits
	aheadMost    = 10 * time.Minute
	aheadBackoff = 10 * time.Second // after a refresh ahead that failed
	// For this long after a fetch gave a refused token once more, it is not dropped again.
	confirmedFor = 30 * time.Second
)

// TokenSource is where access tokens come from, and where they are remembered.
// It holds state, never settings: those come with each call. StableToken,
// ClassicToken and ExternalToken are the three there are.
type TokenSource interface {
	// Token returns an access token of the app, fetching one if there is none.
	// Whoever asks meanwhile waits for the same fetch, each for as long as its own
	// ctx lasts; the fetch goes on without them. A token near its end is returned
	// at once and refreshed in the background.
	Token(ctx context.Context, app App, f Fetcher) (string, error)
	// Drop forgets token, if it is still the one: WeChat refused it.
	Drop(appid, token string, now time.Time)
}

// Fetcher is what a TokenSource needs of the client that asks.
type Fetcher struct {
	Fetch  Fetch
	Shared SharedTokens // nil: nobody to share with
	Now    func() time.Time
	Log    func(Event) // may be nil
}

// Fetch asks for an access token over HTTP. Errors are *Error. While fetches are
// paused after an operator's mistake, it answers the same error at once.
type Fetch func(ctx context.Context, app App, r TokenRequest) (AccessToken, error)

// TokenRequest is the request for an access token: to Path on an API host, or to URL.
type TokenRequest struct {
	Method string
	Path   string
	URL    string
	Query  url.Values
	Body   []byte
}

// AccessToken is WeChat's access token of an app. It neither prints nor marshals:
// a store writes its fields one by one.
type AccessToken struct {
	Token   string
	Fetched time.Time
	Expires time.Time
}

// String returns a placeholder for the token.
func (t AccessToken) String() string { return "(access token)" }

// GoString returns a placeholder for the token.
func (t AccessToken) GoString() string { return t.String() }

// Format prints a placeholder for the token, whatever the verb.
func (t AccessToken) Format(f fmt.State, _ rune) { io.WriteString(f, t.String()) }

// MarshalJSON writes a placeholder for the token.
func (t AccessToken) MarshalJSON() ([]byte, error) { return []byte(`"` + t.String() + `"`), nil }

// ahead is how long before its end the token should be refreshed.
func (t AccessToken) ahead() time.Duration {
	return min(aheadMost, t.Expires.Sub(t.Fetched)/6)
}

func (t AccessToken) fresh(now time.Time) bool {
	return t.Token != "" && t.Expires.Sub(now) > t.ahead()
}

func (t AccessToken) usable(now time.Time) bool {
	return t.Token != "" && now.Before(t.Expires)
}

// tokens remembers the access token of each app and sees to it that one fetch
// serves all who wait.
type tokens struct {
	mu   sync.Mutex
	apps map[string]*slot
}

// Format prints nothing of the tokens: %s and %x go through every pointer.
func (t *tokens) Format(f fmt.State, _ rune) { io.WriteString(f, "(access tokens)") }

// slot is an app's access token and the fetch under way.
type slot struct {
	mu     sync.Mutex
	token  AccessToken
	flight *flight

	refused   string    // the token dropped last
	confirmed time.Time // when a fetch gave that one once more
	backoff   time.Time // no refresh ahead before
}

// flight is one fetch and all who wait for it.
type flight struct {
	done   chan struct{} // closed when the rest is settled
	token  AccessToken
	err    error
	void   bool // it brought a token that was dropped while it was under way
	secret [sha256.Size]byte
	// overtaken: a token was dropped since it started. Guarded by slot.mu.
	overtaken bool
	told      atomic.Bool // somebody has been told of err
}

// obtain gets a token from wherever; refused is one that must not be taken from
// a store that others write to.
type obtain func(ctx context.Context, refused string) (AccessToken, error)

func (t *tokens) slot(appid string) *slot {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.apps == nil {
		t.apps = make(map[string]*slot)
	}
	s := t.apps[appid]
	if s == nil {
		s = new(slot)
		t.apps[appid] = s
	}
	return s
}

// token is TokenSource.Token. late says how long before its end a token is no
// longer handed out.
func (t *tokens) token(ctx context.Context, app App, f Fetcher, late func(AccessToken) time.Duration, get obtain) (string, error) {
	s, secret := t.slot(app.ID), app.fingerprint()
	for {
		now := f.Now()
		s.mu.Lock()
		if s.token.usable(now.Add(late(s.token))) {
			token := s.token
			if !token.fresh(now) && s.flight == nil && !now.Before(s.backoff) {
				s.start(app, f, get, true)
			}
			s.mu.Unlock()
			return token.Token, nil
		}
		fl := s.flight
		if fl == nil {
			fl = s.start(app, f, get, false)
		}
		s.mu.Unlock()

		select {
		case <-fl.done:
		case <-ctx.Done():
			return "", contextError(CallToken, ctx.Err(), "")
		}
		var e *Error
		switch {
		case fl.void:
		case fl.err == nil:
			return fl.token.Token, nil
		case !errors.As(fl.err, &e):
			return "", fl.err
		case e.Kind == KindOperator && fl.secret != secret:
			// Started with a secret that has been changed since. Ours may be right.
		case fl.told.Swap(true):
			return "", e.repeated()
		default:
			return "", e
		}
	}
}

// start begins a fetch, with s.mu held. It runs on its own, so that it does not
// die with the login that happened to be first.
func (s *slot) start(app App, f Fetcher, get obtain, background bool) *flight {
	fl := &flight{done: make(chan struct{}), secret: app.fingerprint()}
	s.flight = fl
	refused := s.refused
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), fetchBound)
		defer cancel()
		token, err := get(ctx, refused)
		s.land(fl, token, err, f.Now())
		if err != nil && background && !fl.told.Swap(true) && f.Log != nil {
			var e *Error
			if !errors.As(err, &e) || !e.Repeated {
				f.Log(Event{AppID: app.ID, Err: err})
			}
		}
		close(fl.done)
	}()
	return fl
}

func (s *slot) land(fl *flight, token AccessToken, err error, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flight = nil
	fl.token, fl.err = token, err
	if err != nil {
		s.backoff = now.Add(aheadBackoff)
		return
	}
	if token.Token == s.refused {
		if fl.overtaken {
			fl.void = true
			return
		}
		s.confirmed = now
	}
	s.token, s.backoff = token, time.Time{}
}

// Drop is TokenSource.Drop. A token that a fetch has given again just after it
// was refused is kept: to fetch once more for each login would help nobody.
func (t *tokens) Drop(appid, token string, now time.Time) {
	s := t.slot(appid)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token.Token != token || s.refused == token && now.Sub(s.confirmed) < confirmedFor {
		return
	}
	s.token, s.refused = AccessToken{}, token
	if s.flight != nil {
		s.flight.overtaken = true
	}
}

func neverLate(AccessToken) time.Duration { return 0 }
