package caddymodule

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

type storeSettings struct {
	// URL is the database's URL in one canonical spelling: the path of a file is absolute.
	URL         string
	TablePrefix string
	Migrate     bool
}

const (
	defaultTablePrefix = "wx_auth_"
	defaultSilent      = 90 * day
)

// resolveStore resolves store and encryption_key.
func (s *settings) resolveStore(h *Handler, look lookup) error {
	set := Store{}
	if h.Store != nil {
		set = *h.Store
	}
	s.Store = storeSettings{TablePrefix: set.TablePrefix, Migrate: set.Migrate == nil || *set.Migrate}
	if set.TablePrefix == "" {
		s.Store.TablePrefix = defaultTablePrefix
	} else if err := checkTablePrefix(set.TablePrefix); err != nil {
		return misset("store table_prefix", err)
	}
	if set.URL == "" {
		set.URL = "sqlite:" + filepath.Join(caddy.AppDataDir(), "wx_auth", "wx_auth.db")
	}
	url, known, err := look(set.URL, syntax{})
	if err != nil {
		return misset("store", err)
	}
	if kind := sqldb.KindOf(url); kind.Port != "" && len(h.EncryptionKeys) == 0 {
		return misset("store", fmt.Errorf("%s needs encryption_key, as personal data is sealed before it leaves: "+
			"encryption_key {env.WX_AUTH_KEY}, with what `openssl rand -base64 32` prints", kind.Name))
	}
	if known {
		if s.Store.URL, err = sqldb.Canonical(url); err != nil {
			return misset("store", err)
		}
		// New only parses: it opens nothing.
		if _, err := store.New(s.Store.URL, store.Options{Prefix: s.Store.TablePrefix}); err != nil {
			return misset("store", err)
		}
	}
	return s.resolveKeys(h, look)
}

// checkTablePrefix applies the store's rule, which is the same for every database.
func checkTablePrefix(prefix string) error {
	if err := noPlaceholder(prefix); err != nil {
		return err
	}
	return sqldb.CheckPrefix(prefix)
}

func (s *settings) resolveKeys(h *Handler, look lookup) error {
	keys := make([]string, 0, len(h.EncryptionKeys))
	for _, raw := range h.EncryptionKeys {
		key, known, err := look(raw, syntax{})
		if err != nil {
			return misset("encryption_key", err)
		}
		if known {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	// While a Caddyfile is adapted, only the keys that are written as text can be checked.
	var err error
	s.EncryptionKeys, err = store.ParseKeys(keys[0], keys[1:]...)
	return misset("encryption_key", err)
}

// resolveLogin resolves which users may log in, and how often a client may try.
func (s *settings) resolveLogin(h *Handler, _ lookup) error {
	if err := s.resolveCountries(h); err != nil {
		return misset("countries", err)
	}
	s.Login.Silent, s.Login.NewOpenID = defaultSilent, user.Replace
	if set := h.SilentLogin; set != nil {
		switch {
		case set.Off && set.MaxAge != 0:
			return misset("silent_login", errors.New("it is off and has a max age: keep one of them"))
		case set.Off:
			s.Login.Silent = 0
		case set.MaxAge < 0:
			return misset("silent_login", errors.New("the max age must be greater than zero; to turn it off write: silent_login off"))
		case set.MaxAge != 0:
			s.Login.Silent = time.Duration(set.MaxAge)
		}
	}
	if h.OnNewOpenID != "" {
		if err := noPlaceholder(h.OnNewOpenID); err != nil {
			return misset("on_new_openid", err)
		}
		s.Login.NewOpenID = user.NewOpenID(h.OnNewOpenID)
		if !s.Login.NewOpenID.Valid() {
			return misset("on_new_openid", fmt.Errorf("unknown rule %q: use replace, keep or deny", h.OnNewOpenID))
		}
	}
	s.LoginRate = ratelimit.Rate{Count: 30, Per: time.Minute}
	if set := h.LoginRate; set != nil {
		s.LoginRate = ratelimit.Rate{Count: set.Count, Per: time.Duration(set.Per)}
		return misset("login_rate", checkRate(s.LoginRate))
	}
	return nil
}

func (s *settings) resolveCountries(h *Handler) error {
	if len(h.Countries) > 0 && !s.Register {
		return errors.New("register is off, so nobody registers from anywhere: keep one of them")
	}
	for _, code := range h.Countries {
		if err := noPlaceholder(code); err != nil {
			return err
		}
		if !user.ValidCountry(code) {
			return fmt.Errorf("%q is not a country calling code: write 86 for mainland China, 852 for Hong Kong, 1 for North America", code)
		}
	}
	s.Countries = h.Countries
	return nil
}

func checkRate(r ratelimit.Rate) error {
	if r.Count < 1 || r.Count > 1_000_000 || r.Per < time.Second || r.Per > day {
		return errors.New("use a number from 1 to 1000000 in a time from a second to a day, such as 30/m")
	}
	return nil
}

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
	characters := make(map[byte]bool)
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return errors.New("the key holds a space, a line break or another character that no header can carry: use what `openssl rand -hex 32` prints")
		}
		characters[key[i]] = true
	}
	if len(key) < leastServiceKey || len(key) > mostServiceKey || len(characters) < leastCharacters {
		return fmt.Errorf("the key could be guessed: use %d to %d random characters, such as `openssl rand -hex 32` prints", leastServiceKey, mostServiceKey)
	}
	for _, a := range s.Apps {
		if a.Secret == key {
			return errors.New("the key is an AppSecret, which others have: use a key of its own, such as `openssl rand -hex 32` prints")
		}
	}
	return nil
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

// leastTestSecret is the least number of characters of a test login's secret.
const leastTestSecret = 16

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

func checkTestSecret(secret string) error {
	if utf8.RuneCountInString(secret) < leastTestSecret {
		return fmt.Errorf("it could be guessed: use at least %d random characters, such as `openssl rand -hex 16` prints", leastTestSecret)
	}
	return nil
}
