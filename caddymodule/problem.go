package caddymodule

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
)

// refuse answers the request with a problem. It returns nil: nothing is left to do
// for the request but, over HTTP/1.1, to discard the rest of its body.
func refuse(w http.ResponseWriter, r *http.Request, p *problem.Problem) error {
	p.RequestID = requestID(r)
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
	if !stillSending(r) {
		return answer(w, r, p.Status, "application/problem+json", p)
	}
	h.Set("Connection", "close")
	err := answer(w, r, p.Status, "application/problem+json", p)
	discardUnread(w, r)
	return err
}

// answer writes v as JSON, or nothing but the status if v is nil. Caches must not
// keep it, whatever a directive before us sets for the whole site.
func answer(w http.ResponseWriter, r *http.Request, status int, contentType string, v any) error {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if v == nil {
		w.WriteHeader(status)
		return nil
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false) // it is read by programs and their developers
	if err := enc.Encode(v); err != nil {
		return err
	}
	body := text.Bytes()
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if held(w) {
		h.Del("Content-Length") // of our body, which may give way to another one
	}
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client may be gone; nothing depends on it
	}
	return nil
}

// requestID returns the id that Caddy gives the request, which its logs can
// show as {http.request.uuid}.
func requestID(r *http.Request) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	id, _ := repl.GetString("http.request.uuid")
	return id
}
