package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

const (
	defaultIssuer          = "wx-auth"
	defaultRotate          = 90 * day
	defaultLifetime        = time.Hour
	defaultLeeway          = 10 * time.Second
	defaultIdle            = 30 * day
	defaultSessionLifetime = 180 * day
	defaultGrace           = time.Minute
	defaultMax             = 20

	// leastRotate leaves time for the ten minutes in which a new key is published before it
	// signs.
	leastRotate = time.Hour
	// mostTime is the longest duration that is accepted: a hundred years. A longer one is a
	// mistake.
	mostTime = 100 * 365 * day
	// mostSessions bounds the live sessions of a user in an app, and thereby the length of the
	// user's list of sessions.
	mostSessions = 1000
	// mostAudiences is how many audiences a token can carry, and mostAudience is how many bytes
	// they have in all. With more, a token with large claims would not fit into a header, and
	// each login would fail after WeChat has been paid for the number.
	mostAudiences = 32
	mostAudience  = 1 << 10
)

// tokenSettings are the resolved settings of the block token.
type tokenSettings struct {
	token.Policy
	Algorithm token.Algorithm
	// Static is the configured key, or nil if keys are generated and rotated.
	Static           *token.KeySet
	Rotate, Lifetime time.Duration
	Claims           []string
}

// ring returns the settings that this site needs of its ring of generated keys.
func (t tokenSettings) ring() token.RingSettings {
	return token.RingSettings{Algorithm: t.Algorithm, Rotate: t.Rotate, Lifetime: t.Lifetime, Leeway: t.Leeway}
}

// shareRing merges another site's settings into the settings of the key ring that they share.
func shareRing(all *token.RingSettings, own token.RingSettings) {
	all.Rotate = min(all.Rotate, own.Rotate)
	all.Lifetime, all.Leeway = max(all.Lifetime, own.Lifetime), max(all.Leeway, own.Leeway)
}

// resolveToken resolves the block token.
func (s *settings) resolveToken(h *Handler, look lookup) error {
	set := Token{}
	if h.Token != nil {
		set = *h.Token
	}
	t := &s.Token
	for _, a := range s.Apps {
		t.Apps = append(t.Apps, a.ID)
	}
	if err := t.resolvePolicy(set, look); err != nil {
		return err
	}
	if err := t.resolveClaims(set.Claims); err != nil {
		return misset("token claims", err)
	}
	err := noPlaceholder(set.Algorithm)
	if err == nil {
		t.Algorithm, err = token.ParseAlgorithm(set.Algorithm)
	}
	if err != nil {
		return misset("token algorithm", err)
	}
	if err := t.resolveKey(set, look); err != nil {
		return err
	}
	return t.resolveTimes(set)
}

func (t *tokenSettings) resolveTimes(set Token) (err error) {
	if t.Rotate, err = span(set.Rotate, defaultRotate, 0); err != nil {
		return misset("token rotate", err)
	}
	if t.Rotate < leastRotate {
		return misset("token rotate", fmt.Errorf("%s is too short for a key to be known everywhere before it signs: use 1h or more, such as 90d", written(t.Rotate)))
	}
	if t.Lifetime, err = span(set.Lifetime, defaultLifetime, 0); err == nil {
		err = wholeSeconds(t.Lifetime)
	}
	if err != nil {
		return misset("token lifetime", err)
	}
	t.Leeway = min(defaultLeeway, t.Lifetime)
	if set.Leeway != nil {
		if t.Leeway, err = span(*set.Leeway, 0, 0); err == nil {
			err = wholeSeconds(t.Leeway)
		}
	}
	if err != nil {
		return misset("token leeway", err)
	}
	return t.checkLeeway()
}

func (t *tokenSettings) checkLeeway() error {
	if t.Leeway <= t.Lifetime {
		return nil
	}
	return misset("token leeway", fmt.Errorf("%s is more than the token's lifetime of %s: use a few seconds, such as %s",
		written(t.Leeway), written(t.Lifetime), written(min(2*time.Second, t.Lifetime))))
}

// resolvePolicy resolves what verifiers compare: issuer, audience and type.
func (t *tokenSettings) resolvePolicy(set Token, look lookup) (err error) {
	if t.Issuer, _, err = look.name(cmp.Or(set.Issuer, defaultIssuer)); err != nil {
		return misset("token issuer", err)
	}
	size := 0
	for _, raw := range set.Audience {
		name, known, err := look.name(raw)
		if known {
			size += len(name)
		}
		switch {
		case err != nil:
		case slices.Contains(t.Audience, name):
			err = fmt.Errorf("%q is given twice: keep one of them", raw)
		case len(t.Audience) == mostAudiences || size > mostAudience:
			err = fmt.Errorf("at most %d audiences, with %d characters in all, fit into a token", mostAudiences, mostAudience)
		}
		if err != nil {
			return misset("token audience", err)
		}
		t.Audience = append(t.Audience, name)
	}
	if len(t.Audience) == 0 {
		t.Audience = []string{t.Issuer}
	}
	if err := noPlaceholder(set.Type); err != nil {
		return misset("token type", err)
	}
	t.Type = cmp.Or(set.Type, token.TypeAccessToken)
	if t.Type != token.TypeAccessToken && t.Type != token.TypeJWT {
		return misset("token type", fmt.Errorf("unknown type %q: use at+jwt or JWT", set.Type))
	}
	return nil
}

