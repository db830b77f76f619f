package wechat

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// DefaultAPI is the base URL of WeChat's API. Other hosts for Client.APIs, for disaster
// recovery and by region, are api2, sh.api, sz.api and hk.api under weixin.qq.com.
const DefaultAPI = "https://api.weixin.qq.com"

// DefaultTimeout is how long WeChat may take to answer one request.
const DefaultTimeout = 5 * time.Second

// phoneAge bounds how far the watermark of a phone number may differ from our clock. A
// phone code is valid for five minutes; the rest is for clocks that differ.
const phoneAge = 10 * time.Minute

// Client makes WeChat's calls of a phone login. The zero value works; fields must not
// be changed after the first call. It is safe for concurrent use.
type Client struct {
	// APIs are the base URLs, in the order in which to try them. Default: DefaultAPI.
	APIs []string
	// AppAPIs are the base URLs of apps that have their own, by appid and in the same
	// order.
	AppAPIs map[string][]string
	// Timeout bounds each request. A call makes a few requests at most. Default:
	// DefaultTimeout.
	Timeout time.Duration
	// OmitOpenID leaves openid out of getuserphonenumber. WeChat then does not check
	// that the phone code belongs to the user who logs in.
	OmitOpenID bool
	// Tokens supplies the access tokens. Default: a StableToken that only this client
	// uses.
	Tokens TokenSource
	// Shared stores classic tokens for all replicas. Nil: this process is the only one.
	Shared SharedTokens
	// Transport holds the connections. Default: one that only this client uses.
	Transport *Transport
	// Now returns the current time. Default: time.Now.
	Now func() time.Time
	// Log, if set, is called with failures in the background, which no call returns.
	Log func(Event)
	// Observer, if set, receives each request to WeChat.
	Observer Observer

	once   sync.Once
	jitter func() time.Duration // the wait before a retry after -1
}

// Event is a failure in the background: fetching an access token before it was needed,
// refreshing it before its end, or sharing it has failed.
type Event struct {
	AppID string
	Err   error
}

// Observer receives events for metrics and logs. Its methods are called
// concurrently, and must not wait.
type Observer interface {
	// Called reports one HTTP request to WeChat. err is nil if the answer was good.
	Called(appid string, call Call, err *Error, took time.Duration)
	// Fetched reports a fetch of an access token, with all its attempts.
	Fetched(appid string, err *Error)
}

// Session is WeChat's answer to a login code. WeChat's session_key is not kept.
type Session struct {
	OpenID  string // the user, in this app
	UnionID string // the user, in all apps of one Open Platform account; often ""
}

// PhoneNumber is WeChat's answer to a phone code.
type PhoneNumber struct {
	PhoneNumber     string // without a prefix for mainland numbers, "+852…" for others: for display only
	PurePhoneNumber string // without the country code
	CountryCode     string // "86"
	Timestamp       time.Time
}

func (c *Client) init() {
	c.once.Do(func() {
		if len(c.APIs) == 0 {
			c.APIs = []string{DefaultAPI}
		}
		if c.Timeout <= 0 {
			c.Timeout = DefaultTimeout
		}
		if c.Tokens == nil {
			c.Tokens = NewStableToken()
		}
		if c.Transport == nil {
			c.Transport = NewTransport()
		}
		if c.Now == nil {
			c.Now = time.Now
		}
		if c.jitter == nil {
			c.jitter = busyJitter
		}
	})
}

// Code2Session exchanges a login code (wx.login) for the user's openid.
// Errors are *Error.
func (c *Client) Code2Session(ctx context.Context, app App, code string) (Session, error) {
	c.init()
	key := pauseKey{CallSession, app.ID, ""}
	if e := c.Transport.paused(key, app, c.Now()); e != nil {
		return Session{}, e
	}
	d := c.delivery(app, CallSession, RenewCode)
	a, e := d.send(ctx, outgoing{
		method: http.MethodGet,
		path:   "/sns/jscode2session",
		query: url.Values{"appid": {app.ID}, "secret": {app.Secret}, "js_code": {code},
			"grant_type": {"authorization_code"}},
	})
	if e != nil {
		c.Transport.pause(key, app, e, c.Now())
		return Session{}, e
	}
	var s struct {
		OpenID  string `json:"openid"`
		UnionID string `json:"unionid"`
	}
	if err := json.Unmarshal(a.body, &s); err != nil || !printable(s.OpenID, 128) || s.UnionID != "" && !printable(s.UnionID, 128) {
		return Session{}, d.nonsense("no usable openid in the answer")
	}
	d.observe(nil)
	return Session{OpenID: s.OpenID, UnionID: s.UnionID}, nil
}

