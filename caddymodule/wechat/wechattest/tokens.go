package wechattest

import (
	"encoding/base64"
	"strings"
	"time"
)

const (
	tokenSeconds   = 7200
	classicOverlap = 5 * time.Minute  // how long two classic tokens work at the same time
	forcedPause    = 30 * time.Second // between two forced refreshes
	forcedDaily    = 20
)

// forced is the quota of stable_token with force_refresh. It is not a call of its own.
const forced Call = "stable_token forced"

// accessToken is one token. A revoked token is answered with 40001, an expired one with
// 42001.
type accessToken struct {
	value  string
	appid  string
	ends   time.Time
	killed bool
	// superseded means that a newer classic token ended this one early. The simulator then
	// answers "not latest" rather than expired.
	superseded bool
}

// tokenPair is the newest token of one kind and its predecessor, which may still work
// for a while. An app's stable and classic tokens are two pairs, and neither kind
// affects the other.
type tokenPair struct{ current, previous *accessToken }

func (p *tokenPair) replace(t *accessToken) {
	p.previous.kill()
	p.previous, p.current = p.current, t
}

func (p *tokenPair) kill() {
	p.current.kill()
	p.previous.kill()
	*p = tokenPair{}
}

func (t *accessToken) kill() {
	if t != nil {
		t.killed = true
	}
}

func (a *appState) tokenLife() time.Duration {
	if a.TokenSeconds > 0 {
		return time.Duration(a.TokenSeconds) * time.Second
	}
	return tokenSeconds * time.Second
}

func (s *Simulator) newToken(app *appState) *accessToken {
	// The value has the longest length that WeChat reserves for tokens, which reveals a buffer
	// that is too short.
	value := "80_" + base64.RawURLEncoding.EncodeToString(randomBytes(384))[:509]
	t := &accessToken{value: value, appid: app.ID, ends: s.now().Add(app.tokenLife())}
	s.tokens[value] = t
	s.keepSecret(value)
	return t
}

// stableToken returns the app's stable token, and replaces it first if little of its
// life remains. The former token works until its own end.
func (s *Simulator) stableToken(app *appState) *accessToken {
	lead := app.tokenLife() / 24
	if t := app.stable.current; t == nil || t.ends.Sub(s.now()) <= lead {
		app.stable.replace(s.newToken(app))
	}
	return app.stable.current
}

// forcedToken replaces the app's stable token, which is revoked at once.
func (s *Simulator) forcedToken(app *appState) (*accessToken, int) {
	now := s.now()
	if !app.lastForced.IsZero() && now.Sub(app.lastForced) < forcedPause {
		return nil, 45011
	}
	today := app.usage(quota{forced, 24 * time.Hour}, now)
	if today.calls >= forcedDaily {
		return nil, 45009
	}
	today.calls++
	app.lastForced = now
	app.stable.kill()
	app.stable.current = s.newToken(app)
	return app.stable.current, 0
}

// classicToken makes a new classic token. The previous one works for at most five more
// minutes, and the one before that stops working at once.
func (s *Simulator) classicToken(app *appState) *accessToken {
	if t := app.classic.current; t != nil {
		if end := s.now().Add(classicOverlap); end.Before(t.ends) {
			t.ends = end
			t.superseded = true
		}
	}
	app.classic.replace(s.newToken(app))
	return app.classic.current
}

// tokenApp returns the app to which an access token belongs, or an errcode.
func (s *Simulator) tokenApp(value string) (*appState, int) {
	t := s.tokens[value]
	switch {
	case !strings.HasPrefix(value, "80_") || len(value) != 512:
		return nil, 40014
	case t == nil, t.killed:
		return nil, 40001
	case !s.now().Before(t.ends):
		if t.superseded {
			return nil, 40001
		}
		return nil, 42001
	}
	return s.apps[t.appid], 0
}

// RevokeTokens revokes all access tokens of an app, as when its secret is reset.
// Clients learn it from 40001, and the next token call makes a new token.
func (s *Simulator) RevokeTokens(appid string) error {
	return s.alterTokens(appid, func(app *appState) {
		app.stable.kill()
		app.classic.kill()
	})
}

// RotateTokens does what another program with the same credentials may do at any time:
// it replaces the stable token as force_refresh would (at once) and the classic token
// as cgi-bin/token would (with the overlap). No quota is charged.
func (s *Simulator) RotateTokens(appid string) error {
	return s.alterTokens(appid, func(app *appState) {
		app.stable.kill()
		app.stable.current = s.newToken(app)
		s.classicToken(app)
	})
}

func (s *Simulator) alterTokens(appid string, alter func(*appState)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, err := s.app(appid)
	if err != nil {
		return err
	}
	alter(app)
	return nil
}
