package rig

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	answerTime = 30 * time.Second // for one request by Client
	RawTime    = 10 * time.Second // for one request by Raw
)

// Client acts as the mini program of one gateway. It is safe for concurrent use. A
// failed exchange is reported in the [Answer].
type Client struct {
	Base string // http://host:port
	HTTP *http.Client
}

// NewClient returns a client of the gateway at base. It follows no redirects.
func NewClient(t testing.TB, base string) *Client {
	t.Helper()
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	return &Client{Base: base, HTTP: &http.Client{
		Transport:     transport,
		Timeout:       answerTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Client returns a client of this Caddy. [Caddy.Reload] closes its idle connections.
func (c *Caddy) Client() *Client {
	client := NewClient(c.t, c.URL())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clients = append(c.clients, client)
	return client
}

// Answer is the answer to a request. Err is a failure of the exchange itself, with
// Status 0.
type Answer struct {
	Status int
	Header http.Header
	Body   string
	Err    error
}

// Do sends a request. A string is sent as the body unchanged, and any other body but
// nil as JSON. Both get the JSON content type unless headers ("Name: value") contain
// one. A header written "Name:" is left out of the request.
func (c *Client) Do(method, path string, body any, headers ...string) Answer {
	var text string
	switch b := body.(type) {
	case nil:
	case string:
		text = b
	default:
		raw, err := json.Marshal(body)
		if err != nil {
			return Answer{Err: err}
		}
		text = string(raw)
	}
	r, err := http.NewRequest(method, c.Base+path, strings.NewReader(text))
	if err != nil {
		return Answer{Err: err}
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ":")
		r.Header.Del(name)
		if value = strings.TrimSpace(value); value != "" {
			r.Header.Set(name, value)
		}
	}
	resp, err := c.HTTP.Do(r)
	if err != nil {
		return Answer{Err: err}
	}
	return ReadAnswer(resp)
}

// Get sends a GET, with the token unless that is empty.
func (c *Client) Get(path, token string, headers ...string) Answer {
	return c.Do(http.MethodGet, path, nil, append(Bearer(token), headers...)...)
}

// Login sends a phone login.
func (c *Client) Login(code, phoneCode string) Answer {
	return c.Do(http.MethodPost, "/auth/wx", map[string]string{"code": code, "phoneCode": phoneCode})
}

// Silent sends a login with wx.login's code alone.
func (c *Client) Silent(code string) Answer {
	return c.Do(http.MethodPost, "/auth/wx", map[string]string{"code": code})
}

// Refresh requests the next pair.
func (c *Client) Refresh(refreshToken string) Answer {
	return c.Do(http.MethodPost, "/auth/wx/refresh", map[string]string{"refreshToken": refreshToken})
}

// Logout ends the session of the token, of the refresh token, or of both. An empty
// token is not sent. all ends every session of the user.
func (c *Client) Logout(token, refreshToken string, all bool) Answer {
	var body any
	if members := map[string]any{}; refreshToken != "" || all {
		if refreshToken != "" {
			members["refreshToken"] = refreshToken
		}
		if all {
			members["all"] = true
		}
		body = members
	}
	return c.Do(http.MethodPost, "/auth/wx/logout", body, Bearer(token)...)
}

// Me requests the user of the token.
func (c *Client) Me(token string) Answer { return c.Get("/auth/wx/me", token) }

// ChangePhone gives the user of the token the number of a phone code.
func (c *Client) ChangePhone(token, phoneCode string) Answer {
	return c.Do(http.MethodPost, "/auth/wx/phone", map[string]string{"phoneCode": phoneCode}, Bearer(token)...)
}

func Bearer(token string) []string {
	if token == "" {
		return nil
	}
	return []string{"Authorization: Bearer " + token}
}

// Pair is the answer to a login, or to a refresh, which has no UserInfo.
type Pair struct {
	Token            string    `json:"token"`
	TokenType        string    `json:"tokenType"`
	ExpiresIn        int       `json:"expiresIn"`
	RefreshToken     string    `json:"refreshToken"`
	RefreshExpiresIn int       `json:"refreshExpiresIn"`
	UserInfo         *UserInfo `json:"userInfo"`
}

// UserInfo is the user as in the answers of a login and of /auth/wx/me.
type UserInfo struct {
	ID              string `json:"id"`
	PhoneNumber     string `json:"phoneNumber"`
	PurePhoneNumber string `json:"purePhoneNumber"`
	CountryCode     string `json:"countryCode"`
	IsNew           bool   `json:"isNew"`
}

// Problem is the body of an error. Renew is nil if the member is absent.
type Problem struct {
	Title     string   `json:"title"`
	Status    int      `json:"status"`
	Detail    string   `json:"detail"`
	Code      string   `json:"code"`
	RequestID string   `json:"requestId"`
	Renew     []string `json:"renew"`
}

// decoded returns the body of a successful answer.
func decoded[T any](t testing.TB, a Answer) (body T) {
	t.Helper()
	a.Want(t, http.StatusOK)
	a.Decode(t, "application/json", &body)
	return body
}

// Changed is the answer to a change of number.
type Changed struct {
	Token     string   `json:"token"`
	ExpiresIn int      `json:"expiresIn"`
	UserInfo  UserInfo `json:"userInfo"`
}

// Changed returns the body of a successful change of number. Otherwise the test ends.
func (a Answer) Changed(t testing.TB) Changed {
	t.Helper()
	return decoded[Changed](t, a)
}

// Pair returns the pair in a successful answer to a login or refresh. Otherwise the
// test ends.
func (a Answer) Pair(t testing.TB) Pair {
	t.Helper()
	p := decoded[Pair](t, a)
	if p.Token == "" || p.RefreshToken == "" {
		t.Fatalf("no pair in %s", a.Body)
	}
	return p
}

// UserInfo returns the body of a successful answer of /auth/wx/me.
func (a Answer) UserInfo(t testing.TB) UserInfo {
	t.Helper()
	return decoded[UserInfo](t, a)
}

// Seen returns the request that the upstream got, from its usual answer.
func (a Answer) Seen(t testing.TB) Seen {
	t.Helper()
	return decoded[Seen](t, a)
}

// Problem returns the body of an error. Otherwise the test ends.
func (a Answer) Problem(t testing.TB) Problem {
	t.Helper()
	if a.Err != nil {
		t.Fatal(a.Err)
	}
	var p Problem
	a.Decode(t, "application/problem+json", &p)
	if p.Status != a.Status {
		a.suspect(t)
		t.Errorf("status %d in the body of a %d", p.Status, a.Status)
	}
	return p
}

// Want ends the test if the status is not this one.
func (a Answer) Want(t testing.TB, status int) {
	t.Helper()
	if a.Err != nil {
		t.Fatal(a.Err)
	}
	if a.Status != status {
		a.suspect(t)
		t.Fatalf("status %d, want %d: %s", a.Status, status, a.Body)
	}
}

// WantProblem fails the test if the answer is not that error. renew is compared unless
// it is nil.
func (a Answer) WantProblem(t testing.TB, status int, code string, renew []string) {
	t.Helper()
	p := a.Problem(t)
	if a.Status != status || p.Code != code {
		a.suspect(t)
		t.Errorf("%d %s, want %d %s: %s", a.Status, p.Code, status, code, a.Body)
	}
	if renew != nil && (p.Renew == nil || !slices.Equal(p.Renew, renew)) {
		t.Errorf("renew %q, want %q: %s", p.Renew, renew, a.Body)
	}
}

func (a Answer) Decode(t testing.TB, contentType string, v any) {
	t.Helper()
	if got, _, _ := strings.Cut(a.Header.Get("Content-Type"), ";"); got != contentType {
		t.Fatalf("content type %q, want %s: %s", got, contentType, a.Body)
	}
	if err := json.Unmarshal([]byte(a.Body), v); err != nil {
		t.Fatalf("%v in %s", err, a.Body)
	}
}

// Raw sends the bytes of a request, including line ends, over a new connection and
// reads one answer. It is for requests that net/http would refuse to send.
func Raw(addr, request string) Answer {
	conn, err := net.DialTimeout("tcp", addr, RawTime)
	if err != nil {
		return Answer{Err: err}
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(RawTime)); err != nil {
		return Answer{Err: err}
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return Answer{Err: err}
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return Answer{Err: fmt.Errorf("reading the answer: %w", err)}
	}
	return ReadAnswer(resp)
}

func ReadAnswer(resp *http.Response) Answer {
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return Answer{Err: fmt.Errorf("reading the answer: %w", err)}
	}
	return Answer{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}
}
