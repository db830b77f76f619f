package caddymodule

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/gate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// settings is what a Handler's configuration means: placeholders replaced,
// defaults filled in, everything checked. It holds secrets, so it stays out of
// exported fields.
type settings struct {
	// Apps are in the order of the configuration; at least one.
	Apps []wechat.App
	// Pushes read what WeChat pushes, by appid.
	Pushes map[string]*wechat.PushReceiver
	// Service is the service key; nil: none.
	Service *serviceKey
	// Endpoints is the prefix, without a slash at its end.
	Endpoints        string
	Public, Optional []gate.Rule
	Store            storeSettings
	// EncryptionKeys is nil where none is given: SQLite generates one.
	EncryptionKeys *store.Keys
	Register       bool
	// Countries are the calling codes of who may register; none: all.
	Countries []string
	// Silent is how old a phone login may be for a silent one; zero: never.
	Silent       time.Duration
	NewOpenID    user.NewOpenID
	Token        tokenSettings
	Session      sessionSettings
	Headers      []gate.Header
	ForwardToken bool
	Sources      gate.Sources
	LoginRate    ratelimit.Rate
	WeChat       wechatSettings
}

type storeSettings struct {
	// URL is one spelling for one database: the path of a file is absolute.
	URL         string
	TablePrefix string
	Migrate     bool
}

type tokenSettings struct {
	Issuer    string
	Audience  []string
	Algorithm token.Algorithm
	// Static is the configured key; nil: keys are generated and rotated.
	Static                   *token.KeySet
	Rotate, Lifetime, Leeway time.Duration
	Type                     string
	Claims                   []string
}

type sessionSettings struct {
	Idle, Lifetime, Grace time.Duration
	Max                   int
}

type wechatSettings struct {
	APIs []string
	// Realm names a WeChat that is not WeChat's own; empty: by its first host.
	Realm string
	// AppAPIs are those of the apps that have their own, by appid.
	AppAPIs map[string][]string
	// AccessToken is "stable", "classic" or "external"; External is the URL of
	// the last.
	AccessToken, External string
	SendOpenID            bool
	Timeout               time.Duration
}

const (
	day = 24 * time.Hour

	defaultEndpoints   = "/auth/wx"
	defaultTablePrefix = "wx_auth_"
	defaultSilent      = 90 * day
)

// settingError is a setting that cannot be meant. Its place leads to the line
// of the Caddyfile, if there is one.
type settingError struct {
	place place
	err   error
}

// place is where a setting stands: a subdirective's name, with its block's in
// front, and which one it is of those that may be given again.
type place struct {
	name  string
	index int
}

// Error is the setting's name and what to write instead.
func (e *settingError) Error() string {
	text := e.err.Error()
	if strings.HasPrefix(text, e.place.name) {
		return text // whoever checked it has named it
	}
	return e.place.name + ": " + text
}

// Unwrap returns the cause.
func (e *settingError) Unwrap() error { return e.err }

func misset(name string, err error) error { return missetAt(name, 0, err) }

func missetAt(name string, index int, err error) error {
	if err == nil {
		return nil
	}
	return &settingError{place{name, index}, err}
}

// settings works out what a configuration means, with the environment and the
// files of this machine. It does no other I/O. Errors name the setting and what
// to write instead, and hold no secret.
func (h *Handler) settings() (settings, error) { return resolve(h, atProvision) }

// resolve does this with any lookup. Where a value is not known, what depends
// on it is neither checked nor set.
func resolve(h *Handler, look lookup) (settings, error) {
	s := settings{
		Register: h.Register == nil || *h.Register, ForwardToken: h.ForwardToken,
		NewOpenID: user.Replace, Endpoints: defaultEndpoints,
	}
	for _, part := range []func(*Handler, lookup) error{
		s.resolveApps, s.resolvePaths, s.resolveStore, s.resolveUsers, s.resolveLogin,
		s.resolveToken, s.resolveSession, s.resolveIdentity, s.resolveCredentials, s.resolveWeChat, s.resolveService,
	} {
		if err := part(h, look); err != nil {
			return settings{}, err
		}
	}
	return s, nil
}

