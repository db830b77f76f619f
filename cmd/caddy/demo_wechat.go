package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// watchWeChat writes each call into the journal, with its result.
func (s *stage) watchWeChat(r *http.Request, seen *resultWriter, start time.Time) {
	s.journal.add(event{Kind: "wechat", Of: s.login.Load(), Method: r.Method, Path: r.URL.Path, Outcome: seen.outcome(), Millis: millis(start)})
}

// keptResult bounds how much of an answer is kept, because a fault can make it endless.
const keptResult = 4 << 10

// resultWriter keeps the status and the beginning of an answer of the simulator.
type resultWriter struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

// Unwrap lets the simulator take over the connection, which it does to lose an answer.
func (w *resultWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *resultWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *resultWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.body.Write(p[:min(len(p), keptResult-w.body.Len())])
	return w.ResponseWriter.Write(p)
}

// outcome returns "ok", an errcode or an HTTP status, or "" if there was no answer.
func (w *resultWriter) outcome() string {
	switch {
	case w.status == 0:
		return ""
	case w.status != http.StatusOK:
		return strconv.Itoa(w.status)
	}
	var result struct{ Errcode json.Number }
	if json.Unmarshal(w.body.Bytes(), &result) == nil && result.Errcode != "" && result.Errcode != "0" {
		return string(result.Errcode)
	}
	return "ok"
}
