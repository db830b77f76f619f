package wechat_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

var app = wechat.App{ID: "wx0123456789abcdef", Secret: "0123456789abcdef0123456789abcdef"}

type chain struct {
	sim    *wechattest.Simulator
	server *httptest.Server
	client *wechat.Client
}

func newChain(t *testing.T, tokens wechat.TokenSource, edit func(*wechattest.App)) *chain {
	t.Helper()
	a := wechattest.App{ID: app.ID, Secret: app.Secret}
	if edit != nil {
		edit(&a)
	}
	ch := &chain{sim: wechattest.New(wechattest.Options{Apps: []wechattest.App{a}})}
	ch.server = httptest.NewServer(ch.sim)
	t.Cleanup(ch.server.Close)
	transport := wechat.NewTransport()
	t.Cleanup(transport.Close)
	ch.client = &wechat.Client{APIs: []string{ch.server.URL}, Timeout: 2 * time.Second, Tokens: tokens, Transport: transport, Now: ch.sim.Now}
	return ch
}

func (ch *chain) mint(t *testing.T, n int) wechattest.Codes {
	t.Helper()
	codes, err := ch.sim.Mint(app.ID, "", wechattest.Phone{Number: fmt.Sprintf("138%08d", n)})
	if err != nil {
		t.Fatal(err)
	}
	return codes
}

// login makes the three calls. The error must contain no secret that the simulator
// knows.
func (ch *chain) login(t *testing.T, codes wechattest.Codes) (wechat.PhoneNumber, error) {
	t.Helper()
	ctx := context.Background()
	s, err := ch.client.Code2Session(ctx, app, codes.Code)
	var n wechat.PhoneNumber
	if err == nil {
		if s.OpenID != codes.OpenID {
			t.Errorf("openid %q, want %q", s.OpenID, codes.OpenID)
		}
		n, err = ch.client.PhoneNumber(ctx, app, codes.PhoneCode, s.OpenID)
	}
	if err != nil {
		j, _ := json.Marshal(err)
		text := fmt.Sprintf("%v %+v %#v %s", err, err, err, j)
		for _, secret := range ch.sim.Secrets() {
			if strings.Contains(text, secret) {
				t.Errorf("%q shows %q", text, secret)
			}
		}
	}
	return n, err
}

// TestChainAgainstTheSimulator logs in all day with each kind of token and each shape
// of answer that WeChat documents. No token is ever refused, and a code works once.
func TestChainAgainstTheSimulator(t *testing.T) {
	for name, tt := range map[string]struct {
		tokens wechat.TokenSource
		edit   func(*wechattest.App)
	}{
		"stable":  {wechat.NewStableToken(), nil},
		"classic": {wechat.NewClassicToken(), nil},
		"documented shapes": {wechat.NewStableToken(), func(a *wechattest.App) {
			a.StringErrcode, a.ErrcodeOnSuccess, a.NumberCountryCode, a.OpenPlatform = true, true, true, "platform"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ch := newChain(t, tt.tokens, tt.edit)
			// One login every 50 minutes, for a day: no token is ever refused.
			for i := range 29 {
				n, err := ch.login(t, ch.mint(t, i))
				if err != nil || n.CountryCode != "86" || n.PurePhoneNumber != fmt.Sprintf("138%08d", i) {
					t.Fatalf("login %d: %v %v", i, n, err)
				}
				ch.sim.Advance(50 * time.Minute)
			}
			c := ch.sim.Count(wechattest.PhoneNumber)
			if c.Total != 29 || c.Outcomes["ok"] != 29 {
				t.Errorf("phone calls %v", c)
			}
			codes := ch.mint(t, 99)
			if _, err := ch.login(t, codes); err != nil {
				t.Fatal(err)
			}
			var e *wechat.Error
			if _, err := ch.login(t, codes); !errors.As(err, &e) || e.Kind != wechat.KindLoginCode || e.Code != 40163 {
				t.Errorf("the same code again: %v", err)
			}
		})
	}
}

// TestExternalTokenOfTheSimulator takes tokens from a central service, and none from
// WeChat.
func TestExternalTokenOfTheSimulator(t *testing.T) {
	for _, format := range []string{"", "&format=bare"} {
		ch := newChain(t, nil, nil)
		ch.client.Tokens = wechat.NewExternalToken(ch.server.URL + "/central/token?appid={appid}" + format)
		if _, err := ch.login(t, ch.mint(t, 1)); err != nil {
			t.Errorf("%q: %v", format, err)
		}
		if ch.sim.Count(wechattest.StableToken).Total != 0 {
			t.Error("asked WeChat for a token")
		}
	}
}

