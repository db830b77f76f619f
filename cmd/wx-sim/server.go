package main

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// server is the simulator with what a program has beside it.
type server struct {
	set *settings
	sim *wechattest.Simulator
}

func newServer(set *settings) (*server, error) {
	s := &server{set: set, sim: wechattest.New(wechattest.Options{})}
	for _, app := range set.Apps {
		if err := s.sim.AddApp(app); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/_control/") && !s.admit(w, r) {
		return
	}
	s.sim.ServeHTTP(w, r)
}

// admit lets web pages of this machine, and of the origins in the flags, use the control
// API: an H5 page in development fetches its codes there. A page from elsewhere that a
// developer happens to visit must not.
func (s *server) admit(w http.ResponseWriter, r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || origin == "http://"+r.Host {
		return true
	}
	if !slices.Contains(s.set.origins, origin) && !isLocal(origin) {
		http.Error(w, "pages of "+origin+" may not use the control API: see --origin", http.StatusForbidden)
		return false
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Add("Vary", "Origin")
	if r.Method != http.MethodOptions {
		return true
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST, DELETE")
	h.Set("Access-Control-Allow-Headers", "Content-Type")
	w.WriteHeader(http.StatusNoContent)
	return false
}

// isLocal reports whether an origin is a page of this machine.
func isLocal(origin string) bool {
	u, err := url.Parse(origin)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
}

func (s *server) save() error { return nil }
