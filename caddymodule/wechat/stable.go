package wechat

import (
	"context"
	"encoding/json"
	"net/http"
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
		body, err := json.Marshal(map[string]any{
			"grant_type": "client_credential", "appid": app.ID, "secret": app.Secret, "force_refresh": false,
		})
		if err != nil {
			return AccessToken{}, &Error{Call: CallToken, Kind: KindBug, reason: "the request cannot be encoded"}
		}
		return f.Fetch(ctx, app, TokenRequest{Method: http.MethodPost, Path: "/cgi-bin/stable_token", Body: body})
	})
}