// TestEveryFaultAccountsForThePhoneCode injects each fault into the call that spends a
// phone code, which costs money. Either the code is exchanged, or the client must fetch
// a new one, or the same code may be sent again.
func TestEveryFaultAccountsForThePhoneCode(t *testing.T) {
	for _, kind := range []wechattest.Kind{wechattest.Reset, wechattest.Close, wechattest.Status, wechattest.HTML, wechattest.Empty,
		wechattest.Truncated, wechattest.Cut, wechattest.Oversized, wechattest.Endless, wechattest.Redirect} {
		for _, late := range []bool{false, true} {
			for _, times := range []int{1, 2} {
				t.Run(fmt.Sprintf("%s late=%v times=%d", kind, late, times), func(t *testing.T) {
					ch := newChain(t, wechat.NewStableToken(), nil)
					codes := ch.mint(t, 1)
					if err := ch.sim.Inject(wechattest.Fault{Call: wechattest.PhoneNumber, Kind: kind, Late: late, Count: times}); err != nil {
						t.Fatal(err)
					}
					_, err := ch.login(t, codes)
					var e *wechat.Error
					spent := !ch.sim.PhoneCodes()[0].Exchanged.IsZero()
					switch {
					case times == 1 && !late:
						if err != nil {
							t.Errorf("not saved by the second try: %v", err)
						}
					case !errors.As(err, &e) || !e.Unanswered || !e.Kind.WeChat():
						t.Errorf("got %#v", err)
					case times == 1 && (!spent || fmt.Sprint(e.Renew) != "[phoneCode]"):
						t.Errorf("spent %v, renew %v", spent, e.Renew)
					case times == 2 && len(e.Renew) != 0:
						t.Errorf("renew %v", e.Renew)
					}
					if n := ch.sim.Count(wechattest.PhoneNumber).Total; n > 2 {
						t.Errorf("the code was sent %d times", n)
					}
					if n := ch.sim.Count(wechattest.Redirected).Total; n != 0 {
						t.Error("followed a redirect")
					}
				})
			}
		}
	}
}

// TestRevokedTokenUnder200Logins revokes the access token before 200 concurrent logins:
// all of them succeed with one further fetch.
func TestRevokedTokenUnder200Logins(t *testing.T) {
	for name, src := range map[string]wechat.TokenSource{"stable": wechat.NewStableToken(), "classic": wechat.NewClassicToken()} {
		ch := newChain(t, src, nil)
		ch.client.Timeout = time.Minute // long enough for 200 concurrent logins on a slow machine
		call := map[string]wechattest.Call{"stable": wechattest.StableToken, "classic": wechattest.ClassicToken}[name]
		if _, err := ch.login(t, ch.mint(t, 999)); err != nil {
			t.Fatal(err)
		}
		if err := ch.sim.RevokeTokens(app.ID); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for i := range 200 {
			codes := ch.mint(t, i)
			all.Go(func() {
				if _, err := ch.login(t, codes); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := ch.sim.Count(call).Total; n != 2 {
			t.Errorf("%s: %d fetches", name, n)
		}
	}
}

// TestSimulatorRefusesAnothersPhoneCode sends the phone code of another user: it must
// not log the attacker in with the victim's number.
func TestSimulatorRefusesAnothersPhoneCode(t *testing.T) {
	ch := newChain(t, wechat.NewStableToken(), nil)
	mine, theirs := ch.mint(t, 1), ch.mint(t, 2)
	mine.PhoneCode = theirs.PhoneCode
	var e *wechat.Error
	if _, err := ch.login(t, mine); !errors.As(err, &e) || !e.Kind.Client() || !strings.Contains(fmt.Sprint(e.Renew), "phoneCode") {
		t.Errorf("got %v", err)
	}
}

// TestWhitelistNamesOurAddress calls from an address that is not whitelisted: the error
// names the address for the operator, and calls pause.
func TestWhitelistNamesOurAddress(t *testing.T) {
	ch := newChain(t, wechat.NewStableToken(), func(a *wechattest.App) { a.Whitelist, a.CallerIP = []string{"192.0.2.1"}, "198.51.100.7" })
	var e *wechat.Error
	if _, err := ch.login(t, ch.mint(t, 1)); !errors.As(err, &e) || e.Code != 40164 || e.IP != "198.51.100.7" || e.RID == "" {
		t.Errorf("got %#v", err)
	}
	for range 5 {
		ch.login(t, ch.mint(t, 1))
	}
	if n := ch.sim.Count(wechattest.Code2Session).Total; n != 1 {
		t.Errorf("WeChat was asked %d times", n)
	}
}
