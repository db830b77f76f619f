package wechattest

import (
	"encoding/json"
	"net/http"
	"net/url"
)

// LimitRequestLine simulates an edge server in front of the API. It refuses longer
// request lines with 414 and an HTML page, as nginx does by default from 8 KiB on. 0,
// the default, means no limit.
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

// writeEdge writes the HTML page of an edge server, which is the same for every status.
func writeEdge(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(status)
	w.Write([]byte(edgePage))
}

// code returns the one-time code in a request, if there is one.
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
