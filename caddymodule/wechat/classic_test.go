package wechat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// shelf implements SharedTokens in memory.
type shelf struct {
	mu     sync.Mutex
	tokens map[string]AccessToken
	leases map[string]lease
	err    error // returned by every read and lease
	errPut error // returned by StoreToken
}

type lease struct {
	owner string
	until time.Time
}

func newShelf() *shelf {
	return &shelf{tokens: make(map[string]AccessToken), leases: make(map[string]lease)}
}

func (s *shelf) LoadToken(_ context.Context, appid string) (AccessToken, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tokens[appid]
	return t, ok, s.err
}

func (s *shelf) StoreToken(_ context.Context, appid string, t AccessToken) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.errPut == nil {
		s.tokens[appid] = t
	}
	return s.errPut
}

func (s *shelf) LeaseToken(_ context.Context, appid, owner string, now, until time.Time) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.leases[appid]; l.owner != "" && l.owner != owner && now.Before(l.until) {
		return false, s.err
	}
	s.leases[appid] = lease{owner, until}
	return s.err == nil, s.err
}

func (s *shelf) ReleaseToken(_ context.Context, appid, owner string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[appid].owner == owner {
		delete(s.leases, appid)
	}
	return nil
}

// classic simulates cgi-bin/token: each fetch leaves the previous token five more minutes.
type classic struct {
	mu     sync.Mutex
	now    func() time.Time
	ends   map[string]time.Time
	newest string
	n      int
	wrong  int // phone calls with an expired token
}

func (c *classic) fetch(context.Context, App, TokenRequest) (AccessToken, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if end := now.Add(5 * time.Minute); c.newest != "" && c.ends[c.newest].After(end) {
		c.ends[c.newest] = end
	}
	c.n++
	c.newest = fmt.Sprintf("TOKEN-%d", c.n)
	c.ends[c.newest] = now.Add(2 * time.Hour)
	return AccessToken{Token: c.newest, Fetched: now, Expires: c.ends[c.newest]}, nil
}

func (c *classic) use(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.now().Before(c.ends[token]) {
		c.wrong++
	}
}

// TestReplicasShareOneClassicToken runs a busy and a mostly idle replica for a day.
// Together they fetch one token every two hours, and never use an expired one.
func TestReplicasShareOneClassicToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wechat := &classic{now: time.Now, ends: make(map[string]time.Time)}
		f := Fetcher{Fetch: wechat.fetch, Shared: newShelf(), Now: time.Now}
		busy, idle := NewClassicToken(), NewClassicToken()
		for minute := range 24 * 60 {
			wechat.use(token(t, busy, f))
			if minute%7 == 0 {
				wechat.use(token(t, idle, f))
			}
			time.Sleep(time.Minute)
		}
		if wechat.n < 12 || wechat.n > 14 || wechat.wrong != 0 {
			t.Errorf("%d fetches in a day, %d expired tokens used", wechat.n, wechat.wrong)
		}
	})
}

// TestReplicasStartedTogetherFetchOnce starts ten replicas at once. If two of them
// fetched, each would invalidate the other's token.
func TestReplicasStartedTogetherFetchOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wechat := &classic{now: time.Now, ends: make(map[string]time.Time)}
		f := Fetcher{Shared: newShelf(), Now: time.Now, Fetch: func(ctx context.Context, app App, r TokenRequest) (AccessToken, error) {
			time.Sleep(time.Second)
			return wechat.fetch(ctx, app, r)
		}}
		var all sync.WaitGroup
		for range 10 {
			src := NewClassicToken()
			all.Go(func() {
				if got := token(t, src, f); got != "TOKEN-1" {
					t.Errorf("got %s", got)
				}
			})
		}
		all.Wait()
		// One replica's token is refused: the others take over its next token.
		one, two := NewClassicToken(), NewClassicToken()
		for _, src := range []*ClassicToken{one, two} {
			token(t, src, f)
			src.Drop(testApp.ID, "TOKEN-1", time.Now())
			if got := token(t, src, f); got != "TOKEN-2" {
				t.Errorf("got %s", got)
			}
		}
		if wechat.n != 2 {
			t.Errorf("%d fetches", wechat.n)
		}
	})
}

