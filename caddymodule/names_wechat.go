package caddymodule

import (
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// nameOf returns the name of the WeChat that an app belongs to: [wechat.Own] if all of
// its hosts are WeChat's, in any number and order, else the configured realm, else the
// host and port of the first one. Two WeChats may know the same appid, and give the same
// openid to two people.
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

// names are those of all apps that differ from the others, for a key of what is shared.
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

// hostPort returns a URL's host in lower case and its port, also where that is the
// scheme's own.
func hostPort(api string) string {
	u, err := url.Parse(api)
	if err != nil {
		return api
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), port)
}

const mostRealm = 128

// resolveRealm reads the name of a directory or of a WeChat.
func resolveRealm(raw string, look lookup) (string, error) {
	if raw == "" {
		return "", nil
	}
	name, known, err := look(raw, syntax{})
	if err != nil || !known {
		return "", err
	}
	if len(name) > mostRealm || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", errors.New("a name is 1 to 128 visible ASCII characters, without spaces, such as customers")
	}
	return name, nil
}
