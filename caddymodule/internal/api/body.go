package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
)

const (
	// maxBody bounds the bodies that our endpoints read.
	maxBody = 4 << 10
	// bodyTimeout is how long a body may take to arrive.
	bodyTimeout = 10 * time.Second
)

// readJSON reads a flat JSON object from the request's body into fields, by exact
// member name. Each field is a *string, a *bool, or a **bool if false and absent must
// be distinguished. Members without a field are ignored; duplicates, wrong types and
// trailing data are refused. It returns nil if the body is good.
func readJSON(w http.ResponseWriter, r *http.Request, fields map[string]any) *problem.Problem {
	if !isJSON(r.Header) {
		return problem.New(problem.UnsupportedMediaType)
	}
	body, p := readBody(w, r, maxBody)
	if p != nil {
		return p
	}
	return decode(body, fields)
}

// readOptionalJSON is readJSON for a body that may be absent. Over HTTP/3 and with chunked
// encoding, only reading shows whether there is one.
func readOptionalJSON(w http.ResponseWriter, r *http.Request, fields map[string]any) *problem.Problem {
	if r.ContentLength > 0 || isJSON(r.Header) && r.ContentLength != 0 {
		return readJSON(w, r, fields)
	}
	body, p := readBody(w, r, maxBody)
	if p == nil && len(body) > 0 {
		p = problem.New(problem.UnsupportedMediaType)
	}
	return p
}

func decode(body []byte, fields map[string]any) *problem.Problem {
	if err := decodeObject(body, fields); err != nil {
		return problem.Invalid("The body is not what this endpoint takes: " + err.Error() + ".")
	}
	return nil
}

func isJSON(h http.Header) bool {
	if len(h["Content-Type"]) != 1 {
		return false
	}
	mt, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || mt != "application/json" {
		return false
	}
	cs, given := params["charset"]
	return !given || strings.EqualFold(cs, "utf-8") || strings.EqualFold(cs, "utf8")
}

// encoded reports whether a body has a content coding, such as compression. "identity"
// does not count.
func encoded(h http.Header) bool {
	for _, value := range h["Content-Encoding"] {
		for coding := range strings.SplitSeq(value, ",") {
			if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, "identity") {
				return true
			}
		}
	}
	return false
}

func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, *problem.Problem) {
	if r.ContentLength > limit {
		return nil, problem.New(problem.BodyTooLarge)
	}
	if encoded(r.Header) {
		w.Header().Set("Accept-Encoding", "identity") // RFC 9110, section 15.5.16
		p := problem.New(problem.UnsupportedMediaType)
		p.Detail = "Send the body as it is: a Content-Encoding, such as gzip, is not taken."
		return nil, p
	}
	rc := http.NewResponseController(w)
	if rc.SetReadDeadline(time.Now().Add(bodyTimeout)) == nil {
		defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	switch {
	case int64(len(body)) > limit:
		return nil, problem.New(problem.BodyTooLarge)
	case err != nil:
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, problem.New(problem.BodyTooLarge)
		}
		return nil, problem.Invalid("The body did not arrive whole.")
	}
	r.Body = http.NoBody // it was read to its end, so the connection may stay open
	return body, nil
}

// decodeObject decodes a flat JSON object. Its errors contain nothing that the client
// sent except names of expected members.
func decodeObject(body []byte, fields map[string]any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return errors.New("it is empty")
	}
	if !utf8.Valid(body) {
		return errors.New("it is not UTF-8")
	}
	if !json.Valid(body) {
		return errors.New("it is not one JSON value")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return errors.New("it is not a JSON object")
	}
	seen := make(map[string]bool)
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return errors.New("it is not a JSON object")
		}
		if seen[name] {
			return errors.New("a member occurs twice")
		}
		seen[name] = true
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return errors.New("it is not a JSON object")
		}
		if err := setField(fields[name], name, raw); err != nil {
			return err
		}
	}
	return nil
}

// optional is a string that may be empty or null, such as a refresh token that the client has
// not stored yet at its first login.
type optional string

// null is true if the body has the member. The member's only allowed value is null.
type null bool

func setField(field any, name string, raw json.RawMessage) error {
	switch f := field.(type) {
	case nil: // no field for this member
		return nil
	case *optional:
		if raw[0] != '"' && string(raw) != "null" || json.Unmarshal(raw, f) != nil {
			return fmt.Errorf("%s must be a string", name)
		}
	case *null:
		if string(raw) != "null" {
			return fmt.Errorf("%s can only be null", name)
		}
		*f = true
	case *string:
		if raw[0] != '"' {
			return fmt.Errorf("%s must be a string", name)
		}
		if err := json.Unmarshal(raw, f); err != nil {
			return fmt.Errorf("%s must be a string", name)
		}
		if *f == "" {
			return fmt.Errorf("%s is empty: leave it out or fill it", name)
		}
	case **bool:
		*f = new(bool)
		return setField(*f, name, raw)
	case *bool:
		if err := json.Unmarshal(raw, f); err != nil || raw[0] == 'n' {
			return fmt.Errorf("%s must be true or false", name)
		}
	}
	return nil
}
