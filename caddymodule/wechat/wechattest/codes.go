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

// codeLife is how long a login code and a phone code live.
const codeLife = 5 * time.Minute

// Phone is the number a user has given WeChat.
type Phone struct {
	Country string `json:"country"` // calling code, digits only; "86" if empty
	Number  string `json:"number"`  // the number in its country, digits only
}

// Codes are what a mini-program sends to its server after a tap on the phone
// button, and the user they stand for.
type Codes struct {
	Code      string `json:"code"`                // of wx.login
	PhoneCode string `json:"phoneCode,omitempty"` // of the phone button
	OpenID    string `json:"openid"`
	UnionID   string `json:"unionid,omitempty"` // only for an app with an OpenPlatform
}

// PhoneCode is the account of one phone code. Each was paid for when it was
// minted.
type PhoneCode struct {
	Code      string    `json:"code"`
	AppID     string    `json:"appid"`
	User      string    `json:"user"`
	OpenID    string    `json:"openid"`
	Phone     Phone     `json:"phone"`
	Minted    time.Time `json:"minted"`
	Exchanged time.Time `json:"exchanged,omitzero"` // zero: not yet
	Shown     int       `json:"shown"`              // how often a server presented it, in vain or not
	Lost      bool      `json:"lost"`               // exchanged, but a fault ate the answer
}

// loginCode is what WeChat remembers of a code of wx.login.
type loginCode struct {
	appid, user string
	minted      time.Time
	used        bool
}

// Mint plays one login on a phone: a login code, and a phone code for the
// number. User is a name for the person, whose openid and unionid follow from
// it; if empty, the number names the person.
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

// MintLogin plays wx.login: a login code alone.
func (s *Simulator) MintLogin(appid, user string) (Codes, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mintLogin(appid, user)
}

// MintPhone plays a tap on the phone button: a phone code alone.
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

// PhoneCodes is the account of all phone codes so far, in the order in which
// they were minted.
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
	// WeChat's login codes are 32 letters and digits that begin with 0.
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

// MockCode is what wx.login gives in DevTools without an AppID.
const MockCode = "the code is a mock one"

// AcceptMockCode has [MockCode] stand for that user, in each app and any number of times.
// WeChat refuses it, and so does a Simulator at first.
func (s *Simulator) AcceptMockCode(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mockUser = user
}

// useLogin consumes a login code for an app. It answers the user, or an
// errcode.
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

// usePhone consumes a phone code for an app. openid is nil if the caller did
// not send one. A refused openid does not consume the code.
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
	rand.Read(b) // never fails, says crypto/rand
	return b
}
