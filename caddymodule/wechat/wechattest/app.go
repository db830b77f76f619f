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

// App is a mini program as WeChat's console shows it, with settings that change how WeChat
// answers its calls.
type App struct {
	ID     string `json:"appid"`
	Secret string `json:"secret"`

	// OpenPlatform names the Open Platform account to which the app is bound. Users of
	// apps with the same account have the same unionid. If it is empty, the app is not
	// bound and no answer has a unionid, as with most apps.
	OpenPlatform string `json:"open_platform"`

	// Frozen makes every call that carries the secret fail with 40243.
	Frozen bool `json:"frozen"`

	// Whitelist holds the addresses or prefixes ("192.0.2.0/24") from which calls with
	// the secret are accepted; calls from others fail with 40164. If it is empty, all
	// addresses are accepted.
	Whitelist []string `json:"whitelist"`

	// CallerIP is the address from which WeChat sees the calls come. Empty: the real
	// address of the connection.
	CallerIP string `json:"caller_ip"`

	// TokenSecretErrcode is the errcode of the token calls for a wrong secret: 40125
	// (the default) or 40001; both occur.
	TokenSecretErrcode int `json:"token_secret_errcode"`

	// TokenSeconds is the lifetime of new access tokens; 0 means 7200. Stable tokens
	// are replaced when a 24th of it remains, which is five minutes of two hours.
	TokenSeconds int `json:"token_seconds"`

	// StringErrcode writes errcode as a string, as some of WeChat's services do.
	StringErrcode bool `json:"string_errcode"`

	// ErrcodeOnSuccess adds errcode 0 and errmsg to the successful answer of
	// jscode2session. The documentation shows them; production does not send them.
	ErrcodeOnSuccess bool `json:"errcode_on_success"`

	// NumberCountryCode writes countryCode as a number, as in WeChat's documentation.
	// Production writes a string.
	NumberCountryCode bool `json:"number_country_code"`

	// WatermarkAppID, if not empty, replaces the app's own id in the watermark, as in
	// an answer that was meant for another app.
	WatermarkAppID string `json:"watermark_appid"`

	// WatermarkShift is added to the watermark's timestamp, in seconds.
	WatermarkShift int `json:"watermark_shift"`

	// PushToken and PushKey are the Token and the EncodingAESKey of the message push,
	// see [Simulator.Push]. If they are empty, the push is off.
	PushToken string `json:"push_token"`
	PushKey   string `json:"push_key"`

	// DailyQuota and MinuteQuota limit the calls of this app. Beyond them WeChat
	// answers 45009 and 45011. A call without an entry has WeChat's published limits:
	// stable_token 500,000 a day and 10,000 a minute, token 2,000 a day. 0 allows none.
	// Days begin at midnight in China.
	DailyQuota  map[Call]int `json:"daily_quota"`
	MinuteQuota map[Call]int `json:"minute_quota"`
}

// appState is an app together with its codes, tokens and used quotas.
type appState struct {
	App
	stable     tokenPair
	classic    tokenPair
	lastForced time.Time
	used       map[quota]*usage
}

// AddApp registers an app. It replaces an app with the same id, whose codes, tokens and
// used quotas stay.
func (s *Simulator) AddApp(app App) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.putApp(app)
}

// AlterApp changes the settings of an app: edit gets a copy of them and may change
// everything but the id. It must not call the simulator.
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

// sees returns the address from which WeChat sees the app's calls come. remote is the
// connection's real address.
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

// openID returns the openid of a user in the app: 28 characters, always the same for
// the same app and user, so that a restarted simulator still knows its users.
func (a *App) openID(user string) string { return identifier("openid", a.ID, user) }

// unionID returns the unionid of a user in all apps of an Open Platform account.
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
