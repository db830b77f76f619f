package token

import (
	"encoding/json"
	"maps"
	"time"
)

// Identity is what a good token says of its caller. It never changes: all
// requests that show the token share it. It is small, as the cache holds one for
// each token: the fields are cut from one string.
type Identity struct {
	text    string             // the fields, one behind the other
	ends    [textFields]uint16 // where each of them ends
	appID   *string            // one for all tokens of an app
	expires int64              // seconds since 1970
	claims  map[string]any     // nil for most
}

// The fields of an identity that are its own, in their order.
const (
	fieldSubject = iota
	fieldSessionID
	fieldOpenID
	fieldUnionID
	fieldPhone
	textFields
)

// Subject is the user's id.
func (i *Identity) Subject() string { return i.text[:i.ends[fieldSubject]] }

// SessionID is the session that the token was minted for.
func (i *Identity) SessionID() string { return i.field(fieldSessionID) }

// AppID is the mini program that the user logged in with.
func (i *Identity) AppID() string { return *i.appID }

// OpenID is the user's openid in that mini program.
func (i *Identity) OpenID() string { return i.field(fieldOpenID) }

// UnionID is empty if WeChat told none.
func (i *Identity) UnionID() string { return i.field(fieldUnionID) }

// Phone is the user's number in E.164; empty if the user has none.
func (i *Identity) Phone() string { return i.field(fieldPhone) }

// Expires is when the token expires, in whole seconds.
func (i *Identity) Expires() time.Time { return time.Unix(i.expires, 0).UTC() }

// Claim is a claim of the directory's, or of those in plain if the directory
// made none of that name; nil if there is none. Of a verified token it is a
// string, a bool, a json.Number, nil, or a []any or map[string]any of these,
// which must not be changed.
func (i *Identity) Claim(name string) any { return i.claims[name] }

func (i *Identity) field(f int) string { return i.text[i.ends[f-1]:i.ends[f]] }

// Identity is what a token that says c says of its caller.
func (c *Claims) Identity() Identity {
	i := Identity{appID: &c.AppID, expires: c.Expires.Unix(), claims: merge(c.Extra, c.Plain)}
	pack(&i, [textFields]string{c.Subject, c.SessionID, c.OpenID, c.UnionID, c.Phone})
	return i
}

// pack gives i its fields, in one piece of memory. They are parts of a token,
// or about to become such: longer ones than fit are cut.
func pack[T string | []byte](i *Identity, fields [textFields]T) {
	size := 0
	for f := range fields {
		fields[f] = fields[f][:min(len(fields[f]), MaxSize)]
		size += len(fields[f])
		i.ends[f] = uint16(size)
	}
	var buf [256]byte // most fit
	text := buf[:0]
	for f := range fields {
		text = append(text, fields[f]...)
	}
	i.text = string(text)
}

// merge puts the directory's claims over those in plain.
func merge(extra, plain map[string]any) map[string]any {
	switch {
	case len(extra) == 0:
		return plain
	case len(plain) == 0:
		return extra
	}
	all := maps.Clone(plain)
	maps.Copy(all, extra)
	return all
}

// footprint is about how much memory i takes beside itself, in bytes.
func (i *Identity) footprint() int { return len(i.text) + mapFootprint(i.claims) }

func mapFootprint(m map[string]any) int {
	if m == nil {
		return 0
	}
	n := 48 // a map; its slots are two thirds full on average
	for name, v := range m {
		n += 48 + len(name) + footprint(v)
	}
	return n + 8*32
}

func footprint(v any) int {
	switch v := v.(type) {
	case string:
		return 16 + len(v)
	case json.Number:
		return 16 + len(v)
	case []any:
		n := 24 + 16*cap(v)
		for _, item := range v {
			n += footprint(item)
		}
		return n
	case map[string]any:
		return mapFootprint(v)
	}
	return 0
}
