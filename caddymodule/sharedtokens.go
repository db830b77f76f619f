package caddymodule

import (
	"context"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// sharedTokens lets replicas share classic access tokens through the store,
// which does not know WeChat's types.
type sharedTokens struct{ *store.Store }

// LoadToken implements [wechat.SharedTokens].
func (s sharedTokens) LoadToken(ctx context.Context, appid string) (wechat.AccessToken, bool, error) {
	value, fetched, expires, ok, err := s.Store.LoadToken(ctx, appid)
	return wechat.AccessToken{Token: value, Fetched: fetched, Expires: expires}, ok, err
}

// StoreToken implements [wechat.SharedTokens].
func (s sharedTokens) StoreToken(ctx context.Context, appid string, t wechat.AccessToken) error {
	return s.Store.StoreToken(ctx, appid, t.Token, t.Fetched, t.Expires)
}