// PhoneNumber exchanges a phone code (the phone button) for the number. openid is the
// user that Code2Session returned: WeChat refuses another user's phone code
// (KindMismatch).
//
// If WeChat refuses the access token, the token is dropped, one new token is fetched
// for all callers that wait, and the code is sent once more. Errors are *Error, or wrap
// ErrSharedTokens.
func (c *Client) PhoneNumber(ctx context.Context, app App, code, openid string) (PhoneNumber, error) {
	c.init()
	token, err := c.token(ctx, app)
	if err != nil {
		return PhoneNumber{}, err
	}
	request := struct {
		Code   string `json:"code"`
		OpenID string `json:"openid,omitempty"`
	}{Code: code, OpenID: openid}
	if c.OmitOpenID {
		request.OpenID = ""
	}
	body, err := json.Marshal(request)
	if err != nil {
		return PhoneNumber{}, &Error{Call: CallPhone, Kind: KindBug, reason: "the request cannot be encoded"}
	}
	o := outgoing{method: http.MethodPost, path: "/wxa/business/getuserphonenumber",
		query: url.Values{"access_token": {token}}, body: body}
	d := c.delivery(app, CallPhone, RenewPhoneCode)
	a, e := d.send(ctx, o)
	if e != nil && accessTokenRefused(e.Code) {
		c.Tokens.Drop(app.ID, token, c.Now())
		next, err := c.token(ctx, app)
		if err != nil {
			return PhoneNumber{}, err
		}
		if next == token {
			return PhoneNumber{}, e
		}
		o.query = url.Values{"access_token": {next}}
		a, e = d.send(ctx, o)
	}
	if e != nil {
		return PhoneNumber{}, e
	}
	return c.phoneNumber(app, a, d)
}

// phoneNumber reads WeChat's answer. The code has been used up, so if anything in the
// answer is wrong, the client needs another code.
func (c *Client) phoneNumber(app App, a answer, d *delivery) (PhoneNumber, error) {
	var r struct {
		Info *struct {
			PhoneNumber     string       `json:"phoneNumber"`
			PurePhoneNumber string       `json:"purePhoneNumber"`
			CountryCode     stringOrInt  `json:"countryCode"`
			Watermark       *phoneOrigin `json:"watermark"`
		} `json:"phone_info"`
	}
	if err := json.Unmarshal(a.body, &r); err != nil || r.Info == nil || r.Info.Watermark == nil ||
		!shortText(r.Info.PurePhoneNumber) || !shortText(string(r.Info.CountryCode)) {
		return PhoneNumber{}, d.nonsense("no usable phone number in the answer")
	}
	at := time.Unix(int64(r.Info.Watermark.Timestamp), 0)
	if r.Info.Watermark.AppID != app.ID {
		return PhoneNumber{}, d.nonsense("the phone number is another app's")
	}
	if age := c.Now().Sub(at); age > phoneAge || age < -phoneAge {
		e := d.nonsense("the phone number's time is more than ten minutes from ours")
		e.Advice = "check this server's clock"
		return PhoneNumber{}, e
	}
	d.observe(nil)
	return PhoneNumber{PhoneNumber: r.Info.PhoneNumber, PurePhoneNumber: r.Info.PurePhoneNumber,
		CountryCode: string(r.Info.CountryCode), Timestamp: at}, nil
}

type phoneOrigin struct {
	Timestamp intOrString `json:"timestamp"`
	AppID     string      `json:"appid"`
}

// WarmToken makes sure that an access token is available. A login runs it beside Code2Session,
// so that the phone code need not wait. It returns the same errors as PhoneNumber, which its
// caller may ignore. But an error that pauses the calls also goes to Log, because all other
// callers get it marked as repeated.
func (c *Client) WarmToken(ctx context.Context, app App) error {
	c.init()
	_, err := c.token(ctx, app)
	var e *Error
	if errors.As(err, &e) && !e.Repeated && (e.Kind == KindOperator || e.Kind == KindQuota) && c.Log != nil {
		c.Log(Event{AppID: app.ID, Err: e})
	}
	return err
}

func (c *Client) token(ctx context.Context, app App) (string, error) {
	return c.Tokens.Token(ctx, app, Fetcher{Fetch: c.fetchToken, Shared: c.Shared, Now: c.Now, Log: c.Log})
}

// fetchToken is the Fetch of the token sources.
func (c *Client) fetchToken(ctx context.Context, app App, r TokenRequest) (AccessToken, error) {
	key := pauseKey{CallToken, app.ID, r.Path + r.URL}
	if e := c.Transport.paused(key, app, c.Now()); e != nil {
		return AccessToken{}, e
	}
	// The token's life is counted from before the request: the time that the answer
	// takes is part of it.
	asked := c.Now()
	d := c.delivery(app, CallToken, "")
	a, e := d.send(ctx, outgoing{method: r.Method, path: r.Path, absolute: r.URL, query: r.Query, body: r.Body, bare: r.URL != ""})
	if e == nil {
		token, life := a.bare, bareTokenLife
		if token == "" {
			token, life = readToken(a.body)
			if life == 0 && r.URL != "" {
				life = bareTokenLife
			}
		}
		if printable(token, 1024) && life > 0 {
			d.observe(nil)
			c.fetched(app, nil)
			return AccessToken{Token: token, Fetched: asked, Expires: asked.Add(min(life, maxTokenLife))}, nil
		}
		e = d.nonsense("no usable access token in the answer")
	}
	if r.URL != "" && e.Status >= 400 && e.Status < 500 {
		e.Kind, e.RetryAfter = KindOperator, operatorPause
		e.Advice = "the external access token source refuses us: check its URL"
	}
	c.Transport.pause(key, app, e, c.Now())
	c.fetched(app, e)
	return AccessToken{}, e
}

func (c *Client) fetched(app App, e *Error) {
	if c.Observer != nil {
		c.Observer.Fetched(app.ID, e)
	}
}

// shortText reports whether s can be (part of) a phone number: not empty, not long.
func shortText(s string) bool { return s != "" && len(s) <= 32 }

// printable reports whether s is visible ASCII, 1 to limit characters.
func printable(s string, limit int) bool {
	return s != "" && len(s) <= limit && !slices.ContainsFunc([]byte(s), func(b byte) bool { return b <= ' ' || b > '~' })
}
