package caddymodule

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/network"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// The ways to an access token.
const (
	accessStable   = "stable"
	accessClassic  = "classic"
	accessExternal = "external"
)

const (
	leastTimeout = 100 * time.Millisecond
	// mostTimeout is what a person with a phone in their hand waits at most, and
	// leaves a login time for its second tries.
	mostTimeout = 30 * time.Second
)

// resolveWeChat is about the block wechat.
func (s *settings) resolveWeChat(h *Handler, look lookup) error {
	set := WeChat{}
	if h.WeChat != nil {
		set = *h.WeChat
	}
	w := &s.WeChat
	w.SendOpenID = set.SendOpenID == nil || *set.SendOpenID
	var err error
	if w.APIs, err = resolveAPIs(set.API, look); err != nil {
		return misset("wechat api", err)
	}
	if len(w.APIs) == 0 {
		w.APIs = []string{wechat.DefaultAPI}
	}
	if w.Realm, err = resolveRealm(set.Realm, look); err != nil {
		return misset("wechat realm", err)
	}
	if err := w.resolveAccessToken(set, len(h.Apps), look); err != nil {
		return misset("wechat access_token", err)
	}
	w.Timeout = wechat.DefaultTimeout
	if set.Timeout != 0 {
		w.Timeout = time.Duration(set.Timeout)
	}
	if w.Timeout < leastTimeout || w.Timeout > mostTimeout {
		return misset("wechat timeout", fmt.Errorf("%s is out of range: use 100ms to 30s, such as 5s", written(w.Timeout)))
	}
	return nil
}

func (w *wechatSettings) resolveAccessToken(set WeChat, apps int, look lookup) error {
	w.AccessToken = accessStable
	if set.AccessToken != "" {
		w.AccessToken = set.AccessToken
	}
	if err := noPlaceholder(w.AccessToken); err != nil {
		return err
	}
	switch w.AccessToken {
	case accessStable, accessClassic:
		if set.AccessTokenURL != "" {
			return fmt.Errorf("%s takes no URL: remove it, or use external <url>", w.AccessToken)
		}
		return nil
	case accessExternal:
	default:
		return fmt.Errorf("unknown source %q: use stable, classic or external <url>", w.AccessToken)
	}
	if set.AccessTokenURL == "" {
		return errors.New("the URL of your token service is missing: access_token external <url>")
	}
	if apps > 1 && !strings.Contains(set.AccessTokenURL, "{appid}") {
		return errors.New("each app has its own access token: put {appid} into the URL, where the app's id is to be")
	}
	raw, known, err := look(set.AccessTokenURL, syntax{own: "appid"})
	if err != nil || !known {
		return err
	}
	u, err := parseURL(strings.ReplaceAll(raw, "{appid}", "appid"))
	if err != nil {
		return err
	}
	if u.Scheme == "http" && !network.InternalHost(u.Hostname()) {
		return errors.New("over http everybody on the way could read the access token: use https for a host that is not in your own network")
	}
	w.External = raw
	return nil
}

// resolveAPIs are the base URLs of WeChat's servers, without slashes at their
// ends.
func resolveAPIs(all []string, look lookup) (apis []string, err error) {
	for _, raw := range all {
		api, known, err := look(raw, syntax{})
		if err == nil && known {
			api, err = checkAPI(api)
		}
		if err == nil && slices.Contains(apis, api) {
			err = fmt.Errorf("%s is given twice: keep one of them", raw)
		}
		if err != nil {
			return nil, err
		}
		apis = append(apis, api)
	}
	return apis, nil
}

// checkAPI returns the base URL without a slash at its end.
func checkAPI(raw string) (string, error) {
	u, err := parseURL(raw)
	if err != nil {
		return "", err
	}
	if u.Scheme == "http" && !network.LoopbackHost(u.Hostname()) {
		return "", errors.New("over http the AppSecret would travel in clear: use https; http is for a simulator on this machine, such as http://127.0.0.1:9000")
	}
	if u.RawQuery != "" || u.ForceQuery {
		return "", errors.New("a base URL has no query: use a URL such as " + wechat.DefaultAPI)
	}
	return strings.TrimRight(raw, "/"), nil
}

// parseURL takes URLs that can be fetched. Errors do not hold them, as they may
// hold a key.
func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Opaque != "" || u.Host == "" || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return nil, errors.New("this is no http or https URL: write it whole, such as " + wechat.DefaultAPI)
	case u.User != nil:
		return nil, errors.New("a URL with a user name or password cannot be used: it would show in logs")
	case strings.Contains(raw, "#"):
		return nil, errors.New("a URL with a fragment cannot be used: remove what begins with #")
	}
	return u, nil
}
