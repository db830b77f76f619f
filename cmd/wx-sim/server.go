package main

import (
	_ "embed"
	"errors"
	"io/fs"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

//go:embed page.html
var page []byte

// server is the simulator with a control page, a list of the latest calls, and state
// that is kept over a restart.
type server struct {
	set     *settings
	sim     *wechattest.Simulator
	control http.Handler
	wechat  http.Handler
}

func newServer(set *settings) (*server, error) {
	s := &server{set: set, sim: wechattest.New(wechattest.Options{})}
	for _, app := range set.Apps {
		if err := s.sim.AddApp(app); err != nil {
			return nil, err
		}
	}
	s.sim.AcceptMockCode(set.mock)
	if err := s.load(); err != nil {
		return nil, err
	}
	latest := new(calls)
	control := http.NewServeMux()
	control.HandleFunc("GET /_control/calls", latest.serve)
	control.HandleFunc("GET /_control/setup", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, set) })
	control.Handle("/", s.sim)
	s.control, s.wechat = control, latest.watched(s.sim)
	return s, nil
}

func servePage(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'")
	_, _ = w.Write(page)
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/" && r.Method == http.MethodGet:
		servePage(w)
	case !strings.HasPrefix(r.URL.Path, "/_control/"):
		s.wechat.ServeHTTP(w, r) // without a mux, because WeChat's paths must match exactly
	case s.admit(w, r):
		s.control.ServeHTTP(w, r)
	}
}

// admit lets only two kinds of pages use the control API: pages on this machine, and pages of
// the origins in the flags. An H5 page in development fetches its codes there. Any other page
// that a developer visits must not.
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

// isLocal reports whether an origin is on this machine.
func isLocal(origin string) bool {
	u, err := url.Parse(origin)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
}

// load reads the state file, if there is one.
func (s *server) load() error {
	if s.set.state == "" {
		return nil
	}
	f, err := os.Open(s.set.state)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return s.sim.Load(f)
}

// save writes the whole state file, or leaves the old one. Only the file's owner may read it,
// because it contains secrets.
func (s *server) save() error {
	if s.set.state == "" {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(s.set.state), filepath.Base(s.set.state)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := s.sim.Save(f); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), s.set.state)
}
