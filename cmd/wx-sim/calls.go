package main

import (
	"cmp"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

const keptCalls = 200

// call is one of WeChat's calls as the control page shows it. It contains no code,
// token or secret.
type call struct {
	N       int       `json:"n"`
	At      time.Time `json:"at"`
	Method  string    `json:"method"`
	Path    string    `json:"path"`
	AppID   string    `json:"appid,omitempty"`
	Outcome string    `json:"outcome"` // ok, an errcode, an HTTP status, or "no answer"
	Millis  int64     `json:"ms"`
}

// calls holds the latest calls.
type calls struct {
	mu   sync.Mutex
	last int
	list []call
}

func (c *calls) add(one call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	one.N = c.last
	c.list = append(c.list, one)
	if len(c.list) > keptCalls {
		c.list = c.list[1:]
	}
}

// serve answers with the calls whose number is greater than ?after.
func (c *calls) serve(w http.ResponseWriter, r *http.Request) {
	after, _ := strconv.Atoi(r.URL.Query().Get("after"))
	c.mu.Lock()
	found := []call{}
	for _, one := range c.list {
		if one.N > after {
			found = append(found, one)
		}
	}
	c.mu.Unlock()
	writeJSON(w, found)
}

// watched records each call that next answers.
func (c *calls) watched(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		seen := &wechattest.Recorder{ResponseWriter: w}
		// This is deferred because the simulator loses an answer by a panic.
		defer func() {
			c.add(call{At: start, Method: r.Method, Path: r.URL.Path, AppID: r.URL.Query().Get("appid"), Outcome: cmp.Or(seen.Outcome(), "no answer"), Millis: time.Since(start).Milliseconds()})
		}()
		next.ServeHTTP(seen, r)
	})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
