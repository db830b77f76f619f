package main

import (
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/client"
)

//go:embed page
var pageFiles embed.FS

// pagePolicy lets the page send requests only to its own origin.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// stage serves the demo's page. It acts for the person with the phone, breaks things, and
// keeps the journal of events.
type stage struct {
	*demo
	journal *journal
	address string // host and port of the page

	requests atomic.Int64 // the number of the latest request
	login    atomic.Int64 // the number of the latest request that makes the gateway call WeChat

	mu      sync.Mutex
	persons int
	lost    bool // the next answer to a login of the phone is lost
	refresh string
	stolen  *session // the thief's session
}

func newStage(d *demo) *stage {
	return &stage{demo: d, journal: newJournal()}
}

// user is the name of the person with the phone at the simulator.
func (s *stage) user() string { return fmt.Sprintf("visitor-%d", s.persons) }

// restart repairs everything and gives the phone to a new person, unknown to the gateway.
func (s *stage) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.persons++
	s.lost, s.refresh, s.stolen = false, "", nil
	s.sim.ClearFaults()
	// The numbers are as long as real ones. The simulator sends nothing to anyone.
	numbers := []string{fmt.Sprintf("1990000%04d", 2*s.persons-1), fmt.Sprintf("1990000%04d", 2*s.persons)}
	s.journal.restart(event{Kind: "start", Name: s.user(), Body: map[string]any{"appid": demoAppID, "gateway": s.gateway, "numbers": numbers}})
}

// serve serves the page on a free port of 127.0.0.1.
func (s *stage) serve() (stop func(), err error) {
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		return nil, err
	}
	modules, err := fs.Sub(client.Source, "src")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServerFS(files))
	mux.Handle("GET /client/", http.StripPrefix("/client/", http.FileServerFS(modules)))
	mux.Handle("GET /demo/events", s.journal)
	mux.HandleFunc("POST /demo/codes", s.serveCodes)
	mux.HandleFunc("POST /demo/switch", s.serveSwitch)
	mux.HandleFunc("POST /demo/restart", func(w http.ResponseWriter, _ *http.Request) {
		s.restart()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.Handle("/gateway/", http.StripPrefix("/gateway", http.HandlerFunc(s.proxy)))
	s.address, stop, err = serve(s.guarded(mux))
	return stop, err
}

// guarded keeps other pages from using the demo: those of another origin, and those under a
// name that somebody has pointed to this machine (DNS rebinding).
func (s *stage) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if origin := r.Header.Get("Origin"); r.Host != s.address || origin != "" && origin != "http://"+s.address {
			http.Error(w, "open http://"+s.address, http.StatusForbidden)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", pagePolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// serveCodes plays WeChat on the phone: wx.login, or a tap on the phone button.
func (s *stage) serveCodes(w http.ResponseWriter, r *http.Request) {
	var want struct{ Phone string }
	if !readJSON(w, r, &want) {
		return
	}
	s.mu.Lock()
	user := s.user()
	s.mu.Unlock()
	var codes wechattest.Codes
	var err error
	name := "wx.login"
	if want.Phone == "" {
		codes, err = s.sim.MintLogin(demoAppID, user)
	} else {
		name = "getPhoneNumber"
		codes.PhoneCode, err = s.sim.MintPhone(demoAppID, user, wechattest.Phone{Number: want.Phone})
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.journal.add(event{Kind: "wx", Who: "phone", Name: name})
	writeJSON(w, map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode})
}

func readJSON(w http.ResponseWriter, r *http.Request, into any) bool {
	err := json.NewDecoder(io.LimitReader(r.Body, 4096)).Decode(into)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
	return err == nil
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
