package wechat_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// FuzzPush opens arbitrary bytes as the body of a request, as the encrypted part under
// a valid signature, and as the message under valid encryption. It never panics, and
// the error is one of the documented ones.
func FuzzPush(f *testing.F) {
	for _, seed := range []string{
		`{"Encrypt":"AAAA"}`, `<xml><Encrypt><![CDATA[AAAA]]></Encrypt></xml>`, `{`, `<`, "", "\xef\xbb\xbf{}",
		`{"MsgType":"event","Event":"user_authorization_revoke","RevokeInfo":"8","OpenID":"o1","CreateTime":1627359464}`,
		`<xml><MsgType>event</MsgType><Event>user_authorization_cancellation</Event><OpenID>o1</OpenID><CreateTime>1</CreateTime></xml>`,
		`<!DOCTYPE xml [<!ENTITY a "a">]><xml><a>&a;</a></xml>`, `{"a":{"b":[{}]},"a":1}`, `<a:b xmlns:a="c"><d/><![CDATA[]]></a:b>`,
	} {
		f.Add([]byte(seed))
	}
	sim := wechattest.New(wechattest.Options{Apps: []wechattest.App{{ID: "wxA", Secret: "s", PushToken: pushToken, PushKey: pushKey}}})
	p, err := wechat.NewPushReceiver("wxA", pushToken, pushKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		now := sim.Now()
		open := func(kind string, query url.Values, body []byte) error {
			m, err := p.Open(query, body, now)
			switch {
			case err == nil:
				if m.Leaves() && (m.OpenID == "" || m.CreatedAt.IsZero()) {
					t.Errorf("%s: nobody leaves: %+v", kind, m)
				}
			case m != wechat.PushMessage{}:
				t.Errorf("%s: refused, yet %+v", kind, m)
			case !errors.Is(err, wechat.ErrPushForm) && !errors.Is(err, wechat.ErrPushSignature) && !errors.Is(err, wechat.ErrPushKey) && !errors.Is(err, wechat.ErrPushApp):
				t.Errorf("%s: %v", kind, err)
			}
			return err
		}
		timestamp := fmt.Sprint(now.Unix())
		query := url.Values{"msg_signature": {"0"}, "timestamp": {timestamp}, "nonce": {"1"}}
		if open("the body", query, data) == nil {
			t.Error("a body without a signature was opened")
		}
		encrypted := base64.StdEncoding.EncodeToString(data)
		query.Set("msg_signature", wechattest.Signature(pushToken, timestamp, "1", encrypted))
		body, err := json.Marshal(map[string]string{"Encrypt": encrypted})
		if err != nil {
			t.Fatal(err)
		}
		open("the encrypted part", query, body)
		if len(data) == 0 || len(data) > 32<<10 {
			return
		}
		d, err := sim.Deliver(wechattest.Push{AppID: "wxA", Text: string(data)})
		if err != nil {
			t.Fatal(err)
		}
		if d.Query.Get("timestamp") != timestamp {
			now = time.Now()
		}
		open("the message", d.Query, d.Body)
	})
}