func (t *tokenSettings) resolveClaims(names []string) error {
	for i, name := range names {
		err := noPlaceholder(name)
		switch {
		case err != nil:
		case token.Reserved(name):
			err = fmt.Errorf("%q has a meaning of its own in the token and cannot be set: choose another name in your directory", name)
		case slices.Contains(names[:i], name):
			err = fmt.Errorf("%q is given twice: keep one of them", name)
		case !isName(name):
			err = errNoName(name)
		}
		if err != nil {
			return err
		}
	}
	t.Claims = slices.Clone(names)
	return nil
}

// name replaces the placeholders of a name in a token. Its errors hold the text as it is written,
// because a placeholder may stand for a secret by mistake.
func (look lookup) name(raw string) (name string, known bool, err error) {
	name, known, err = look(raw, syntax{})
	if err == nil && known && !isName(name) {
		err = errNoName(raw)
	}
	return name, known, err
}

func isName(name string) bool {
	return name != "" && len(name) <= 256 && !strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' })
}

func errNoName(raw string) error {
	return fmt.Errorf("%.80q is not a name: use 1 to 256 visible ASCII characters", raw)
}

// resolveKey resolves a key that is configured instead of generated.
func (t *tokenSettings) resolveKey(set Token, look lookup) error {
	if set.Key == "" {
		return nil
	}
	if set.Rotate != 0 {
		return misset("token rotate", errors.New("only generated keys are rotated: remove rotate or key"))
	}
	material, known, err := look(set.Key, syntax{lax: true})
	if err == nil && known {
		t.Static, err = token.StaticKeys(material, t.Algorithm)
	}
	return misset("token key", err)
}

// resolveSession resolves the block session and checks its durations against those of the
// tokens.
func (s *settings) resolveSession(h *Handler, _ lookup) error {
	if err := s.resolveSessionTimes(h); err != nil {
		return err
	}
	s.Session.TokenLife = s.Token.Lifetime + s.Token.Leeway
	return nil
}

func (s *settings) resolveSessionTimes(h *Handler) error {
	set := Session{}
	if h.Session != nil {
		set = *h.Session
	}
	var err error
	t := &s.Session
	if t.Lifetime, err = span(set.Lifetime, defaultSessionLifetime, time.Second); err != nil {
		return misset("session lifetime", err)
	}
	if t.Idle, err = span(set.Idle, min(defaultIdle, t.Lifetime), time.Second); err != nil {
		return misset("session idle", err)
	}
	if t.Grace, err = span(set.Grace, min(defaultGrace, t.Idle), time.Millisecond); err != nil {
		return misset("session grace", err)
	}
	t.Max = defaultMax
	if set.Max != nil {
		t.Max = *set.Max
	}
	if t.Max < 1 || t.Max > mostSessions {
		return misset("session max", fmt.Errorf("%d is not a number of sessions: use 1 to %d, such as %d; leave the line out for %d", t.Max, mostSessions, defaultMax, defaultMax))
	}
	switch {
	case t.Idle > t.Lifetime:
		return misset("session idle", fmt.Errorf("%s is more than the session's lifetime of %s: lower idle or raise lifetime", written(t.Idle), written(t.Lifetime)))
	case t.Grace > t.Idle:
		return misset("session grace", fmt.Errorf("%s is more than the session's idle time of %s: use at most %s", written(t.Grace), written(t.Idle), written(t.Idle)))
	}
	// A client that refreshes only when its token has expired must still find its session
	// open. Idle is never more than lifetime, so comparing with idle is enough.
	if s.Token.Lifetime > t.Idle {
		if h.Token == nil || h.Token.Lifetime == 0 {
			s.Token.Lifetime = max(time.Second, t.Idle.Truncate(time.Second))
			if h.Token == nil || h.Token.Leeway == nil {
				s.Token.Leeway = min(s.Token.Leeway, s.Token.Lifetime)
			}
			return s.Token.checkLeeway()
		}
		return misset("token lifetime", fmt.Errorf("tokens that are good for %s outlive a session that ends after %s without a refresh: lower the token's lifetime or raise the session's times",
			written(s.Token.Lifetime), written(t.Idle)))
	}
	return nil
}

// span returns the duration that is set, or its default. A duration below least is refused: in
// JSON a number without a unit is nanoseconds, which nobody means.
func span(set caddy.Duration, otherwise, least time.Duration) (time.Duration, error) {
	d := time.Duration(set)
	switch {
	case d == 0:
		return otherwise, nil
	case d < 0:
		return 0, fmt.Errorf("%s is negative: use a time such as %s", written(d), written(otherwise))
	case d < least:
		return 0, fmt.Errorf("%s is too short: use %s or more, such as %s; in JSON write a unit, as in \"90s\"", written(d), written(least), written(otherwise))
	case d > mostTime:
		return 0, fmt.Errorf("%s is more than a hundred years: use a time such as %s", written(d), written(otherwise))
	}
	return d, nil
}

// wholeSeconds refuses fractions of a second, which a token's times do not have.
func wholeSeconds(d time.Duration) error {
	if d%time.Second != 0 {
		return fmt.Errorf("%s is not in whole seconds, as a token's times are: use 1s, 2s, …", written(d))
	}
	return nil
}

// written formats a duration as a Caddyfile has it: 30d, not 720h0m0s.
func written(d time.Duration) string {
	if d != 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
