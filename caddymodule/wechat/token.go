package wechat

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

const (
	fetchBound   = 30 * time.Second // for one fetch, with all its attempts and delays
	aheadMost    = 10 * time.Minute
	aheadBackoff = 10 * time.Second // after a failed refresh ahead of the end
	// confirmedFor is the period in which a refused token is not dropped a second time, after
	// a new fetch has returned that same token again.
	confirmedFor = 30 * time.Second
)

// TokenSource supplies and caches access tokens. It holds state, never settings: those
// are passed with each call. There are three: StableToken, ClassicToken and
// ExternalToken.
type TokenSource interface {
	// Token returns an access token of the app, and fetches one if there is none.
	// Concurrent callers wait for the same fetch, each as long as its own ctx lasts;
	// the fetch continues without them. A token near its end is returned at once and
	// refreshed in the background.
	Token(ctx context.Context, app App, f Fetcher) (string, error)
	// Drop removes token if it is still the current one, because WeChat refused it.
	Drop(appid, token string, now time.Time)
}

// Fetcher is the part of the calling client that a TokenSource needs.
type Fetcher struct {
	Fetch  Fetch
	Shared SharedTokens // nil: tokens are not shared
	Now    func() time.Time
	Log    func(Event) // may be nil
}

// Fetch requests an access token over HTTP. Errors are *Error. While fetches are paused
// after an operator's mistake, it returns the same error at once.
type Fetch func(ctx context.Context, app App, r TokenRequest) (AccessToken, error)

// TokenRequest is a request for an access token: to Path on an API host, or to URL.
type TokenRequest struct {
	Method string
	Path   string
	URL    string
	Query  url.Values
	Body   []byte
}

// AccessToken is an app's access token. It can be neither printed nor marshalled: a
// store writes its fields one by one.
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

// ahead returns how long before its end the token should be refreshed.
func (t AccessToken) ahead() time.Duration {
	return min(aheadMost, t.Expires.Sub(t.Fetched)/6)
}

func (t AccessToken) fresh(now time.Time) bool {
	return t.Token != "" && t.Expires.Sub(now) > t.ahead()
}

func (t AccessToken) usable(now time.Time) bool {
	return t.Token != "" && now.Before(t.Expires)
}

// tokens caches the access token of each app. All callers that need a new one share a
// single fetch.
type tokens struct {
	mu   sync.Mutex
	apps map[string]*slot
}

// Format prints none of the tokens: %s and %x would follow every pointer.
func (t *tokens) Format(f fmt.State, _ rune) { io.WriteString(f, "(access tokens)") }

// slot holds an app's access token and the current fetch.
type slot struct {
	mu     sync.Mutex
	token  AccessToken
	flight *flight

	refused   string    // the token that was dropped last
	confirmed time.Time // when a fetch returned that token again
	backoff   time.Time // no refresh ahead of the end before this time
}

// flight is one fetch, shared by all its waiters. x/sync's singleflight is not used,
// because a waiter has to give up when its own ctx ends, and the result depends on
// tokens that are dropped meanwhile.
type flight struct {
	done   chan struct{} // closed when the other fields are final
	token  AccessToken
	err    error
	void   bool // it returned a token that was dropped during the fetch
	secret [sha256.Size]byte
	// dropped reports that a token was dropped since the start. Guarded by slot.mu.
	dropped  bool
	reported atomic.Bool // err was returned or logged once
}

// obtain gets a token from the source. refused is a token that must not be taken from a
// storage that others write to.
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

// token implements TokenSource.Token. late returns how long before its end a token is no
// longer returned.
func (t *tokens) token(ctx context.Context, app App, f Fetcher, late func(AccessToken) time.Duration, get obtain) (string, error) {
	s, secret := t.slot(app.ID), app.fingerprint()
	for {
		now := f.Now()
		s.mu.Lock()
		if s.token.usable(now.Add(late(s.token))) {
			token := s.token
			if !token.fresh(now) && s.flight == nil && !now.Before(s.backoff) {
				s.start(ctx, app, f, get, true)
			}
			s.mu.Unlock()
			return token.Token, nil
		}
		fl := s.flight
		if fl == nil {
			fl = s.start(ctx, app, f, get, false)
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
			// The fetch used a secret that has been changed since. Our secret may be
			// right.
		case fl.reported.Swap(true):
			return "", e.repeated()
		default:
			return "", e
		}
	}
}

// start begins a fetch; the caller holds s.mu. The fetch goes on if the login that started it
// ends, but it belongs to that login's trace.
func (s *slot) start(ctx context.Context, app App, f Fetcher, get obtain, background bool) *flight {
	fl := &flight{done: make(chan struct{}), secret: app.fingerprint()}
	s.flight = fl
	refused := s.refused
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchBound)
		defer cancel()
		token, err := get(ctx, refused)
		s.land(fl, token, err, f.Now())
		if err != nil && background && !fl.reported.Swap(true) && f.Log != nil {
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
		if fl.dropped {
			fl.void = true
			return
		}
		s.confirmed = now
	}
	s.token, s.backoff = token, time.Time{}
}

// Drop implements TokenSource.Drop. A token is kept if a fetch returned it again
// shortly after it was refused: fetching once more for each login would not help.
func (t *tokens) Drop(appid, token string, now time.Time) {
	s := t.slot(appid)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token.Token != token || s.refused == token && now.Sub(s.confirmed) < confirmedFor {
		return
	}
	s.token, s.refused = AccessToken{}, token
	if s.flight != nil {
		s.flight.dropped = true
	}
}

// EachFetched calls yield with the time at which each app's current token was fetched.
func (t *tokens) EachFetched(yield func(appid string, fetched time.Time)) {
	t.mu.Lock()
	slots := maps.Clone(t.apps)
	t.mu.Unlock()
	for appid, s := range slots {
		s.mu.Lock()
		token := s.token
		s.mu.Unlock()
		if token.Token != "" {
			yield(appid, token.Fetched)
		}
	}
}

func neverLate(AccessToken) time.Duration { return 0 }
