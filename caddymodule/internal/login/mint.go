package login

import (
	"maps"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Minter makes the access tokens of one issuer, at login and at refresh.
type Minter struct {
	// Keys returns the current key set.
	Keys func() *token.KeySet
	Seal token.Sealer
	// Type is the header's typ: "at+jwt" or "JWT".
	Type     string
	Issuer   string
	Audience []string
	// Lifetime is how long a token is valid.
	Lifetime time.Duration
	// Plain names what the token contains in plain text: "phone_number", or claims of
	// the directory.
	Plain []string
	// Check refuses claims that no identity header can carry.
	Check func(*token.Claims) error
}

// PhoneClaim is the claim for a phone number in plain text (OpenID Connect Core,
// section 5.1).
const PhoneClaim = "phone_number"

// Expires returns when a token of the session that is minted now expires. A token does
// not outlive its session.
func (m *Minter) Expires(s session.Session, now time.Time) time.Time {
	e := now.Add(m.Lifetime)
	if !s.ExpiresAt.IsZero() && s.ExpiresAt.Before(e) {
		return s.ExpiresAt
	}
	return e
}

// Mint makes the access token of a session.
func (m *Minter) Mint(s session.Session, u user.User, now time.Time) (string, error) {
	c := token.Claims{
		Issuer: m.Issuer, Subject: u.ID, Audience: m.Audience,
		AppID: s.AppID, SessionID: s.ID, OpenID: s.OpenID, UnionID: s.UnionID,
		IssuedAt: now, Expires: m.Expires(s, now), AuthTime: s.AuthAt, Test: s.Test,
		Extra: maps.Clone(u.Claims),
	}
	if !u.Phone.IsZero() {
		c.Phone = u.Phone.E164()
	}
	for _, name := range m.Plain {
		value, ok := u.Claims[name]
		if name == PhoneClaim && c.Phone != "" {
			value, ok = c.Phone, true
		}
		if !ok {
			continue
		}
		if c.Plain == nil {
			c.Plain = make(map[string]any, len(m.Plain))
		}
		c.Plain[name] = value
	}
	if err := m.Check(&c); err != nil {
		return "", err
	}
	return token.Mint(m.Keys(), m.Type, m.Seal, c)
}
