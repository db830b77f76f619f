package token

import (
	"encoding/json"
	"maps"
	"time"
)

// Identity is the caller as a valid token describes it. It never changes: all requests
// that present the token share it. It is kept small, because the cache holds one for
// each token: all fields are slices of one string.
type Identity struct {
	text    string             // the fields, one after the other
	ends    [textFields]uint16 // the end of each field in text
	test    bool               // the token belongs to a test login
	appID   *string            // shared by all tokens of an app
	expires int64              // seconds since 1970
	auth    int64              // seconds since 1970; 0: unknown
	claims  map[string]any     // nil in most tokens
}

// The fields that each identity stores in its own text, in their order.
const (
	fieldSubject = iota
	fieldSessionID
	fieldOpenID
	fieldUnionID
	fieldPhone
	textFields
)

// Subject returns the user's id.
func (i *Identity) Subject() string { return i.text[:i.ends[fieldSubject]] }

// SessionID returns the id of the session that the token was minted for.
func (i *Identity) SessionID() string { return i.field(fieldSessionID) }

// AppID returns the appid of the mini program that the user logged in with.
func (i *Identity) AppID() string { return *i.appID }

// OpenID returns the user's openid in that mini program.
func (i *Identity) OpenID() string { return i.field(fieldOpenID) }

// UnionID returns the user's unionid. It is empty if WeChat returned none.
func (i *Identity) UnionID() string { return i.field(fieldUnionID) }

// Phone returns the user's number in E.164. It is empty if the user has none.
func (i *Identity) Phone() string { return i.field(fieldPhone) }

// Expires returns the expiry time of the token, in whole seconds.
func (i *Identity) Expires() time.Time { return time.Unix(i.expires, 0).UTC() }

// AuthTime returns when the openid last logged in with a phone number, in whole seconds.
// It is zero if the token does not say.
func (i *Identity) AuthTime() time.Time {
	if i.auth == 0 {
		return time.Time{}
	}
	return time.Unix(i.auth, 0).UTC()
}

// Test reports whether the token belongs to a test login.
func (i *Identity) Test() bool { return i.test }

// Claim returns one of the directory's claims, or a plain claim if the directory sent
// none of that name, or nil if there is neither. The value of a verified token's claim
// is a string, a bool, a json.Number, nil, or a []any or map[string]any of these. It
// must not be changed.
func (i *Identity) Claim(name string) any { return i.claims[name] }

func (i *Identity) field(f int) string { return i.text[i.ends[f-1]:i.ends[f]] }

// Identity returns the identity of a token minted from c.
func (c *Claims) Identity() Identity {
	i := Identity{appID: &c.AppID, expires: c.Expires.Unix(), claims: merge(c.Extra, c.Plain), test: c.Test != ""}
	if !c.AuthTime.IsZero() {
		i.auth = c.AuthTime.Unix()
	}
	pack(&i, [textFields]string{c.Subject, c.SessionID, c.OpenID, c.UnionID, c.Phone})
	return i
}

// pack stores the fields of i in one piece of memory. The fields are parts of a token,
// or will become such; a field longer than a token is cut.
func pack[T string | []byte](i *Identity, fields [textFields]T) {
	size := 0
	for f := range fields {
		fields[f] = fields[f][:min(len(fields[f]), MaxSize)]
		size += len(fields[f])
		i.ends[f] = uint16(size)
	}
	var buf [256]byte // large enough for most tokens
	text := buf[:0]
	for f := range fields {
		text = append(text, fields[f]...)
	}
	i.text = string(text)
}

// merge combines both sets of claims. The directory's claims override plain claims of
// the same name.
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

// footprint returns the approximate memory that i refers to, in bytes, without i
// itself.
func (i *Identity) footprint() int { return len(i.text) + mapFootprint(i.claims) }

func mapFootprint(m map[string]any) int {
	if m == nil {
		return 0
	}
	n := 48 // the map itself; on average, two thirds of its slots are full
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
