package wechat

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"
)

// PushMessage is a pushed message, reduced to the fields of an event about an account.
type PushMessage struct {
	// Event is the name of the event. It is empty for other messages.
	Event string
	// OpenID identifies the user of an event about an account, in this app. It is empty
	// for other events.
	OpenID string
	// CreatedAt is the time at which WeChat created the message.
	CreatedAt time.Time
	// RevokeInfo lists the revoked authorizations: "8" is the phone number.
	RevokeInfo string
	// PluginID is the plugin whose authorization was revoked; empty means the app
	// itself.
	PluginID string
}

// These are the events about accounts, and the authorization that matters here.
//
// https://developers.weixin.qq.com/miniprogram/dev/server/event_push/platform/authorized_user_information_changes
const (
	EventRevoke       = "user_authorization_revoke"
	EventCancellation = "user_authorization_cancellation"
	RevokedPhone      = "8"
)

// Leaves reports whether the user has left: the WeChat account was cancelled, or the
// user has revoked this app's authorization for the phone number.
func (m PushMessage) Leaves() bool {
	if m.PluginID != "" {
		return false
	}
	switch m.Event {
	case EventCancellation:
		return true
	case EventRevoke:
		// The documentation has one number. Several numbers with commas between them
		// are accepted, too.
		for _, what := range strings.Split(m.RevokeInfo, ",") {
			if strings.TrimSpace(what) == RevokedPhone {
				return true
			}
		}
	}
	return false
}

// message parses the decrypted text. An event that makes a user leave must name the
// user.
func (p *PushReceiver) message(text []byte) (PushMessage, error) {
	all, ok := members(text)
	if !ok {
		return PushMessage{}, ErrPushForm
	}
	if id := all["AppID"]; id != "" && id != p.appid {
		return PushMessage{}, ErrPushApp
	}
	m := PushMessage{OpenID: all["OpenID"], RevokeInfo: all["RevokeInfo"], PluginID: all["PluginID"]}
	if strings.EqualFold(all["MsgType"], "event") {
		m.Event = all["Event"]
	}
	seconds, err := strconv.ParseInt(all["CreateTime"], 10, 40)
	if err == nil {
		m.CreatedAt = time.Unix(seconds, 0)
	}
	if m.Leaves() && (err != nil || !printable(m.OpenID, 128)) {
		return PushMessage{}, ErrPushForm
	}
	return m, nil
}

// members returns the texts and numbers of a flat JSON object, or of the elements
// directly below an XML document's root. Members of other types are ignored, and the
// first of several members with one name counts. Blanks around names and values are
// removed, because WeChat's own examples have some.
func members(body []byte) (map[string]string, bool) {
	body = bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")))
	if len(body) > 0 && body[0] == '<' {
		return xmlMembers(body)
	}
	return jsonMembers(clean(body))
}

func jsonMembers(body []byte) (map[string]string, bool) {
	if !json.Valid(body) {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, false
	}
	all := make(map[string]string)
	for d.More() {
		name, err := d.Token()
		var raw json.RawMessage
		if err != nil || d.Decode(&raw) != nil {
			return nil, false
		}
		value := string(raw)
		switch c := raw[0]; {
		case c == '"':
			if json.Unmarshal(raw, &value) != nil {
				return nil, false
			}
		case c != '-' && (c < '0' || c > '9'):
			continue
		}
		keepFirst(all, name.(string), value)
	}
	return all, true
}

// maxXMLDepth bounds the nesting of elements. WeChat's messages stay far below it.
const maxXMLDepth = 16

// xmlMembers refuses a document type, because it can declare entities that expand a small
// document to a huge one. (This parser expands none in any case.)
func xmlMembers(body []byte) (map[string]string, bool) {
	d := xml.NewDecoder(bytes.NewReader(body))
	all := make(map[string]string)
	var path []string
	var text strings.Builder
	for roots := 0; ; {
		t, err := d.RawToken()
		if err != nil {
			return all, errors.Is(err, io.EOF) && roots == 1 && len(path) == 0
		}
		switch t := t.(type) {
		case xml.StartElement:
			if len(path) == 0 {
				roots++
			}
			if path = append(path, t.Name.Local); len(path) > maxXMLDepth {
				return nil, false
			}
			text.Reset()
		case xml.CharData:
			if len(path) == 2 {
				text.Write(t)
			} else if len(path) == 0 && len(bytes.TrimSpace(t)) > 0 {
				return nil, false
			}
		case xml.EndElement:
			if len(path) == 0 || path[len(path)-1] != t.Name.Local {
				return nil, false
			}
			if len(path) == 2 {
				keepFirst(all, t.Name.Local, text.String())
			}
			path = path[:len(path)-1]
		case xml.Directive:
			return nil, false
		}
	}
}

func keepFirst(all map[string]string, name, value string) {
	name = strings.TrimSpace(name)
	if _, known := all[name]; !known {
		all[name] = strings.TrimSpace(value)
	}
}
