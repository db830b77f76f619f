package wechattest

import (
	"encoding/base64"
	"strings"
	"time"
)

const (
	tokenSeconds   = 7200
	classicOverlap = 5 * time.Minute  // bounds the time in which two classic tokens work
	forcedPause    = 30 * time.Second // between two forced refreshes
	forcedDaily    = 20
)

// forced is the quota of stable_token with force_refresh, which is not a separate call.
const forced Call = "stable_token forced"

// accessToken is one token. WeChat answers 40001 to a killed token and 42001 to an
// expired one.
type accessToken struct {
	value  string
	appid  string
	ends   time.Time
	killed bool
	// superseded reports that a newer classic token made the end earlier. After that
	// end, the token is "not latest" rather than expired.
	superseded bool
}

// tokenPair is the newest token of one kind and its predecessor, which may still work
// for a while. An app has one pair of stable and one pair of classic tokens, which do
// not affect each other.
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
	// The length that WeChat reserves for tokens, so that a test detects a shorter
	// buffer.
	value := "80_" + base64.RawURLEncoding.EncodeToString(randomBytes(384))[:509]
	t := &accessToken{value: value, appid: app.ID, ends: s.now().Add(app.tokenLife())}
	s.tokens[value] = t
	s.keepSecret(value)
	return t
}

// stableToken returns the app's stable token. It rotates the token near its end; the
// former token works until its own end.
func (s *Simulator) stableToken(app *appState) *accessToken {
	lead := app.tokenLife() / 24
	if t := app.stable.current; t == nil || t.ends.Sub(s.now()) <= lead {
		app.stable.replace(s.newToken(app))
	}
	return app.stable.current
}

// forcedToken replaces the app's stable token and invalidates the former one for
// everybody.
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

// classicToken returns a new classic token. The previous token works for at most five
// more minutes, and the one before it no longer.
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

// tokenApp returns the app of an access token, or an errcode.
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

// RevokeTokens invalidates all access tokens of an app, as a reset of its secret does.
// Clients get 40001, and the next token call creates a new token.
func (s *Simulator) RevokeTokens(appid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, err := s.app(appid)
	if err != nil {
		return err
	}
	app.stable.kill()
	app.classic.kill()
	return nil
}

// RotateTokens simulates another program with the same credentials. It replaces the
// stable token like force_refresh, at once, and the classic token like cgi-bin/token,
// with the overlap. No quota is charged.
func (s *Simulator) RotateTokens(appid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, err := s.app(appid)
	if err != nil {
		return err
	}
	app.stable.kill()
	app.stable.current = s.newToken(app)
	s.classicToken(app)
	return nil
}
