package wechat

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
)

const (
	// maxTokenLife is the lifetime of WeChat's tokens. If an answer claims more, this is used.
	maxTokenLife = 2 * time.Hour
	// bareTokenLife is the interval at which a token is fetched again that came without a
	// lifetime.
	bareTokenLife = time.Minute
)

// answer is a JSON object that came with HTTP status 200, or a bare token.
type answer struct {
	code   int
	errmsg string
	body   []byte
	bare   string
	host   string
	date   time.Time // of the header Date; zero: none
}

// readAnswer parses the body of an answer. It ignores Content-Type, because WeChat
// sends JSON as text/plain.
func readAnswer(body []byte, bareToo bool) (answer, bool) {
	body = clean(body)
	if bareToo {
		if token := strings.Trim(string(bytes.TrimSpace(body)), `"`); printable(token, 1024) && !strings.ContainsAny(token, `<>{}[]"\`) {
			return answer{bare: token}, true
		}
	}
	var envelope *struct {
		Code   intOrString `json:"errcode"`
		ErrMsg any         `json:"errmsg"`
	}
	if err := json.Unmarshal(body, &envelope); err != nil || envelope == nil {
		return answer{}, false
	}
	errmsg, _ := envelope.ErrMsg.(string)
	return answer{code: int(envelope.Code), errmsg: errmsg, body: body}, true
}

// clean removes a byte-order mark, and control characters, which JSON does not allow in
// strings but WeChat has been seen to send.
func clean(body []byte) []byte {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	return bytes.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, body)
}

func readToken(body []byte) (string, time.Duration) {
	var t struct {
		AccessToken string      `json:"access_token"`
		ExpiresIn   intOrString `json:"expires_in"`
	}
	if err := json.Unmarshal(body, &t); err != nil || t.ExpiresIn < 0 {
		return "", 0
	}
	return t.AccessToken, time.Duration(min(int64(t.ExpiresIn), int64(maxTokenLife/time.Second))) * time.Second
}

// intOrString is a whole number that may be quoted.
type intOrString int64

var errNotANumber = errors.New("not a whole number")

func (n *intOrString) UnmarshalJSON(b []byte) error {
	s := string(b)
	if s == "null" {
		return nil
	}
	if len(s) >= 2 && s[0] == '"' {
		s = strings.TrimSpace(s[1 : len(s)-1])
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return errNotANumber // strconv's error would quote the input
	}
	*n = intOrString(v)
	return nil
}

// stringOrInt is a string that may arrive as a whole number.
type stringOrInt string

func (s *stringOrInt) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, (*string)(s))
	}
	var n intOrString
	if err := n.UnmarshalJSON(b); err != nil {
		return err
	}
	if string(b) != "null" {
		*s = stringOrInt(strconv.FormatInt(int64(n), 10))
	}
	return nil
}
