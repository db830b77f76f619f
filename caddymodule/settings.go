package caddymodule

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/gate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/ratelimit"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// settings are the resolved configuration of a Handler: placeholders replaced, defaults filled
// in, everything checked. Settings that another package uses are in that package's own struct.
// They hold secrets, so no exported field may hold them.
type settings struct {
	// Apps are in the order of the configuration; at least one.
	Apps []wechat.App
	// Pushes are the receivers of WeChat's message push, by appid.
	Pushes map[string]*wechat.PushReceiver
	// EraseRevoked are the appids for which a user who withdraws the phone number is erased.
	EraseRevoked []string
	// Service is the service key, or nil without one.
	Service *serviceKey
	// Endpoints is the prefix, without a slash at its end.
	Endpoints string
	Gate      gate.Settings
	Store     storeSettings
	// EncryptionKeys is nil if none is configured: SQLite generates one.
	EncryptionKeys *store.Keys
	Register       bool
	// Countries are the calling codes of users who may register; empty: all.
	Countries []string
	Login     login.Settings
	// TestLogin is nil if there is none.
	TestLogin *testLoginSettings
	Token     tokenSettings
	Session   session.Settings
	LoginRate ratelimit.Rate
	WeChat    wechatSettings
	// Useless are the settings that have no effect.
	Useless []useless
}

// useless is a setting that has no effect, with the reason and what to do.
type useless struct{ what, remedy string }

// warnUseless logs the settings that have no effect.
func (s *settings) warnUseless(log *zap.Logger) {
	for _, u := range s.Useless {
		log.Warn("a setting has no effect: "+u.what, remedy.SettingUseless.Field(u.remedy))
	}
}

const day = 24 * time.Hour

// settings resolves the configuration with the environment and the files of this machine. It
// does no other I/O. Its errors name the setting and the remedy, and hold no secret.
func (h *Handler) settings() (settings, error) { return resolve(h, atProvision) }

// resolve resolves the configuration with the given lookup. A value that look does not know
// yet is not checked, nor is anything that depends on it.
func resolve(h *Handler, look lookup) (settings, error) {
	s := settings{Register: h.Register == nil || *h.Register}
	s.Gate.ForwardToken = h.ForwardToken
	for _, part := range []func(*Handler, lookup) error{
		s.resolveApps, s.resolvePaths, s.resolveRequire, s.resolveStore, s.resolveUsers, s.resolveLogin,
		s.resolveToken, s.resolveSession, s.resolveIdentity, s.resolveCredentials, s.resolveWeChat, s.resolveService, s.resolveTestLogin,
		s.checkOwnSecrets,
	} {
		if err := part(h, look); err != nil {
			return settings{}, err
		}
	}
	return s, nil
}

// settingError is a setting that cannot be used. Its place leads to the line of the
// Caddyfile, if there is one.
type settingError struct {
	place place
	err   error
}

// place locates a setting: the subdirective's name, preceded by the name of its block, and its
// index among subdirectives that may be repeated.
type place struct {
	name  string
	index int
}

