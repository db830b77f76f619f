package wechattest

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// App is a mini-program as WeChat's console knows it, with the settings that
// change how WeChat answers it.
type App struct {
	ID     string `json:"appid"`
	Secret string `json:"secret"`

	// OpenPlatform names the Open Platform account the app is bound to. Users
	// of apps with the same account have the same unionid. Empty: not bound,
	// and no answer has a unionid, as with most apps.
	OpenPlatform string `json:"open_platform"`

	// Frozen makes every call that carries the secret answer 40243.
	Frozen bool `json:"frozen"`

	// Whitelist holds the addresses or prefixes ("192.0.2.0/24") that calls
	// carrying the secret may come from; others get 40164. Empty: anybody.
	Whitelist []string `json:"whitelist"`

	// CallerIP is the address WeChat sees the calls come from. Empty: the one
	// the connection really comes from.
	CallerIP string `json:"caller_ip"`

	// TokenSecretErrcode is what the token calls answer to a wrong secret:
	// 40125 (0 means that too) or 40001; both occur.
	TokenSecretErrcode int `json:"token_secret_errcode"`

	// TokenSeconds is the life of new access tokens; 7200 if 0. Stable tokens
	// rotate when a 24th of it remains, which is five minutes of two hours.
	TokenSeconds int `json:"token_seconds"`

	// StringErrcode writes errcode as a string, which some of WeChat's answers
	// do.
	StringErrcode bool `json:"string_errcode"`

	// ErrcodeOnSuccess puts errcode 0 and errmsg into the good answer of
	// jscode2session, as the documentation has it and production has not.
	ErrcodeOnSuccess bool `json:"errcode_on_success"`

	// NumberCountryCode writes countryCode as a number, as in WeChat's
	// documentation; production writes a string.
	NumberCountryCode bool `json:"number_country_code"`

	// WatermarkAppID, if not empty, stands in the watermark in place of the
	// app's own id, as in an answer that was meant for another app.
	WatermarkAppID string `json:"watermark_appid"`

	// WatermarkShift is added to the watermark's timestamp, in seconds.
	WatermarkShift int `json:"watermark_shift"`

	// PushToken and PushKey are the Token and the EncodingAESKey of the message
	// push, see [Simulator.Push]. Empty: it is off.
	PushToken string `json:"push_token"`
	PushKey   string `json:"push_key"`

	// DailyQuota and MinuteQuota limit the calls of this app; beyond them
	// WeChat answers 45009 and 45011. A call without an entry has WeChat's
	// published limits: stable_token 500,000 a day and 10,000 a minute, token
	// 2,000 a day. 0 allows none. Days are China's.
	DailyQuota  map[Call]int `json:"daily_quota"`
	MinuteQuota map[Call]int `json:"minute_quota"`
}

// appState is an app and what WeChat remembers about it.
type appState struct {
	App
	stable     tokenPair
	classic    tokenPair
	lastForced time.Time
	used       map[quota]*usage
}

// AddApp registers an app. An app with that id is replaced; its codes, tokens
// and used quotas stay.
func (s *Simulator) AddApp(app App) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.putApp(app)
}

// AlterApp changes the settings of an app: edit gets a copy of them and may
// change all but the id. It must not call the simulator.
func (s *Simulator) AlterApp(appid string, edit func(*App)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, err := s.app(appid)
	if err != nil {
		return err
	}
	changed := app.App.clone()
	edit(&changed)
	changed.ID = appid
	return s.putApp(changed)
}

func (s *Simulator) putApp(app App) error {
	if app.ID == "" || app.Secret == "" {
		return errors.New("an app needs an id and a secret")
	}
	for _, w := range app.Whitelist {
		if _, err := parsePrefix(w); err != nil {
			return fmt.Errorf("app %s: whitelist: %w", app.ID, err)
		}
	}
	if c := app.TokenSecretErrcode; c != 0 && c != 40125 && c != 40001 {
		return fmt.Errorf("app %s: a wrong secret is answered with 40125 or 40001, not %d", app.ID, c)
	}
	if app.TokenSeconds < 0 {
		return fmt.Errorf("app %s: a token cannot live %d seconds", app.ID, app.TokenSeconds)
	}
	state := s.apps[app.ID]
	if state == nil {
		state = &appState{used: make(map[quota]*usage)}
		s.apps[app.ID] = state
	}
	state.App = app.clone()
	for _, secret := range []string{app.Secret, app.PushToken, app.PushKey} {
		if secret != "" {
			s.keepSecret(secret)
		}
	}
	return nil
}

func (a App) clone() App {
	a.Whitelist = slices.Clone(a.Whitelist)
	a.DailyQuota = maps.Clone(a.DailyQuota)
	a.MinuteQuota = maps.Clone(a.MinuteQuota)
	return a
}

func (s *Simulator) app(appid string) (*appState, error) {
	app := s.apps[appid]
	if app == nil {
		return nil, fmt.Errorf("%w %q", ErrUnknownApp, appid)
	}
	return app, nil
}

// sees says which address the app's call comes from, given the connection's.
func (a *App) sees(remote netip.Addr) string {
	if a.CallerIP != "" {
		return a.CallerIP
	}
	return remote.String()
}

func (a *App) allows(caller string) bool {
	if len(a.Whitelist) == 0 {
		return true
	}
	ip, err := netip.ParseAddr(caller)
	if err != nil {
		return false
	}
	for _, w := range a.Whitelist {
		if p, err := parsePrefix(w); err == nil && p.Contains(ip.Unmap()) {
			return true
		}
	}
	return false
}

func parsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, nil
	}
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a prefix", s)
	}
	return netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()), nil
}

// openID is what the app calls the user: 28 characters, always the same for
// the same two, so that a simulator started anew knows its users again.
func (a *App) openID(user string) string { return identifier("openid", a.ID, user) }

// unionID is what all apps of an Open Platform account call the user.
func (a *App) unionID(user string) string {
	if a.OpenPlatform == "" {
		return ""
	}
	return identifier("unionid", a.OpenPlatform, user)
}

func identifier(kind, realm, user string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + realm + "\x00" + user))
	return "o" + base64.RawURLEncoding.EncodeToString(sum[:])[:27]
}
