package wechattest

import (
	"encoding/json"
	"net/http"
	"net/url"
)

// LimitRequestLine makes the edge in front of the API refuse longer request lines with
// 414 and an HTML page, as a stock nginx does above 8 KiB. 0 means no limit, the
// default.
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

// writeEdge writes the edge's HTML page, which is the same for every status.
func writeEdge(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(status)
	w.Write([]byte(edgePage))
}

// code returns the one-time code in a request, or "" if it has none.
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
