package wechat

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
)

const (
	// leaseLife is how long the other replicas wait for one that died while it held the lease.
	leaseLife = 15 * time.Second
	// leaseFetch bounds a fetch, so that it ends before its lease does.
	leaseFetch = leaseLife - 2*time.Second
	leasePoll  = 200 * time.Millisecond
)

// ErrSharedTokens means that the storage in which replicas share classic tokens could
// not be reached. No token was fetched, because that might have invalidated another
// replica's token.
var ErrSharedTokens = errors.New("the shared access token cannot be read")

// SharedTokens is the storage in which replicas share classic access tokens. For two
// hours a token gives as much access as the app's secret: it must be stored encrypted.
type SharedTokens interface {
	// LoadToken returns the app's stored token; ok is false if there is none.
	LoadToken(ctx context.Context, appid string) (t AccessToken, ok bool, err error)
	// StoreToken stores the token with its two times, and replaces the previous one.
	StoreToken(ctx context.Context, appid string, t AccessToken) error
	// LeaseToken gives owner the lease to fetch the app's token, valid until the time until.
	// It returns false if another owner's lease is still valid at now.
	LeaseToken(ctx context.Context, appid, owner string, now, until time.Time) (bool, error)
	// ReleaseToken releases owner's lease. It leaves another owner's lease alone.
	ReleaseToken(ctx context.Context, appid, owner string) error
}

// ClassicToken fetches access tokens with cgi-bin/token. Each fetch invalidates the
// previous token within five minutes, so replicas must share one token through
// Fetcher.Shared. Without Fetcher.Shared this process must be the only one that
// fetches.
type ClassicToken struct{ tokens }

// NewClassicToken returns a source without any tokens yet.
func NewClassicToken() *ClassicToken { return new(ClassicToken) }

// Token implements TokenSource. Errors of Fetcher.Shared wrap ErrSharedTokens.
func (s *ClassicToken) Token(ctx context.Context, app App, f Fetcher) (string, error) {
	fetch := func(ctx context.Context) (AccessToken, error) {
		return f.Fetch(ctx, app, TokenRequest{Method: http.MethodGet, Path: "/cgi-bin/token",
			Query: url.Values{"grant_type": {"client_credential"}, "appid": {app.ID}, "secret": {app.Secret}}})
	}
	if f.Shared == nil {
		return s.token(ctx, app, f, neverLate, func(ctx context.Context, _ string) (AccessToken, error) { return fetch(ctx) })
	}
	return s.token(ctx, app, f, halfAhead, func(ctx context.Context, refused string) (AccessToken, error) {
		return shareToken(ctx, app.ID, f, refused, fetch)
	})
}

// halfAhead is the remaining lifetime below which a replica no longer trusts its own copy, but
// looks at the shared token first. Another replica may have refreshed the token as soon as
// ahead allowed it; the old token works for only five more minutes after that.
func halfAhead(t AccessToken) time.Duration { return t.ahead() / 2 }

// shareToken returns the shared token if it is fresh, and otherwise fetches the next
// one under the lease.
func shareToken(ctx context.Context, appid string, f Fetcher, refused string, fetch func(context.Context) (AccessToken, error)) (AccessToken, error) {
	owner := rand.Text()
	for {
		t, ok, err := f.Shared.LoadToken(ctx, appid)
		if err != nil {
			return AccessToken{}, fmt.Errorf("%w: %w", ErrSharedTokens, err)
		}
		ok = ok && t.Token != refused
		now := f.Now()
		if ok && t.fresh(now) {
			return t, nil
		}
		leased, err := f.Shared.LeaseToken(ctx, appid, owner, now, now.Add(leaseLife))
		if err != nil {
			return AccessToken{}, fmt.Errorf("%w: %w", ErrSharedTokens, err)
		}
		if leased {
			return fetchLeased(ctx, appid, owner, f, refused, fetch)
		}
		if ok && t.usable(now) {
			return t, nil // another replica is fetching the next one; this one is valid meanwhile
		}
		if !clock.Sleep(ctx, leasePoll) {
			return AccessToken{}, &Error{Call: CallToken, Kind: KindTimeout, reason: "another replica is fetching the access token"}
		}
	}
}

func fetchLeased(ctx context.Context, appid, owner string, f Fetcher, refused string, fetch func(context.Context) (AccessToken, error)) (AccessToken, error) {
	defer f.Shared.ReleaseToken(context.WithoutCancel(ctx), appid, owner)
	// Another replica may have finished between the load above and the lease.
	t, ok, err := f.Shared.LoadToken(ctx, appid)
	if err != nil {
		return AccessToken{}, fmt.Errorf("%w: %w", ErrSharedTokens, err)
	}
	if ok && t.Token != refused && t.fresh(f.Now()) {
		return t, nil
	}
	bounded, cancel := context.WithTimeout(ctx, leaseFetch)
	defer cancel()
	t, err = fetch(bounded)
	if err != nil {
		return AccessToken{}, err
	}
	if err := f.Shared.StoreToken(ctx, appid, t); err != nil && f.Log != nil {
		// Our token is valid, but the other replicas will fetch their own and
		// invalidate it.
		f.Log(Event{AppID: appid, Err: fmt.Errorf("sharing the access token: %w", err)})
	}
	return t, nil
}
