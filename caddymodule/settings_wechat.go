package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/network"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// wechatSettings are the resolved settings of the block wechat, and the hosts of single apps.
type wechatSettings struct {
	APIs []string
	// Realm names a WeChat other than the real one. If it is empty, the first host is the
	// name.
	Realm string
	// AppAPIs are the base URLs of apps that have their own, by appid.
	AppAPIs map[string][]string
	// AccessToken is the source of access tokens. External is the token service's URL, for the
	// source accessExternal.
	AccessToken, External string
	SendOpenID            bool
	Timeout               time.Duration
}

// client returns a client of WeChat with these settings.
func (w wechatSettings) client() *wechat.Client {
	return &wechat.Client{APIs: w.APIs, AppAPIs: w.AppAPIs, Timeout: w.Timeout, OmitOpenID: !w.SendOpenID}
}

// tokens returns the source of access tokens.
func (w wechatSettings) tokens() wechat.TokenSource {
	switch w.AccessToken {
	case accessClassic:
		return wechat.NewClassicToken()
	case accessExternal:
		return wechat.NewExternalToken(w.External)
	}
	return wechat.NewStableToken()
}

// The sources of access tokens.
const (
	accessStable   = "stable"
	accessClassic  = "classic"
	accessExternal = "external"
)

const (
	leastTimeout = 100 * time.Millisecond
	// mostTimeout is about the longest that a person waits at a phone. It leaves a login time
	// for its retries.
	mostTimeout = 30 * time.Second
)

// resolveWeChat resolves the block wechat.
func (s *settings) resolveWeChat(h *Handler, look lookup) error {
	set := WeChat{}
	if h.WeChat != nil {
		set = *h.WeChat
	}
	w := &s.WeChat
	w.SendOpenID = set.SendOpenID == nil || *set.SendOpenID
	if err := w.resolveHosts(set, look); err != nil {
		return err
	}
	if w.Realm != "" && w.Realm != wechat.Own && !slices.ContainsFunc(s.Apps, func(a wechat.App) bool { return w.nameOf(a.ID) != wechat.Own }) {
		s.Useless = append(s.Useless, useless{"wechat realm: all hosts are WeChat's own, whose name is " + wechat.Own,
			"remove the line, or write `api` with the hosts of the other WeChat"})
	}
	if err := w.resolveAccessToken(set, len(h.Apps), look); err != nil {
		return misset("wechat access_token", err)
	}
	w.Timeout = cmp.Or(time.Duration(set.Timeout), wechat.DefaultTimeout)
	if w.Timeout < leastTimeout || w.Timeout > mostTimeout {
		return misset("wechat timeout", fmt.Errorf("%s is out of range: use 100ms to 30s, such as 5s", written(w.Timeout)))
	}
	return nil
}

// resolveHosts resolves which WeChat is called.
func (w *wechatSettings) resolveHosts(set WeChat, look lookup) (err error) {
	if w.APIs, err = resolveAPIs(set.API, look); err != nil {
		return misset("wechat api", err)
	}
	if len(w.APIs) == 0 {
		w.APIs = []string{wechat.DefaultAPI}
	}
	if w.Realm, err = resolveRealm(set.Realm, look); err != nil {
		return misset("wechat realm", err)
	}
	return nil
}

func (w *wechatSettings) resolveAccessToken(set WeChat, apps int, look lookup) error {
	w.AccessToken = cmp.Or(set.AccessToken, accessStable)
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

// resolveAPIs returns the base URLs of WeChat's servers, without slashes at their ends.
func resolveAPIs(all []string, look lookup) (apis []string, err error) {
	for _, raw := range all {
		api, err := look.checked(raw, checkAPI)
		api = strings.TrimRight(api, "/")
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

func checkAPI(raw string) error {
	u, err := parseURL(raw)
	if err != nil {
		return err
	}
	if u.Scheme == "http" && !network.LoopbackHost(u.Hostname()) {
		return errors.New("over http the AppSecret would travel in clear: use https; http is for a simulator on this machine, such as http://127.0.0.1:9000")
	}
	if u.RawQuery != "" || u.ForceQuery {
		return errors.New("a base URL has no query: use a URL such as " + wechat.DefaultAPI)
	}
	if ownHost(raw) && strings.Trim(u.Path, "/") != "" {
		return errors.New("WeChat's own hosts have no path before that of a call: use a URL such as " + wechat.DefaultAPI)
	}
	return nil
}

// parseURL parses a URL that can be fetched. Its errors do not repeat the URL, which may hold
// a key.
func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Opaque != "" || u.Host == "" || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return nil, errors.New("this is not an http or https URL: write the whole URL, such as " + wechat.DefaultAPI)
	case u.User != nil:
		return nil, errors.New("a URL with a user name or password cannot be used: it would show in logs")
	case strings.Contains(raw, "#"):
		return nil, errors.New("a URL with a fragment cannot be used: remove what begins with #")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return nil, errors.New("the URL's port is not between 1 and 65535: leave it out for the default, or write the right one")
		}
	}
	return u, nil
}

// nameOf returns the name of the WeChat that an app belongs to. The name is [wechat.Own] if
// all of the app's hosts belong to WeChat, in any number and order; else the configured realm;
// else the host and port of the first URL. The name is needed because two WeChats may use the
// same appid, and give the same openid to two people.
func (w wechatSettings) nameOf(appid string) string {
	apis := w.AppAPIs[appid]
	if len(apis) == 0 {
		apis = w.APIs
	}
	switch {
	case !slices.ContainsFunc(apis, func(api string) bool { return !ownHost(api) }):
		return wechat.Own
	case w.Realm != "":
		return w.Realm
	}
	return hostPort(apis[0])
}

// names returns the WeChat names of the apps that have their own hosts, and under "" the name
// for all others. They are part of the key under which connections are shared.
func (w wechatSettings) names() map[string]string {
	names := map[string]string{"": w.nameOf("")}
	for appid := range w.AppAPIs {
		names[appid] = w.nameOf(appid)
	}
	return names
}

func ownHost(api string) bool {
	u, err := url.Parse(api)
	if err != nil {
		return false
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	return host == wechat.Own || strings.HasSuffix(host, "."+wechat.Own)
}

// webPorts are the default ports of URLs.
var webPorts = map[string]string{"http": "80", "https": "443"}

// hostPort returns a URL's host in lower case and its port, even if that is the scheme's
// default.
func hostPort(api string) string {
	u, err := url.Parse(api)
	if err != nil {
		return api
	}
	port := u.Port()
	if port == "" {
		port = webPorts[u.Scheme]
	}
	return net.JoinHostPort(strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), port)
}

const mostRealm = 1024

// resolveRealm reads the name of a directory or of a WeChat.
func resolveRealm(raw string, look lookup) (string, error) {
	if raw == "" {
		return "", nil
	}
	name, known, err := look(raw, syntax{})
	if err != nil || !known {
		return "", err
	}
	if len(name) > mostRealm || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || !unicode.IsPrint(c) }) {
		return "", errors.New("a name has no spaces and at most 1024 bytes, such as customers")
	}
	return name, nil
}
