package wechat

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// StableToken fetches access tokens with cgi-bin/stable_token, which returns the same
// token to every caller, so that replicas need no coordination. It never forces a
// refresh, because that would invalidate the token of all other callers.
type StableToken struct{ tokens }

// NewStableToken returns a source without any tokens yet.
func NewStableToken() *StableToken { return new(StableToken) }

// Token implements TokenSource.
func (s *StableToken) Token(ctx context.Context, app App, f Fetcher) (string, error) {
	return s.token(ctx, app, f, neverLate, func(ctx context.Context, _ string) (AccessToken, error) {
		r, err := stableRequest(app)
		if err != nil {
			return AccessToken{}, err
		}
		return f.Fetch(ctx, app, r)
	})
}

func stableRequest(app App) (TokenRequest, error) {
	body, err := json.Marshal(map[string]any{
		"grant_type": "client_credential", "appid": app.ID, "secret": app.Secret, "force_refresh": false,
	})
	if err != nil {
		return TokenRequest{}, &Error{Call: CallToken, Kind: KindBug, reason: "the request cannot be encoded"}
	}
	return TokenRequest{Method: http.MethodPost, Path: "/cgi-bin/stable_token", Body: body}, nil
}

// Probe fetches an access token once with cgi-bin/stable_token, which changes nothing for
// other callers, and does not keep it. It thereby checks that WeChat can be reached, and that
// WeChat accepts the secret and our address. date is WeChat's time, or zero if the answer had
// none; it may come with an error. Errors are *Error.
func (c *Client) Probe(ctx context.Context, app App) (date time.Time, err error) {
	c.init()
	r, err := stableRequest(app)
	if err != nil {
		return date, err
	}
	d := c.delivery(app, CallToken, "")
	a, e := d.send(ctx, outgoing{method: r.Method, path: r.Path, body: r.Body})
	if e != nil {
		return d.date, e
	}
	if token, _ := readToken(a.body); token == "" {
		return d.date, d.nonsense("no usable access token in the answer")
	}
	return d.date, nil
}
