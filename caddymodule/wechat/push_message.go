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

// PushMessage is a message that WeChat has pushed: what an event about an account
// has of it.
type PushMessage struct {
	// Event is the name of the event; empty for messages that are none.
	Event string
	// OpenID is the user in this app whom an event about an account is about;
	// empty in others.
	OpenID string
	// CreatedAt is when WeChat made it.
	CreatedAt time.Time
	// RevokeInfo says which authorization was taken back: "8" is the phone number.
	RevokeInfo string
	// PluginID is the plugin that the authorization was given to; empty: the app.
	PluginID string
}

// The events about accounts, and what was taken back.
//
// https://developers.weixin.qq.com/miniprogram/dev/server/event_push/platform/authorized_user_information_changes
const (
	EventRevoke       = "user_authorization_revoke"
	EventCancellation = "user_authorization_cancellation"
	RevokedPhone      = "8"
)

// Leaves reports whether the user has left: their account is gone, or they have
// taken back what they had allowed this app, the phone number.
func (m PushMessage) Leaves() bool {
	if m.PluginID != "" {
		return false
	}
	switch m.Event {
	case EventCancellation:
		return true
	case EventRevoke:
		// One number by the documentation; several with commas would be no surprise.
		for _, what := range strings.Split(m.RevokeInfo, ",") {
			if strings.TrimSpace(what) == RevokedPhone {
				return true
			}
		}
	}
	return false
}

// message reads the decrypted text. Who is told to have left must be named.
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

// members reads the texts and numbers of a flat JSON object, or of the elements
// right below an XML document's root. The first of a name counts. Blanks around
// names and values go: WeChat's own examples have some. Others are passed over.
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

// maxXMLDepth is more than any of WeChat's messages has.
const maxXMLDepth = 16

// xmlMembers takes no document type: there entities are declared, with which a
// small document becomes a large one. (This reader knows none anyway.)
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
