package wechat

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// ExternalToken takes access tokens from a central token service: a GET to a URL
// that answers WeChat's JSON ({"access_token", "expires_in"}) or the bare token.
// A token without a stated life is asked for again after a minute.
type ExternalToken struct {
	tokens
	url string
}

// NewExternalToken returns a source for the service at url, in which "{appid}"
// stands for the app's id. The URL is a name of the resource, not a setting: one
// source belongs to one URL.
func NewExternalToken(url string) *ExternalToken { return &ExternalToken{url: url} }

// Token implements TokenSource.
func (s *ExternalToken) Token(ctx context.Context, app App, f Fetcher) (string, error) {
	return s.token(ctx, app, f, neverLate, func(ctx context.Context, _ string) (AccessToken, error) {
		u := strings.ReplaceAll(s.url, "{appid}", url.QueryEscape(app.ID))
		return f.Fetch(ctx, app, TokenRequest{Method: http.MethodGet, URL: u})
	})
}

// Format prints nothing of the tokens, nor the URL, which may hold a key.
func (s *ExternalToken) Format(f fmt.State, verb rune) { s.tokens.Format(f, verb) }
