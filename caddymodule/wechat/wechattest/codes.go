package wechattest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// codeLife is how long a login code and a phone code are valid.
const codeLife = 5 * time.Minute

// Phone is a number that a user has given to WeChat.
type Phone struct {
	Country string `json:"country"` // calling code, digits only; "86" if empty
	Number  string `json:"number"`  // the number within its country, digits only
}

// Codes are the codes that a mini program sends to its server after a tap on the phone button,
// with the ids of the user that they stand for.
type Codes struct {
	Code      string `json:"code"`                // from wx.login
	PhoneCode string `json:"phoneCode,omitempty"` // from the phone button
	OpenID    string `json:"openid"`
	UnionID   string `json:"unionid,omitempty"` // only for an app with an OpenPlatform
}

// PhoneCode is the record of one phone code. Each was paid for when it was minted.
type PhoneCode struct {
	Code      string    `json:"code"`
	AppID     string    `json:"appid"`
	User      string    `json:"user"`
	OpenID    string    `json:"openid"`
	Phone     Phone     `json:"phone"`
	Minted    time.Time `json:"minted"`
	Exchanged time.Time `json:"exchanged,omitzero"` // zero: not yet
	Shown     int       `json:"shown"`              // how often a server presented it, successfully or not
	Lost      bool      `json:"lost"`               // exchanged, but a fault dropped the answer
}

// loginCode is a code of wx.login as WeChat remembers it.
type loginCode struct {
	appid, user string
	minted      time.Time
	used        bool
}

// Mint simulates a login on a phone: it mints a login code, and a phone code for the
// number. user is any name for the person, from which the openid and unionid follow; if
// it is empty, the number serves as the name.
func (s *Simulator) Mint(appid, user string, phone Phone) (Codes, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	phone, user, err := complete(phone, user)
	if err != nil {
		return Codes{}, err
	}
	c, err := s.mintLogin(appid, user)
	if err != nil {
		return Codes{}, err
	}
	c.PhoneCode = s.mintPhone(s.apps[appid], user, phone)
	return c, nil
}

// MintLogin simulates wx.login: it mints a login code only.
func (s *Simulator) MintLogin(appid, user string) (Codes, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mintLogin(appid, user)
}

// MintPhone simulates a tap on the phone button: it mints a phone code only.
func (s *Simulator) MintPhone(appid, user string, phone Phone) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	phone, user, err := complete(phone, user)
	if err != nil {
		return "", err
	}
	app, err := s.app(appid)
	if err != nil {
		return "", err
	}
	return s.mintPhone(app, user, phone), nil
}

// PhoneCodes returns the records of all phone codes so far, in the order in which they
// were minted.
func (s *Simulator) PhoneCodes() []PhoneCode {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]PhoneCode, 0, len(s.phoneOrder))
	for _, p := range s.phoneOrder {
		all = append(all, *p)
	}
	return all
}

func (s *Simulator) mintLogin(appid, user string) (Codes, error) {
	app, err := s.app(appid)
	if err != nil {
		return Codes{}, err
	}
	if user == "" {
		return Codes{}, errors.New("a login code needs a user")
	}
	// WeChat's login codes are 32 letters and digits and begin with 0.
	code := "0" + rand.Text() + strings.ToLower(rand.Text())[:5]
	s.logins[code] = &loginCode{appid: appid, user: user, minted: s.now()}
	s.keepSecret(code)
	return Codes{Code: code, OpenID: app.openID(user), UnionID: app.unionID(user)}, nil
}

func (s *Simulator) mintPhone(app *appState, user string, phone Phone) string {
	// WeChat's phone codes are 64 hexadecimal digits.
	p := &PhoneCode{
		Code: hex.EncodeToString(randomBytes(32)), AppID: app.ID, User: user, OpenID: app.openID(user),
		Phone: phone, Minted: s.now(),
	}
	s.phones[p.Code] = p
	s.phoneOrder = append(s.phoneOrder, p)
	s.keepSecret(p.Code)
	s.keepSecret(phone.Number)
	return p.Code
}

func complete(phone Phone, user string) (Phone, string, error) {
	if phone.Country == "" {
		phone.Country = "86"
	}
	for _, part := range []string{phone.Country, phone.Number} {
		if part == "" || strings.Trim(part, "0123456789") != "" {
			return Phone{}, "", fmt.Errorf("country %q and number %q must be digits", phone.Country, phone.Number)
		}
	}
	if user == "" {
		user = "+" + phone.Country + phone.Number
	}
	return phone, user, nil
}

// MockCode is the login code of wx.login in DevTools without an AppID.
const MockCode = "the code is a mock one"

// AcceptMockCode makes [MockCode] stand for the given user, in each app and any number of
// times. By default a Simulator refuses it, as WeChat does.
func (s *Simulator) AcceptMockCode(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mockUser = user
}

// useLogin consumes a login code of an app. It returns the user, or an errcode.
func (s *Simulator) useLogin(app *appState, code string) (user string, errcode int) {
	if code == MockCode && s.mockUser != "" {
		return s.mockUser, 0
	}
	c := s.logins[code]
	switch {
	case c == nil, !s.now().Before(c.minted.Add(codeLife)):
		return "", 40029
	case c.appid != app.ID:
		return "", 40013
	case c.used:
		return "", 40163
	}
	c.used = true
	return c.user, 0
}

// usePhone consumes a phone code of an app. openid is nil if the caller did not send
// one. An openid that is refused does not consume the code.
func (s *Simulator) usePhone(app *appState, code string, openid *string) (*PhoneCode, int) {
	p := s.phones[code]
	if p == nil {
		return nil, 40029
	}
	p.Shown++
	switch {
	case p.AppID != app.ID, !p.Exchanged.IsZero(), !s.now().Before(p.Minted.Add(codeLife)):
		return nil, 40029
	case openid != nil && *openid != p.OpenID:
		return nil, 40003
	}
	p.Exchanged = s.now()
	return p, 0
}

func (s *Simulator) newSessionKey() string {
	key := base64.StdEncoding.EncodeToString(randomBytes(16))
	s.keepSecret(key)
	return key
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}
