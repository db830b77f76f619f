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
	if strings.HasPrefix(prefix, "sqlite_") {
		return errors.New("SQLite keeps names that begin with sqlite_ for itself: use another prefix, such as shop_")
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
		default:
			var err error
			if s.Login.Silent, err = span(set.MaxAge, defaultSilent, gate.LeastAge); err != nil {
				return misset("silent_login", err)
			}
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
