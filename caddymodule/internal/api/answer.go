package api

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"strconv"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/conn"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
)

// Refuse answers a request with a problem and always returns nil. Over HTTP/1.1 it also
// discards the rest of the body.
func (s *Server) Refuse(w http.ResponseWriter, r *http.Request, p *problem.Problem) error {
	p.RequestID = s.Host.RequestID(r)
	h := w.Header()
	if p.Challenge != "" {
		h.Set("WWW-Authenticate", p.Challenge)
	}
	if p.Allow != "" {
		h.Set("Allow", p.Allow)
	}
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(p.RetryAfter.Seconds()))))
	} else if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests {
		h.Set("Retry-After", "2")
	}
	if p.RateLimit != "" {
		h.Set("RateLimit", p.RateLimit)
		h.Set("RateLimit-Policy", p.RateLimitPolicy)
	}
	if !conn.StillSending(r) {
		return answer(w, r, p.Status, "application/problem+json", p)
	}
	h.Set("Connection", "close")
	err := answer(w, r, p.Status, "application/problem+json", p)
	conn.DiscardUnread(w, r, s.subscriber(r), s.Host.Exiting)
	return err
}

func (c *call) refuse(p *problem.Problem) error {
	c.count(p.Code)
	return c.Refuse(c.w, c.r, p)
}

func (c *call) answer(status int, contentType string, v any) error {
	return answer(c.w, c.r, status, contentType, v)
}

func (c *call) requestID() string { return c.Host.RequestID(c.r) }

// answer writes v as JSON, or only the status if v is nil. Caches must not keep it,
// whatever a directive in front of us sets for the whole site.
func answer(w http.ResponseWriter, r *http.Request, status int, contentType string, v any) error {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if v == nil {
		w.WriteHeader(status)
		return nil
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false) // the readers are programs and their developers
	if err := enc.Encode(v); err != nil {
		return err
	}
	body := text.Bytes()
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if conn.Held(w) {
		h.Del("Content-Length") // it counted our body, which handle_errors may replace
	}
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // an error means that the client has gone
	}
	return nil
}
