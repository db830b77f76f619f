package caddymodule

import (
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"unicode"

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

// resolveHosts resolves which WeChat each app belongs to, and no more: a command needs no
// AppSecret.
func (s *settings) resolveHosts(h *Handler, look lookup) (err error) {
	if h.WeChat != nil {
		if s.WeChat.APIs, err = resolveAPIs(h.WeChat.API, look); err != nil {
			return misset("wechat api", err)
		}
		if s.WeChat.Realm, err = resolveRealm(h.WeChat.Realm, look); err != nil {
			return misset("wechat realm", err)
		}
	}
	for i, a := range h.Apps {
		id, _, err := look(a.ID, syntax{})
		if err != nil {
			return missetAt("app", i, err)
		}
		s.Apps = append(s.Apps, wechat.App{ID: id})
		if err := s.resolveAppAPIs(i, a, id, look); err != nil {
			return err
		}
	}
	return nil
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