// Error returns the setting's name and what to write instead.
func (e *settingError) Error() string {
	text := e.err.Error()
	if strings.HasPrefix(text, e.place.name) {
		return text // the package that made this error has named the setting already
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

// placeholder matches everything that looks like a placeholder.
var placeholder = regexp.MustCompile(`\{[^{}\s]*\}`)

// lookup replaces the placeholders of a value. known is false if the value depends on the
// machine that will serve, and is therefore not looked up now.
type lookup func(raw string, of syntax) (value string, known bool, err error)

// checked replaces the placeholders of a value and, if the result is known, applies the
// checks.
func (look lookup) checked(raw string, checks ...func(string) error) (string, error) {
	value, known, err := look(raw, syntax{})
	if err != nil || !known {
		return value, err
	}
	for _, check := range checks {
		if err := check(value); err != nil {
			return value, err
		}
	}
	return value, nil
}

// syntax decides how braces are read in a value that may contain placeholders.
type syntax struct {
	// lax allows other braces than those of the two placeholders, as in a JWK. They belong to
	// the value.
	lax bool
	// own is a name in braces that the setting itself uses, such as {appid}.
	own string
}

// inCaddyfile is the lookup for adapting. A Caddyfile may be adapted on another machine than
// the one that serves, so values with placeholders are not known.
func inCaddyfile(raw string, of syntax) (string, bool, error) {
	found, err := of.placeholders(raw)
	return raw, len(found) == 0, err
}

// atProvision is the lookup for loading a configuration.
func atProvision(raw string, of syntax) (string, bool, error) {
	found, err := of.placeholders(raw)
	if err != nil || len(found) == 0 {
		return raw, true, err
	}
	var out strings.Builder
	last, repl := 0, caddy.NewReplacer()
	for _, at := range found {
		key := raw[at[0]+1 : at[1]-1]
		// Placeholders are replaced one at a time, so that every byte between them stays as
		// written.
		value, err := repl.ReplaceOrErr("{"+key+"}", true, true)
		if err != nil || strings.TrimSpace(value) == "" {
			return "", false, emptyPlaceholder(key)
		}
		out.WriteString(raw[last:at[0]])
		out.WriteString(value)
		last = at[1]
	}
	out.WriteString(raw[last:])
	return out.String(), true, nil
}

func emptyPlaceholder(key string) error {
	if name, ok := strings.CutPrefix(key, "env."); ok {
		return fmt.Errorf("{%s} is empty: set the environment variable %s for the process that runs Caddy", key, name)
	}
	return fmt.Errorf("{%s} is empty: the file must exist, hold the value, and be readable by the user that runs Caddy", key)
}

// placeholders returns the positions of a value's placeholders. It refuses text that looks
// like a placeholder and is none, because that text would become the value.
func (s syntax) placeholders(raw string) ([][]int, error) {
	var found [][]int
	for _, at := range placeholder.FindAllStringIndex(raw, -1) {
		key := raw[at[0]+1 : at[1]-1]
		env, isEnv := strings.CutPrefix(key, "env.")
		file, isFile := strings.CutPrefix(key, "file.")
		switch {
		case isEnv && env != "":
			found = append(found, at)
		case isFile && filepath.IsAbs(file):
			found = append(found, at)
		case isFile:
			return nil, fmt.Errorf("{%s}: the path of a file must be absolute: {file./run/secrets/name}", key)
		case s.own != "" && key == s.own:
		case s.lax && (len(raw) != at[1]-at[0] || strings.Contains(key, `"`)):
		default:
			return nil, fmt.Errorf("{%s} cannot be used here: use {env.NAME} or {file./absolute/path}", key)
		}
	}
	if !s.lax && strings.ContainsAny(placeholder.ReplaceAllString(raw, ""), "{}") {
		return nil, errors.New("a brace is left over: placeholders are written {env.NAME} or {file./absolute/path}")
	}
	return found, nil
}

// noPlaceholder refuses a placeholder in a setting whose value must be known when the
// configuration is read.
func noPlaceholder(value string) error {
	if p := placeholder.FindString(value); p != "" {
		remedy := "write the value itself"
		if name, ok := strings.CutPrefix(strings.Trim(p, "{}"), "env."); ok {
			remedy = "in a Caddyfile write {$" + name + "}, which is replaced when it is read"
		}
		return fmt.Errorf("%s cannot be used here: %s", p, remedy)
	}
	return nil
}

// resolveUsers refuses settings that contradict an external directory. The directory's module
// resolves its own settings.
func (s *settings) resolveUsers(h *Handler, _ lookup) error {
	const remedy = "it is about users in the store; with `users` your directory decides: a webhook answers 404, a table has no create"
	switch {
	case h.UsersRaw == nil:
	case h.Register != nil:
		return misset("register", errors.New(remedy))
	case len(h.Countries) > 0:
		return misset("countries", errors.New(remedy))
	}
	return nil
}
