package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	keptCalls = 200
	// answerRead bounds how much of an answer is searched for its errcode.
	answerRead = 16 << 10
)

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
		seen := &answerWriter{ResponseWriter: w}
		// This is deferred because the simulator loses an answer by a panic.
		defer func() {
			c.add(call{At: start, Method: r.Method, Path: r.URL.Path, AppID: r.URL.Query().Get("appid"), Outcome: seen.outcome(), Millis: time.Since(start).Milliseconds()})
		}()
		next.ServeHTTP(seen, r)
	})
}

// answerWriter keeps the beginning of an answer.
type answerWriter struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *answerWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *answerWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if room := answerRead - w.body.Len(); room > 0 {
		w.body.Write(p[:min(room, len(p))])
	}
	return w.ResponseWriter.Write(p)
}

func (w *answerWriter) outcome() string {
	if w.status == 0 {
		return "no answer"
	}
	if w.status != http.StatusOK {
		return strconv.Itoa(w.status)
	}
	var answer struct{ Errcode json.RawMessage }
	if err := json.Unmarshal(w.body.Bytes(), &answer); err != nil {
		return "not JSON"
	}
	if code := string(bytes.Trim(answer.Errcode, `"`)); code != "" && code != "0" {
		return code
	}
	return "ok"
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
