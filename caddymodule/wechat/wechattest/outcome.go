package wechattest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
)

// maxRecorded bounds how much of an answer is searched for its errcode, because a fault can
// make an answer endless.
const maxRecorded = 16 << 10

// Recorder is the [http.ResponseWriter] for an answer of a [Simulator] of which the
// [Recorder.Outcome] is wanted.
type Recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

// Unwrap lets the simulator take over the connection, by which it loses an answer.
func (r *Recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader implements [http.ResponseWriter].
func (r *Recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (r *Recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	r.body.Write(p[:min(len(p), maxRecorded-r.body.Len())])
	return r.ResponseWriter.Write(p)
}

// Outcome returns "ok", an errcode, an HTTP status that is not 200, or "not JSON". It is empty
// if there was no answer.
func (r *Recorder) Outcome() string {
	switch {
	case r.status == 0:
		return ""
	case r.status != http.StatusOK:
		return strconv.Itoa(r.status)
	}
	var answer struct{ Errcode json.RawMessage }
	if err := json.Unmarshal(r.body.Bytes(), &answer); err != nil {
		return "not JSON"
	}
	if code := string(bytes.Trim(answer.Errcode, `"`)); code != "" && code != "0" {
		return code
	}
	return "ok"
}
