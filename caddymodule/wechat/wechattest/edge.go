package wechattest

import (
	"encoding/json"
	"net/http"
	"net/url"
)

// LimitRequestLine has an edge before the API refuse longer request lines with 414
// and a page of HTML, as a stock nginx does from 8 KiB on. 0: no limit, as at first.
func (s *Simulator) LimitRequestLine(bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requestLine = bytes
}

func (s *Simulator) edgeLimit() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requestLine
}

// writeEdge writes the page of an edge, which is the same whatever the status.
func writeEdge(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(status)
	w.Write([]byte(edgePage))
}

// code is the one-time code that a request carries, if any.
func (req *request) code() string {
	if q, err := url.ParseQuery(req.query); err == nil && q.Has("js_code") {
		return q.Get("js_code")
	}
	var body struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal(req.body, &body)
	return body.Code
}
