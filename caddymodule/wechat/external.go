package wechat

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// ExternalToken gets access tokens from a central token service: it sends a GET to a
// URL, which answers with WeChat's JSON ({"access_token", "expires_in"}) or the bare
// token. A token without a stated lifetime is requested again after a minute.
type ExternalToken struct {
	tokens
	url string
}

// NewExternalToken returns a source for the service at url, in which "{appid}" stands
// for the app's id. The URL identifies the resource and is not a setting: each URL
// needs its own source.
func NewExternalToken(url string) *ExternalToken { return &ExternalToken{url: url} }

// Token implements TokenSource.
func (s *ExternalToken) Token(ctx context.Context, app App, f Fetcher) (string, error) {
	return s.token(ctx, app, f, neverLate, func(ctx context.Context, _ string) (AccessToken, error) {
		u := strings.ReplaceAll(s.url, "{appid}", url.QueryEscape(app.ID))
		return f.Fetch(ctx, app, TokenRequest{Method: http.MethodGet, URL: u})
	})
}

// Format prints neither the tokens nor the URL, which may contain a key.
func (s *ExternalToken) Format(f fmt.State, verb rune) { s.tokens.Format(f, verb) }
