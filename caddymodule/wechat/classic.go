package wechat

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

const (
	// A replica that died with the lease holds the others up for this long.
	leaseLife = 15 * time.Second
	// A fetch ends while its lease is still good.
	leaseFetch = leaseLife - 2*time.Second
	leasePoll  = 200 * time.Millisecond
)

// ErrSharedTokens means that the place where replicas share classic tokens could
// not be asked, so that to fetch one might have ended another replica's.
var ErrSharedTokens = errors.New("the shared access token cannot be read")

// SharedTokens is where replicas share classic access tokens. A token is worth
// as much as the app's secret for two hours: keep it sealed.
type SharedTokens interface {
	// LoadToken returns the token kept for the app; ok false: there is none.
	LoadToken(ctx context.Context, appid string) (t AccessToken, ok bool, err error)
	// StoreToken keeps the token with its two times, in place of the one before.
	StoreToken(ctx context.Context, appid string, t AccessToken) error
	// LeaseToken gives owner the right to fetch the app's token until until. False:
	// another owner's lease is still good at now.
	LeaseToken(ctx context.Context, appid, owner string, now, until time.Time) (bool, error)
	// ReleaseToken gives owner's lease back; another's is left alone.
	ReleaseToken(ctx context.Context, appid, owner string) error
}

// ClassicToken fetches access tokens by cgi-bin/token, where each fetch ends the
// token before it within five minutes. So replicas must share one, through
// Fetcher.Shared; without it this process takes itself for the only one.
type ClassicToken struct{ tokens }

// NewClassicToken returns a source that remembers nothing yet.
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

// halfAhead: another replica refreshes the token when the time that ahead tells
// has come, and ours then lasts for five minutes at most. A replica that was not
// asked meanwhile looks at the shared one first.
func halfAhead(t AccessToken) time.Duration { return t.ahead() / 2 }

// shareToken returns the shared token if it is a fresh one, or fetches the next
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
			return t, nil // somebody is fetching the next one; this one is good meanwhile
		}
		if err := wait(ctx, leasePoll); err != nil {
			return AccessToken{}, &Error{Call: CallToken, Kind: KindTimeout, reason: "another replica is fetching the access token"}
		}
	}
}

func fetchLeased(ctx context.Context, appid, owner string, f Fetcher, refused string, fetch func(context.Context) (AccessToken, error)) (AccessToken, error) {
	defer f.Shared.ReleaseToken(context.WithoutCancel(ctx), appid, owner)
	// Between the look before and the lease another replica may have finished.
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
		// Ours is good; the others will fetch one of their own and end it.
		f.Log(Event{AppID: appid, Err: fmt.Errorf("sharing the access token: %w", err)})
	}
	return t, nil
}