// TestDeadReplicasLeaseEnds has a replica die while it holds the lease: the others
// fetch a token once the lease has ended.
func TestDeadReplicasLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		s.leases[testApp.ID] = lease{"dead", time.Now().Add(leaseLife)}
		wechat := &classic{now: time.Now, ends: make(map[string]time.Time)}
		f := Fetcher{Fetch: wechat.fetch, Shared: s, Now: time.Now}
		src, began := NewClassicToken(), time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := src.Token(ctx, testApp, f); failed(t, err).Kind != KindTimeout {
			t.Errorf("got %v", err)
		}
		token(t, src, f)
		if took := time.Since(began); took < leaseLife || took > leaseLife+2*leasePoll {
			t.Errorf("took %v", took)
		}
		if len(s.leases) != 0 {
			t.Error("the lease is still held")
		}
	})
}

// TestOldSharedTokenServesDuringFetch has another replica fetch the next token: logins
// use the old one meanwhile.
func TestOldSharedTokenServesDuringFetch(t *testing.T) {
	s, clock := newShelf(), newClock()
	s.tokens[testApp.ID] = AccessToken{"TOKEN-old", start.Add(-110 * time.Minute), start.Add(9 * time.Minute)}
	s.leases[testApp.ID] = lease{"another", start.Add(leaseLife)}
	f := Fetcher{Shared: s, Now: clock.now, Fetch: func(context.Context, App, TokenRequest) (AccessToken, error) {
		t.Error("fetched while another replica holds the lease")
		return AccessToken{}, errors.New("no")
	}}
	if got := token(t, NewClassicToken(), f); got != "TOKEN-old" {
		t.Errorf("got %s", got)
	}
}

// TestSharedTokensOutOfReach makes the database unavailable. Nothing is fetched without it,
// because a fetch could invalidate another replica's token.
func TestSharedTokensOutOfReach(t *testing.T) {
	gone := errors.New("database gone")
	s := newShelf()
	s.err = gone
	src := newSource(numbered)
	f := src.fetcher()
	f.Shared = s
	c := NewClassicToken()
	if _, err := c.Token(context.Background(), testApp, f); !errors.Is(err, ErrSharedTokens) || !errors.Is(err, gone) || src.n.Load() != 0 {
		t.Errorf("%v after %d fetches", err, src.n.Load())
	}
	// The token can be read but not written: it is used, and the fault is logged.
	s.err, s.errPut = nil, gone
	if got := token(t, c, f); got != "TOKEN-1" || len(src.log) != 1 || !errors.Is(src.log[0].Err, gone) {
		t.Errorf("%s, log %v", got, src.log)
	}
	noSecret(t, src.log)
	if len(s.leases) != 0 {
		t.Error("the lease is still held")
	}
}

// TestFailedClassicFetchReleasesTheLease has a fetch fail: the next replica need not
// wait for the lease to end.
func TestFailedClassicFetchReleasesTheLease(t *testing.T) {
	s := newShelf()
	src := newSource(func(int, App) (string, time.Duration, error) {
		return "", 0, &Error{Call: CallToken, Kind: KindTimeout}
	})
	f := src.fetcher()
	f.Shared = s
	if _, err := NewClassicToken().Token(context.Background(), testApp, f); failed(t, err).Kind != KindTimeout || len(s.leases) != 0 {
		t.Errorf("%v, leases %v", err, s.leases)
	}
}

// TestClassicTokenRefusedOverHTTP has WeChat refuse the current token: the call is
// repeated with a new classic token.
func TestClassicTokenRefusedOverHTTP(t *testing.T) {
	a := newAPI(t)
	c := newClient(t, newClock(), a.URL)
	c.Tokens, c.Shared = NewClassicToken(), newShelf()
	a.on(phonePath, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("access_token") == "TOKEN-1" {
			io.WriteString(w, fails(42001))
			return
		}
		io.WriteString(w, phoneOK("86"))
	})
	if err := ask(c, CallPhone); err != nil || a.count(classicPath) != 2 || a.count(stablePath) != 0 {
		t.Errorf("%v after %d fetches", err, a.count(classicPath))
	}
}
