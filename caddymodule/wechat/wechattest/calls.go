package wechattest

import (
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// session is the successful answer of jscode2session.
type session struct {
	SessionKey string   `json:"session_key"`
	OpenID     string   `json:"openid"`
	UnionID    string   `json:"unionid,omitempty"`
	Errcode    *errcode `json:"errcode,omitempty"`
	Errmsg     string   `json:"errmsg,omitempty"`
}

// token is the successful answer of the token calls.
type token struct {
	AccessToken string `json:"access_token"`
	ExpiresIn   int    `json:"expires_in"`
}

// phoneAnswer is the successful answer of getuserphonenumber.
type phoneAnswer struct {
	Errcode   errcode   `json:"errcode"`
	Errmsg    string    `json:"errmsg"`
	PhoneInfo phoneInfo `json:"phone_info"`
}

type phoneInfo struct {
	PhoneNumber     string    `json:"phoneNumber"`
	PurePhoneNumber string    `json:"purePhoneNumber"`
	CountryCode     any       `json:"countryCode"`
	Watermark       watermark `json:"watermark"`
}

type watermark struct {
	Timestamp int64  `json:"timestamp"`
	AppID     string `json:"appid"`
}

func (s *Simulator) code2Session(req *request) reply {
	q, code := req.params("appid", "secret", "js_code", "grant_type")
	if code != 0 {
		return s.fail(req, nil, code)
	}
	app, code := s.authorize(req, q["appid"], q["secret"], q["grant_type"], "authorization_code")
	switch {
	case code != 0:
		return s.fail(req, app, code)
	case q["js_code"] == "":
		return s.fail(req, app, 41008)
	}
	if code := app.spend(req.call, s.now()); code != 0 {
		return s.fail(req, app, code)
	}
	user, code := s.useLogin(app, q["js_code"])
	if code != 0 {
		return s.fail(req, app, code)
	}
	answer := session{SessionKey: s.newSessionKey(), OpenID: app.openID(user), UnionID: app.unionID(user)}
	if app.ErrcodeOnSuccess {
		answer.Errcode, answer.Errmsg = &errcode{0, app.StringErrcode}, "ok"
	}
	return s.good(req, "ok", answer)
}

func (s *Simulator) stable(req *request) reply {
	if _, code := req.params(); code != 0 {
		return s.fail(req, nil, code)
	}
	m, code := req.members("grant_type", "appid", "secret", "force_refresh")
	if code != 0 {
		return s.fail(req, nil, code)
	}
	var grant, appid, secret string
	var force bool
	if !m.read("grant_type", &grant) || !m.read("appid", &appid) || !m.read("secret", &secret) || !m.read("force_refresh", &force) {
		return s.fail(req, nil, 47001)
	}
	app, code := s.authorize(req, appid, secret, grant, "client_credential")
	if code != 0 {
		return s.fail(req, app, code)
	}
	if code := app.spend(req.call, s.now()); code != 0 {
		return s.fail(req, app, code)
	}
	if force {
		t, code := s.forcedToken(app)
		if code != 0 {
			return s.fail(req, app, code)
		}
		return s.token(req, t)
	}
	return s.token(req, s.stableToken(app))
}

func (s *Simulator) classic(req *request) reply {
	q, code := req.params("grant_type", "appid", "secret")
	if code != 0 {
		return s.fail(req, nil, code)
	}
	app, code := s.authorize(req, q["appid"], q["secret"], q["grant_type"], "client_credential")
	if code != 0 {
		return s.fail(req, app, code)
	}
	if code := app.spend(req.call, s.now()); code != 0 {
		return s.fail(req, app, code)
	}
	return s.token(req, s.classicToken(app))
}

// central simulates not WeChat but a company's own service, which has the credentials and
// hands out its access token.
func (s *Simulator) central(req *request) reply {
	q, code := req.params("appid", "format")
	if code != 0 {
		return s.fail(req, nil, code)
	}
	app := s.apps[q["appid"]]
	if app == nil {
		return s.fail(req, nil, 40013)
	}
	t := s.stableToken(app)
	if q["format"] == "bare" {
		return reply{contentType: typeText, body: []byte(t.value), outcome: "ok"}
	}
	return s.token(req, t)
}

func (s *Simulator) token(req *request, t *accessToken) reply {
	return s.good(req, "ok", token{t.value, int(t.ends.Sub(s.now()) / time.Second)})
}

func (s *Simulator) phoneNumber(req *request) reply {
	q, code := req.params("access_token")
	if code != 0 {
		return s.fail(req, nil, code)
	}
	if q["access_token"] == "" {
		return s.fail(req, nil, 41001)
	}
	app, code := s.tokenApp(q["access_token"])
	if code != 0 {
		return s.fail(req, nil, code)
	}
	m, code := req.members("code", "openid")
	if code != 0 {
		return s.fail(req, app, code)
	}
	var phoneCode string
	var openid *string
	if !m.read("code", &phoneCode) || !m.read("openid", &openid) {
		return s.fail(req, app, 47001)
	}
	if phoneCode == "" {
		return s.fail(req, app, 41008)
	}
	if code := app.spend(req.call, s.now()); code != 0 {
		return s.fail(req, app, code)
	}
	p, code := s.usePhone(app, phoneCode, openid)
	if code != 0 {
		return s.fail(req, app, code)
	}
	answer := s.good(req, "ok", phoneAnswer{errcode{0, app.StringErrcode}, "ok", app.phoneInfo(p)})
	answer.phone = p
	return answer
}

func (a *App) phoneInfo(p *PhoneCode) phoneInfo {
	info := phoneInfo{
		PhoneNumber: p.Phone.Number, PurePhoneNumber: p.Phone.Number, CountryCode: p.Phone.Country,
		// WeChat's watermark has the time of the tap, not of this call.
		Watermark: watermark{p.Minted.Unix() + int64(a.WatermarkShift), a.ID},
	}
	if p.Phone.Country != "86" {
		info.PhoneNumber = "+" + p.Phone.Country + p.Phone.Number
	}
	if n, err := strconv.Atoi(p.Phone.Country); err == nil && a.NumberCountryCode {
		info.CountryCode = n
	}
	if a.WatermarkAppID != "" {
		info.Watermark.AppID = a.WatermarkAppID
	}
	return info
}

func (s *Simulator) redirected(req *request) reply { return s.good(req, "ok", struct{}{}) }

func (s *Simulator) elsewhere(req *request) reply { return s.fail(req, nil, 40066) }

// authorize authenticates a call of an app, and then compares its grant type with the one that
// the call must have.
func (s *Simulator) authorize(req *request, appid, secret, grant, want string) (*appState, int) {
	app, code := s.authenticate(req, appid, secret)
	if code == 0 && grant != want {
		code = 40002
	}
	return app, code
}

// authenticate does the checks of every call that carries the secret. It may return the
// app even with an errcode.
func (s *Simulator) authenticate(req *request, appid, secret string) (*appState, int) {
	app := s.apps[appid]
	switch {
	case appid == "":
		return nil, 41002
	case secret == "":
		return app, 41004
	case app == nil:
		return nil, 40013
	case secret != app.Secret:
		if app.TokenSecretErrcode != 0 && req.call != Code2Session {
			return app, app.TokenSecretErrcode
		}
		return app, 40125
	case app.Frozen:
		return app, 40243
	case !app.allows(app.sees(req.remote)):
		return app, 40164
	}
	return app, 0
}

// params returns the parameters of the query. A parameter that is undocumented or
// occurs twice is an error: a client may have put it into a code that was not escaped.
func (req *request) params(documented ...string) (map[string]string, int) {
	if req.method != "" && req.got != req.method {
		return nil, 43002
	}
	values, err := url.ParseQuery(req.query)
	if err != nil {
		return nil, 40097
	}
	q := make(map[string]string, len(values))
	for name, v := range values {
		if len(v) != 1 || !slices.Contains(documented, name) {
			return nil, 40097
		}
		q[name] = v[0]
	}
	return q, 0
}

// members is a JSON object whose values are not decoded yet.
type members map[string]json.RawMessage

func (req *request) members(documented ...string) (members, int) {
	if len(req.body) == 0 {
		return nil, 44002
	}
	var m members
	if err := json.Unmarshal(req.body, &m); err != nil || m == nil {
		return nil, 47001
	}
	for name := range m {
		if !slices.Contains(documented, name) {
			return nil, 40097
		}
	}
	return m, 0
}

// read decodes a member if it exists, and reports whether it had the right type. Null
// has no type.
func (m members) read(name string, into any) bool {
	raw, ok := m[name]
	return !ok || string(raw) != "null" && json.Unmarshal(raw, into) == nil
}
