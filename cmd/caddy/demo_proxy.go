package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// demoRequest is the header in which the sample API finds the number of the page's request.
const demoRequest = "X-Demo-Request"

// hop is a request to the gateway.
type hop struct {
	who, method, path string
	header            http.Header
	body              []byte
}

// answer is an answer of the gateway to a hop.
type answer struct {
	of     int64
	status int
	header http.Header
	body   []byte
	code   string // of a problem
	ms     float64
}

// send sends a request to the gateway and writes its start into the journal.
func (s *stage) send(ctx context.Context, h hop) (answer, error) {
	of := s.requests.Add(1)
	if strings.HasPrefix(h.path, "/auth/wx") {
		s.login.Store(of)
	}
	s.journal.add(event{Kind: "request", Of: of, Who: h.who, Method: h.method, Path: h.path, Body: shortened(h.body)})
	req, err := http.NewRequestWithContext(ctx, h.method, s.gateway+h.path, bytes.NewReader(h.body))
	if err != nil {
		return answer{}, err
	}
	for name, values := range h.header {
		req.Header[name] = values
	}
	req.Header.Set(demoRequest, strconv.FormatInt(of, 10))
	start := time.Now()
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	s.login.CompareAndSwap(of, 0)
	a := answer{of: of, status: resp.StatusCode, header: resp.Header, body: body, ms: millis(start)}
	if a.status >= 400 {
		var problem struct{ Code string }
		_ = json.Unmarshal(body, &problem)
		a.code = problem.Code
	}
	return a, err
}

// wrote writes the end of a request into the journal.
func (s *stage) wrote(h hop, a answer, lost bool) {
	s.journal.add(event{Kind: "answer", Of: a.of, Who: h.who, Method: h.method, Path: h.path, Status: a.status, Outcome: a.code, Millis: a.ms, Lost: lost, Body: shortened(a.body)})
}

// forwarded are the headers of the phone's requests that reach the gateway.
var forwarded = []string{"Authorization", "Content-Type", "Accept", "User-Agent"}

// proxy carries the phone's requests to the gateway.
func (s *stage) proxy(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		return
	}
	h := hop{who: "phone", method: r.Method, path: r.URL.RequestURI(), header: make(http.Header), body: body}
	for _, name := range forwarded {
		if v := r.Header.Get(name); v != "" {
			h.header.Set(name, v)
		}
	}
	a, err := s.send(r.Context(), h)
	if err != nil {
		http.Error(w, "the gateway did not answer", http.StatusBadGateway)
		return
	}
	lost := s.received(h, a)
	s.wrote(h, a, lost)
	if lost {
		loseAnswer(w, a)
	}
	if a.code == "reuse_detected" {
		s.thiefReturns()
	}
	for _, name := range []string{"Content-Type", "Retry-After", "Www-Authenticate"} {
		if v := a.header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body)
}

// loseAnswer ends the phone's connection in the middle of the answer. If nothing of the answer
// were sent, the browser would repeat the request by itself.
func loseAnswer(w http.ResponseWriter, a answer) {
	w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// received stores the refresh token that the phone gets. It reports whether the answer is to
// be lost, which only happens to logins.
func (s *stage) received(h hop, a answer) (lost bool) {
	if a.status != http.StatusOK || h.method != http.MethodPost || !strings.HasPrefix(h.path, "/auth/wx") {
		return false
	}
	var got session
	_ = json.Unmarshal(a.body, &got)
	s.mu.Lock()
	defer s.mu.Unlock()
	if lost = s.lost && h.path == "/auth/wx"; lost {
		s.lost = false
		s.journal.add(event{Kind: "switch", Name: "lost"})
	} else if got.RefreshToken != "" {
		s.refresh = got.RefreshToken
	}
	return lost
}

// watchAPI writes requests that reach the sample API into the journal.
func (s *stage) watchAPI(r *http.Request, seen map[string]string) {
	of, err := strconv.ParseInt(r.Header.Get(demoRequest), 10, 64)
	if err != nil {
		return // a request of the walk, or somebody's curl
	}
	s.journal.add(event{Kind: "api", Of: of, Method: r.Method, Path: r.URL.Path, Headers: seen})
}

// shortened returns a JSON body with its codes and tokens cut short, or nil if body is not
// JSON.
func shortened(body []byte) any {
	var members map[string]any
	if json.Unmarshal(body, &members) != nil || len(members) == 0 {
		return nil
	}
	for name, v := range members {
		if text, ok := v.(string); ok && len(text) > 16 && (name == "code" || name == "phoneCode" || strings.HasSuffix(strings.ToLower(name), "token")) {
			members[name] = text[:8] + "…"
		}
	}
	return members
}

func millis(since time.Time) float64 {
	return float64(time.Since(since).Round(10*time.Microsecond).Microseconds()) / 1000
}