// resolveStore is about store and encryption_key.
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
	kind, _, _ := strings.Cut(url, ":")
	server := kind == "postgres" || kind == "postgresql" || kind == "mysql"
	if server && len(h.EncryptionKeys) == 0 {
		return misset("store", fmt.Errorf("%s needs encryption_key, as personal data is sealed before it leaves: "+
			"encryption_key {env.WX_AUTH_KEY}, with what `openssl rand -base64 32` prints", kind))
	}
	if known {
		if s.Store.URL, err = oneSpelling(url); err != nil {
			return misset("store", err)
		}
		// Only parses: nothing is opened.
		if _, err := store.New(s.Store.URL, store.Options{Prefix: s.Store.TablePrefix}); err != nil {
			return misset("store", err)
		}
	}
	return s.resolveKeys(h, look)
}

// checkTablePrefix asks the store, whatever database it is for.
func checkTablePrefix(prefix string) error {
	if err := noPlaceholder(prefix); err != nil {
		return err
	}
	_, err := store.New("sqlite:/any", store.Options{Prefix: prefix})
	return err
}

// oneSpelling makes the path of an SQLite file absolute, and drops PostgreSQL's
// longer scheme: what is shared by all who use one database must be found by one
// name. Two names for one server are as good as two replicas.
func oneSpelling(url string) (string, error) {
	if rest, ok := strings.CutPrefix(url, "postgresql:"); ok {
		return "postgres:" + rest, nil
	}
	path, ok := strings.CutPrefix(url, "sqlite:")
	if !ok {
		return url, nil
	}
	path = strings.TrimPrefix(path, "//")
	if path == "" || strings.HasSuffix(path, "/") || strings.HasPrefix(path, ":") || strings.HasPrefix(path, "file:") {
		return url, nil // refused by the store, in its words
	}
	if strings.HasPrefix(path, "~") {
		return "", errors.New("~ means nothing here: write the whole path, sqlite:/var/lib/…")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return "sqlite:" + abs, nil
}

func (s *settings) resolveKeys(h *Handler, look lookup) error {
	if len(h.EncryptionKeys) == 0 {
		return nil
	}
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
	// While adapting, the keys that are written out are at least good for
	// themselves.
	parsed, err := store.ParseKeys(keys[0], keys[1:]...)
	if err != nil {
		return misset("encryption_key", err)
	}
	s.EncryptionKeys = parsed
	return nil
}

// resolveLogin is about who may log in, and how often they may try.
func (s *settings) resolveLogin(h *Handler, _ lookup) error {
	if err := s.resolveCountries(h); err != nil {
		return misset("countries", err)
	}
	s.Silent = defaultSilent
	if set := h.SilentLogin; set != nil {
		switch {
		case set.Off && set.MaxAge != 0:
			return misset("silent_login", errors.New("it is off and has a max age: keep one of them"))
		case set.Off:
			s.Silent = 0
		case set.MaxAge < 0:
			return misset("silent_login", errors.New("the max age must be over zero; to turn it off write: silent_login off"))
		case set.MaxAge != 0:
			s.Silent = time.Duration(set.MaxAge)
		}
	}
	if h.OnNewOpenID != "" {
		if err := noPlaceholder(h.OnNewOpenID); err != nil {
			return misset("on_new_openid", err)
		}
		s.NewOpenID = user.NewOpenID(h.OnNewOpenID)
		if !s.NewOpenID.Valid() {
			return misset("on_new_openid", fmt.Errorf("unknown rule %q: use replace, keep or deny", h.OnNewOpenID))
		}
	}
	s.LoginRate = ratelimit.Rate{Count: 30, Per: time.Minute}
	if set := h.LoginRate; set != nil {
		s.LoginRate = ratelimit.Rate{Count: set.Count, Per: time.Duration(set.Per)}
		if err := checkRate(s.LoginRate); err != nil {
			return misset("login_rate", err)
		}
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
			return fmt.Errorf("%q is no country calling code: write 86 for mainland China, 852 for Hong Kong, 1 for North America", code)
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
