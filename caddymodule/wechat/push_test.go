package wechat_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// vector is an example that WeChat publishes.
type vector struct {
	Token, Timestamp, Nonce, Echostr, Signature, Body, Encrypt, AppID, Msg string

	EncodingAESKey string `json:"encoding_aes_key"`
	MsgSignature   string `json:"msg_signature"`
}

// vectors returns the examples in WeChat's documentation of the message push.
func vectors(t *testing.T) map[string]vector {
	t.Helper()
	data, err := os.ReadFile("testdata/push.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]vector
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func (v vector) at(t *testing.T) time.Time {
	t.Helper()
	var seconds int64
	if _, err := fmt.Sscan(v.Timestamp, &seconds); err != nil {
		t.Fatal(err)
	}
	return time.Unix(seconds, 0)
}

func receiver(t *testing.T, appid, token, key string) *wechat.PushReceiver {
	t.Helper()
	p, err := wechat.NewPushReceiver(appid, token, key)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPushVectorsOfWeChat opens WeChat's own examples, in JSON and in XML.
func TestPushVectorsOfWeChat(t *testing.T) {
	all := vectors(t)
	message := all["push_aes_post"]
	p := receiver(t, message.AppID, message.Token, message.EncodingAESKey)

	hello := all["push_verify_get"]
	query := url.Values{"signature": {hello.Signature}, "timestamp": {hello.Timestamp}, "nonce": {hello.Nonce}, "echostr": {hello.Echostr}}
	if echo, err := p.Echo(query, hello.at(t)); err != nil || echo != hello.Echostr {
		t.Errorf("the handshake: %q %v", echo, err)
	}

	query = url.Values{"msg_signature": {message.MsgSignature}, "timestamp": {message.Timestamp}, "nonce": {message.Nonce}}
	body := fmt.Sprintf(`{"ToUserName":"gh_97417a04a28d","Encrypt":%q}`, message.Encrypt)
	m, err := p.Open(query, []byte(body), message.at(t))
	if err != nil || m.Event != "debug_demo" || m.Leaves() || m.CreatedAt.Unix() != 1714112445 {
		t.Errorf("the message: %+v %v", m, err)
	}
	xml := fmt.Sprintf(`<xml><ToUserName><![CDATA[gh_97417a04a28d]]></ToUserName><Encrypt><![CDATA[%s]]></Encrypt></xml>`, message.Encrypt)
	if m, err := p.Open(query, []byte(xml), message.at(t)); err != nil || m.Event != "debug_demo" {
		t.Errorf("the message in XML: %+v %v", m, err)
	}

	// A reply by an app has the same form.
	reply := all["push_aes_reply"]
	query = url.Values{"msg_signature": {reply.MsgSignature}, "timestamp": {reply.Timestamp}, "nonce": {reply.Nonce}}
	body = fmt.Sprintf(`{"Encrypt":%q}`, reply.Encrypt)
	if m, err := p.Open(query, []byte(body), reply.at(t)); err != nil || m.Event != "" {
		t.Errorf("the reply: %+v %v", m, err)
	}

	// The signature of plain mode does not cover the message.
	plain := all["push_plain_post"]
	query = url.Values{"signature": {plain.Signature}, "timestamp": {plain.Timestamp}, "nonce": {plain.Nonce}}
	if _, err := p.Open(query, []byte(plain.Body), plain.at(t)); !errors.Is(err, wechat.ErrPushForm) {
		t.Errorf("plain mode: %v", err)
	}
}

const (
	pushToken = "tokenTOKEN0123456789"
	pushKey   = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
)

// pushing returns a simulator whose app receives pushes, and the receiver.
func pushing(t *testing.T) (*wechattest.Simulator, *wechat.PushReceiver) {
	t.Helper()
	sim := wechattest.New(wechattest.Options{Apps: []wechattest.App{{ID: "wxA", Secret: "s", PushToken: pushToken, PushKey: pushKey}}})
	return sim, receiver(t, "wxA", pushToken, pushKey)
}

func deliver(t *testing.T, sim *wechattest.Simulator, p wechattest.Push) wechattest.Delivery {
	t.Helper()
	p.AppID = "wxA"
	d, err := sim.Deliver(p)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestPushReportsWhoLeaves pushes each event about accounts: the user has left after a
// cancelled account or a revoked phone number, and after nothing else.
func TestPushReportsWhoLeaves(t *testing.T) {
	sim, p := pushing(t)
	codes, err := sim.MintLogin("wxA", "ann")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		push   wechattest.Push
		leaves bool
	}{
		{wechattest.Push{Event: "user_authorization_revoke", RevokeInfo: "8"}, true},
		{wechattest.Push{Event: "user_authorization_revoke", RevokeInfo: "6, 8"}, true},
		{wechattest.Push{Event: "user_authorization_cancellation"}, true},
		{wechattest.Push{Event: "user_authorization_revoke", RevokeInfo: "6"}, false},
		{wechattest.Push{Event: "user_authorization_revoke", RevokeInfo: "18"}, false},
		{wechattest.Push{Event: "user_authorization_revoke", RevokeInfo: "8", PluginID: "wxplugin"}, false},
		{wechattest.Push{Event: "user_info_modified"}, false},
		{wechattest.Push{Event: "debug_demo"}, false},
	} {
		for _, asXML := range []bool{false, true} {
			c.push.User, c.push.XML = "ann", asXML
			d := deliver(t, sim, c.push)
			m, err := p.Open(d.Query, d.Body, sim.Now())
			if err != nil || m.Leaves() != c.leaves || m.Event != c.push.Event || m.OpenID != codes.OpenID {
				t.Errorf("%+v: %+v %v", c.push, m, err)
			}
		}
	}
}

// TestPushReadsWeChatsSpellings pushes messages spelled as in WeChat's own example:
// with numbers in quotes or not, and blanks in names.
func TestPushReadsWeChatsSpellings(t *testing.T) {
	sim, p := pushing(t)
	const rest = `"MsgType":"Event","Event":"user_authorization_revoke"`
	for text, leaves := range map[string]bool{
		`{"CreateTime":1627359464,` + rest + `," OpenID":"o1"," AppID":"wxA"," RevokeInfo":"8"}`:                                                                                 true,
		`{"CreateTime":"1627359464",` + rest + `,"OpenID":"o1","RevokeInfo":8}`:                                                                                                  true,
		"\xef\xbb\xbf {\"CreateTime\":1627359464," + rest + `,"OpenID":"o1","RevokeInfo":8,"List":[{"RevokeInfo":1}]}`:                                                           true,
		`{"MsgType":"text","Content":"user_authorization_revoke","RevokeInfo":"8","CreateTime":1627359464}`:                                                                      false,
		`<xml><MsgType>event</MsgType><Event>user_authorization_cancellation</Event><OpenID> o1 </OpenID><CreateTime>1627359464</CreateTime><List><Event>x</Event></List></xml>`: true,
	} {
		d := deliver(t, sim, wechattest.Push{Text: text})
		m, err := p.Open(d.Query, d.Body, sim.Now())
		if err != nil || m.Leaves() != leaves || leaves && (m.OpenID != "o1" || m.CreatedAt.Unix() != 1627359464) {
			t.Errorf("%s: %+v %v", text, m, err)
		}
	}
}

// TestPushRefusesForgeries pushes messages with a forged signature, key, padding,
// length, app and time. A forged message could erase any user.
func TestPushRefusesForgeries(t *testing.T) {
	sim, p := pushing(t)
	for forge, want := range map[wechattest.Forgery]error{
		wechattest.ForgeSignature: wechat.ErrPushSignature, wechattest.ForgePlain: wechat.ErrPushForm,
		wechattest.ForgeKey: wechat.ErrPushKey, wechattest.ForgePadding: wechat.ErrPushKey, wechattest.ForgeLength: wechat.ErrPushKey,
		wechattest.ForgeApp: wechat.ErrPushApp, wechattest.ForgeOld: wechat.ErrPushTime, wechattest.ForgeAhead: wechat.ErrPushTime,
		wechattest.ForgeNothing: nil,
	} {
		d := deliver(t, sim, wechattest.Push{Event: "user_authorization_cancellation", User: "ann", Forge: forge})
		if m, err := p.Open(d.Query, d.Body, sim.Now()); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %+v %v; want %v", forge, m, err, want)
		}
	}
}

// TestPushRefusesAlteredMessages alters a genuine message in transit: its time, nonce,
// signature and body.
func TestPushRefusesAlteredMessages(t *testing.T) {
	sim, p := pushing(t)
	fresh := func() wechattest.Delivery {
		return deliver(t, sim, wechattest.Push{Event: "user_authorization_cancellation", User: "ann"})
	}
	for name, change := range map[string]func(*wechattest.Delivery){
		"another time":    func(d *wechattest.Delivery) { d.Query.Set("timestamp", fmt.Sprint(sim.Now().Unix()+1)) },
		"another nonce":   func(d *wechattest.Delivery) { d.Query.Set("nonce", "1") },
		"another message": func(d *wechattest.Delivery) { d.Body = fresh().Body },
		"upper case": func(d *wechattest.Delivery) {
			d.Query.Set("msg_signature", strings.ToUpper(d.Query.Get("msg_signature"))+"F")
		},
		"no signature":      func(d *wechattest.Delivery) { d.Query.Del("msg_signature") },
		"plain's signature": func(d *wechattest.Delivery) { d.Query.Set("msg_signature", d.Query.Get("signature")) },
		"two signatures":    func(d *wechattest.Delivery) { d.Query.Add("msg_signature", d.Query.Get("msg_signature")) },
		"no time":           func(d *wechattest.Delivery) { d.Query.Del("timestamp") },
		"two messages": func(d *wechattest.Delivery) {
			d.Body = []byte(strings.Replace(string(fresh().Body), "{", `{"Encrypt":"",`, 1))
		},
		"no body":     func(d *wechattest.Delivery) { d.Body = nil },
		"no object":   func(d *wechattest.Delivery) { d.Body = []byte(`"Encrypt"`) },
		"trailing":    func(d *wechattest.Delivery) { d.Body = append(d.Body, '}') },
		"half of XML": func(d *wechattest.Delivery) { d.Body = []byte("<xml><Encrypt>a</Encrypt>") },
		"too long":    func(d *wechattest.Delivery) { d.Body = append(d.Body, strings.Repeat(" ", wechat.MaxPush)...) },
	} {
		d := fresh()
		change(&d)
		if m, err := p.Open(d.Query, d.Body, sim.Now()); err == nil || m != (wechat.PushMessage{}) {
			t.Errorf("%s: %+v %v", name, m, err)
		}
	}
}

// TestPushRefusesXMLBombs pushes entities, declared or not, external files, and endless
// nesting.
func TestPushRefusesXMLBombs(t *testing.T) {
	sim, p := pushing(t)
	bombs := map[string]string{
		"entities": `<!DOCTYPE xml [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><xml><Encrypt>&b;</Encrypt></xml>`,
		"a file":   `<!DOCTYPE xml [<!ENTITY a SYSTEM "file:///etc/passwd">]><xml><Encrypt>&a;</Encrypt></xml>`,
		"a type":   `<!DOCTYPE xml><xml><MsgType>event</MsgType><Event>x</Event><Encrypt>a</Encrypt></xml>`,
		"unknown":  `<xml><Encrypt>&a;</Encrypt></xml>`,
		"deep":     strings.Repeat("<xml>", 10_000) + strings.Repeat("</xml>", 10_000),
		"twice":    `<xml></xml><xml><Encrypt>a</Encrypt></xml>`,
		"UTF-16":   `<?xml version="1.0" encoding="utf-16"?><xml><Encrypt>a</Encrypt></xml>`,
	}
	for name, bomb := range bombs {
		d := deliver(t, sim, wechattest.Push{Event: "x"})
		if _, err := p.Open(d.Query, []byte(bomb), sim.Now()); !errors.Is(err, wechat.ErrPushForm) {
			t.Errorf("%s around the message: %v", name, err)
		}
		// WeChat would not send such a message, but an attacker with the app's keys
		// could.
		d = deliver(t, sim, wechattest.Push{Text: bomb})
		if _, err := p.Open(d.Query, d.Body, sim.Now()); !errors.Is(err, wechat.ErrPushForm) {
			t.Errorf("%s as the message: %v", name, err)
		}
	}
}

// TestPushThatNamesNoUserIsRefused pushes an event about an account without a valid
// openid or time: nobody may be erased by it.
func TestPushThatNamesNoUserIsRefused(t *testing.T) {
	sim, p := pushing(t)
	for _, rest := range []string{
		``, `,"OpenID":""`, `,"OpenID":"o1","CreateTime":"soon"`, `,"CreateTime":1627359464,"OpenID":"o 1"`,
		`,"CreateTime":1627359464,"OpenID":"` + strings.Repeat("o", 129) + `"`, `,"CreateTime":1627359464,"OpenID":{"o":1}`,
	} {
		d := deliver(t, sim, wechattest.Push{Text: `{"MsgType":"event","Event":"user_authorization_cancellation"` + rest + `}`})
		if m, err := p.Open(d.Query, d.Body, sim.Now()); !errors.Is(err, wechat.ErrPushForm) {
			t.Errorf("%s: %+v %v", rest, m, err)
		}
	}
	d := deliver(t, sim, wechattest.Push{Text: `{"MsgType":"event","Event":"x","AppID":"wxB"}`})
	if _, err := p.Open(d.Query, d.Body, sim.Now()); !errors.Is(err, wechat.ErrPushApp) {
		t.Errorf("an event of another app: %v", err)
	}
}

// TestPushHandshakeRefuses sends malformed, old and forged verification requests: none
// of them is echoed.
func TestPushHandshakeRefuses(t *testing.T) {
	sim, p := pushing(t)
	fresh := func(echo string) url.Values {
		d, err := sim.Handshake("wxA", echo)
		if err != nil {
			t.Fatal(err)
		}
		return d.Query
	}
	if echo, err := p.Echo(fresh("4375120948345356249"), sim.Now()); err != nil || echo != "4375120948345356249" {
		t.Errorf("a good one: %q %v", echo, err)
	}
	for name, c := range map[string]struct {
		query url.Values
		at    time.Duration
	}{
		"empty":             {fresh(""), 0},
		"markup on lines":   {fresh("<b>\n</b>"), 0},
		"too long":          {fresh(strings.Repeat("1", 257)), 0},
		"old":               {fresh("1"), 6 * time.Minute},
		"ahead":             {fresh("1"), -6 * time.Minute},
		"without signature": {url.Values{"echostr": {"1"}}, 0},
	} {
		if echo, err := p.Echo(c.query, sim.Now().Add(c.at)); err == nil && echo != "" && name != "old" && name != "ahead" || err == nil {
			t.Errorf("%s: %q %v", name, echo, err)
		}
	}
	bad := fresh("1")
	bad.Set("nonce", "2")
	if _, err := p.Echo(bad, sim.Now()); !errors.Is(err, wechat.ErrPushSignature) {
		t.Errorf("another nonce: %v", err)
	}
}

// TestPushReceiverChecksTokenAndKey configures tokens and keys that WeChat's console
// cannot give: the error must not contain them, nor may the receiver print them.
func TestPushReceiverChecksTokenAndKey(t *testing.T) {
	for _, c := range []struct{ token, key string }{
		{"", pushKey}, {"ab", pushKey}, {strings.Repeat("a", 33), pushKey}, {"to-ken", pushKey},
		{pushToken, ""}, {pushToken, pushKey[1:]}, {pushToken, pushKey + "="}, {pushToken, pushKey[:42] + "-"},
	} {
		p, err := wechat.NewPushReceiver("wxA", c.token, c.key)
		if err == nil {
			t.Errorf("%q %q is taken", c.token, c.key)
		} else if len(c.token) > 2 && strings.Contains(err.Error(), c.token) || c.key != "" && strings.Contains(err.Error(), c.key) {
			t.Errorf("the error contains a secret: %v", err)
		}
		_ = p
	}
	p := receiver(t, "wxA", pushToken, pushKey)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if text := fmt.Sprintf(verb, p); text != "wxA" {
			t.Errorf("%s prints %q", verb, text)
		}
	}
	if text, err := json.Marshal(p); err != nil || strings.Contains(string(text), pushToken) {
		t.Errorf("as JSON: %s %v", text, err)
	}
}
