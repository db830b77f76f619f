package caddymodule

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

const (
	// leastServiceKey is the length of what `openssl rand -hex 16` prints. A random key of
	// that length almost never has fewer different characters than leastCharacters.
	leastServiceKey = 32
	leastCharacters = 8
	mostServiceKey  = 512
)

// serviceKey is the hash of the backend's key, so that a comparison takes the same time for
// keys of any length.
type serviceKey [sha256.Size]byte

func (k *serviceKey) is(presented string) bool {
	sum := sha256.Sum256([]byte(presented))
	return subtle.ConstantTimeCompare(k[:], sum[:]) == 1
}

// resolveService resolves service_key.
func (s *settings) resolveService(h *Handler, look lookup) error {
	if h.ServiceKey == "" {
		return nil
	}
	key, known, err := look(h.ServiceKey, syntax{})
	if err != nil || !known {
		return misset("service_key", err)
	}
	if err := s.checkServiceKey(key); err != nil {
		return misset("service_key", err)
	}
	sum := serviceKey(sha256.Sum256([]byte(key)))
	s.Service = &sum
	return nil
}

// checkServiceKey refuses a key that could be guessed, that no header can carry, or that
// others know. Its errors hold no part of the key.
func (s *settings) checkServiceKey(key string) error {
	characters, visible := charactersOf(key)
	if !visible {
		return errors.New("the key holds a space, a line break or another character that no header can carry: use what `openssl rand -hex 32` prints")
	}
	if len(key) < leastServiceKey || len(key) > mostServiceKey || characters < leastCharacters {
		return fmt.Errorf("the key could be guessed: use %d to %d random characters, such as `openssl rand -hex 32` prints", leastServiceKey, mostServiceKey)
	}
	for _, a := range s.Apps {
		if a.Secret == key {
			return errors.New("the key is an AppSecret, which others have: use a key of its own, such as `openssl rand -hex 32` prints")
		}
	}
	return nil
}

// charactersOf returns how many different characters a key has, and whether all of them are
// visible ASCII.
func charactersOf(key string) (n int, visible bool) {
	seen := make(map[rune]bool)
	for _, c := range key {
		if c <= ' ' || c > '~' {
			return 0, false
		}
		seen[c] = true
	}
	return len(seen), true
}

// testLoginSettings are the resolved settings of test_login.
type testLoginSettings struct {
	Secret serviceKey // the hash of the secret
	Phone  user.Phone
	// Until is the end of the last day.
	Until time.Time
}

// whose identifies the secret and the number: test sessions end when either changes.
func (t *testLoginSettings) whose() []byte { return append(t.Secret[:], t.Phone.E164()...) }

// name differs for any two test logins, and is empty without one.
func (t *testLoginSettings) name() string {
	if t == nil {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(append(t.whose(), t.Until.String()...)))
}

// warnExpired warns of a test login whose last day is over: the line can be removed.
func (t *testLoginSettings) warnExpired(log *zap.Logger, now time.Time) {
	if t != nil && !now.Before(t.Until) {
		log.Warn("the date of test_login is over: it logs nobody in",
			zap.String("until", t.Until.AddDate(0, 0, -1).Format(time.DateOnly)), remedy.TestLoginOver.Field("remove the line, or write a later date"))
	}
}

const (
	// leastTestSecret is half of what `openssl rand -hex 16` prints. A random secret of that
	// length never has fewer different characters than leastTestCharacters.
	leastTestSecret     = 16
	leastTestCharacters = 4
	// mostTestSecret leaves the body of a login well below its limit.
	mostTestSecret = 256
)

// resolveTestLogin resolves test_login. A date in the past is no error: a reload must not fail
// because a review is over.
func (s *settings) resolveTestLogin(h *Handler, look lookup) error {
	if h.TestLogin == nil {
		return nil
	}
	t, known := testLoginSettings{}, true
	secret, ok, err := look(h.TestLogin.Secret, syntax{})
	if known = ok; err == nil && ok {
		err = checkTestSecret(secret)
		t.Secret = serviceKey(sha256.Sum256([]byte(secret)))
	}
	if err != nil {
		return misset("test_login", fmt.Errorf("the secret: %w", err))
	}
	phone, ok, err := look(h.TestLogin.Phone, syntax{})
	if known = known && ok; err == nil && ok {
		if t.Phone, err = user.ParsePhone("", phone); err != nil || !strings.HasPrefix(phone, "+") {
			err = errors.New("write it in E.164, such as +8613800138000")
		}
	}
	if err != nil {
		return misset("test_login", fmt.Errorf("the phone number: %w", err))
	}
	if err := noPlaceholder(h.TestLogin.Until); err != nil {
		return misset("test_login", err)
	}
	day, err := time.Parse(time.DateOnly, h.TestLogin.Until)
	if err != nil {
		return misset("test_login", fmt.Errorf("%q is not a date: write the last day, such as 2026-12-31", h.TestLogin.Until))
	}
	t.Until = day.AddDate(0, 0, 1)
	if known {
		s.TestLogin = &t
	}
	return nil
}

// checkTestSecret refuses a secret that could be guessed, or that cannot be typed as it is
// configured. It may be a sentence. Its errors hold no part of the secret.
func checkTestSecret(secret string) error {
	if !utf8.ValidString(secret) || strings.TrimSpace(secret) != secret || strings.ContainsFunc(secret, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return errors.New("it begins or ends with a space, or holds a character that nobody can type: use what `openssl rand -hex 16` prints")
	}
	seen := make(map[rune]bool)
	for _, c := range secret {
		seen[c] = true
	}
	if n := utf8.RuneCountInString(secret); n < leastTestSecret || n > mostTestSecret || len(seen) < leastTestCharacters {
		return fmt.Errorf("it could be guessed: use %d to %d random characters, such as `openssl rand -hex 16` prints", leastTestSecret, mostTestSecret)
	}
	return nil
}

// secret is a secret of the configuration, for [checkOwnSecrets].
type secret struct {
	place
	what, value string
}

// checkOwnSecrets refuses two secrets with the same value: a person that gets one of them has both.
// The secret of a test login must not be an appid either, as appids are public. Placeholders that
// are not replaced yet are compared as they are written.
func (s *settings) checkOwnSecrets(h *Handler, look lookup) error {
	var known []secret
	for i, a := range s.Apps {
		known = append(known, secret{place{"app", i}, "an AppSecret", a.Secret})
	}
	for _, raw := range h.EncryptionKeys {
		known = append(known, secret{place{name: "encryption_key"}, "an encryption_key", raw})
	}
	if h.Token != nil && h.Token.Key != "" {
		known = append(known, secret{place{name: "token key"}, "the key of `token`", h.Token.Key})
	}
	if h.ServiceKey != "" {
		known = append(known, secret{place{name: "service_key"}, "the service_key", h.ServiceKey})
	}
	if h.TestLogin != nil {
		for i, a := range s.Apps {
			known = append(known, secret{place{"app", i}, "an appid", a.ID})
		}
		known = append(known, secret{place{name: "test_login"}, "the secret of test_login", h.TestLogin.Secret})
	}
	first := make(map[string]secret)
	for _, own := range known {
		value, _, err := look(own.value, syntax{lax: true})
		if err != nil {
			return &settingError{own.place, err}
		}
		value = strings.TrimSpace(value)
		if other, same := first[value]; same && other.name != own.name {
			return &settingError{own.place, fmt.Errorf("%s is %s, too: use a value of its own, such as `openssl rand -base64 32` prints", own.what, other.what)}
		}
		first[value] = own
	}
	return nil
}
