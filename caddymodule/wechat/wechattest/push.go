package wechattest

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Push is a message to an app's server about one of the app's users, as the message
// push in secure mode sends it.
type Push struct {
	AppID string `json:"appid"`
	// User names the person, as in [Simulator.Mint].
	User string `json:"user"`
	// Event is user_authorization_revoke, user_authorization_cancellation, or any
	// other.
	Event string `json:"event"`
	// RevokeInfo lists what was withdrawn: "8" is the phone number.
	RevokeInfo string `json:"revoke_info"`
	// PluginID is the plugin to which the authorization was given.
	PluginID string `json:"plugin_id"`
	// XML writes the message as XML instead of JSON.
	XML bool `json:"xml"`
	// Forge, if not empty, makes the message a forgery of that kind.
	Forge Forgery `json:"forge"`
	// Text, if not empty, is sent unchanged instead of the event.
	Text string `json:"text"`
}

// Forgery is a kind of forged message.
type Forgery string

// These are the forgeries. All but the first two are signed with the app's token.
const (
	ForgeNothing   Forgery = ""
	ForgeSignature Forgery = "signature" // signed with another token
	ForgePlain     Forgery = "plain"     // plain mode: neither encrypted nor signed as a whole
	ForgeKey       Forgery = "key"       // encrypted with another key
	ForgeApp       Forgery = "app"       // made for another app
	ForgePadding   Forgery = "padding"   // padded wrongly
	ForgeLength    Forgery = "length"    // claims a length beyond its end
	ForgeOld       Forgery = "old"       // from an hour ago
	ForgeAhead     Forgery = "ahead"     // from an hour ahead
)

// Delivery is a message that can be sent any number of times, unchanged each time. An attacker
// who has recorded a message can do that. WeChat does it too when it gets no answer.
type Delivery struct {
	Query       url.Values
	ContentType string
	Body        []byte
}

// PushAnswer is the answer of the app's server.
type PushAnswer struct {
	Status int    `json:"status"`
	Body   string `json:"body"`
}

// Push makes a message of the app, which must have a PushToken and a PushKey,
// and sends it to the address.
func (s *Simulator) Push(ctx context.Context, address string, p Push) (PushAnswer, error) {
	d, err := s.Deliver(p)
	if err != nil {
		return PushAnswer{}, err
	}
	return d.Send(ctx, address)
}

// Deliver makes a message without sending it.
func (s *Simulator) Deliver(p Push) (Delivery, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, err := s.app(p.AppID)
	if err != nil {
		return Delivery{}, err
	}
	if app.PushToken == "" || app.PushKey == "" {
		return Delivery{}, fmt.Errorf("app %s has no push_token or no push_key", app.ID)
	}
	now := s.now()
	text := []byte(p.Text)
	if p.Text == "" {
		text = p.write(message{
			{"ToUserName", "gh_97417a04a28d"},
			{"FromUserName", "o9AgO5Kd5ggOC-bXrbNODIiE3bGY"},
			{"CreateTime", now.Unix()},
			{"MsgType", "event"},
			{"Event", p.Event},
			{"OpenID", app.openID(p.User)},
			{"AppID", app.ID},
			{"RevokeInfo", p.RevokeInfo},
			{"PluginID", p.PluginID},
			{"OpenPID", ""},
		})
	}
	return p.seal(&app.App, text, now)
}

// Handshake returns the request with which WeChat's console verifies an address. Its
// answer must be the echostr.
func (s *Simulator) Handshake(appid, echostr string) (Delivery, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, err := s.app(appid)
	if err != nil {
		return Delivery{}, err
	}
	timestamp, nonce := strconv.FormatInt(s.now().Unix(), 10), number()
	return Delivery{Query: url.Values{
		"signature": {Signature(app.PushToken, timestamp, nonce)},
		"timestamp": {timestamp}, "nonce": {nonce}, "echostr": {echostr},
	}}, nil
}

// seal encrypts and signs the text.
func (p Push) seal(app *App, text []byte, now time.Time) (Delivery, error) {
	token, encodingKey, id := app.PushToken, app.PushKey, app.ID
	switch p.Forge {
	case ForgeSignature:
		token = "not" + token
	case ForgeKey:
		encodingKey = "B" + encodingKey[1:]
	case ForgeApp:
		id = "wxffffffffffffffff"
	case ForgeOld:
		now = now.Add(-time.Hour)
	case ForgeAhead:
		now = now.Add(time.Hour)
	}
	timestamp, nonce := strconv.FormatInt(now.Unix(), 10), number()
	d := Delivery{ContentType: "application/json", Query: url.Values{
		"signature": {Signature(token, timestamp, nonce)}, "timestamp": {timestamp}, "nonce": {nonce}, "openid": {app.openID(p.User)},
	}}
	if p.XML {
		d.ContentType = "text/xml"
	}
	if p.Forge == ForgePlain {
		d.Body = text
		return d, nil
	}
	key, err := base64.StdEncoding.DecodeString(encodingKey + "=")
	if err != nil || len(key) != 32 {
		return Delivery{}, errors.New("push_key must be 43 characters of base64")
	}
	encrypted := base64.StdEncoding.EncodeToString(p.encrypt(key, text, id))
	d.Query.Set("encrypt_type", "aes")
	d.Query.Set("msg_signature", Signature(token, timestamp, nonce, encrypted))
	d.Body = p.write(message{{"ToUserName", "gh_97417a04a28d"}, {"Encrypt", encrypted}})
	return d, nil
}

func (p Push) encrypt(key, text []byte, appid string) []byte {
	var plain []byte
	plain = append(plain, rand.Text()[:16]...)
	length := len(text)
	if p.Forge == ForgeLength {
		length = 1 << 30
	}
	plain = binary.BigEndian.AppendUint32(plain, uint32(length))
	plain = append(plain, text...)
	plain = append(plain, appid...)
	pad := 32 - len(plain)%32
	plain = append(plain, bytes.Repeat([]byte{byte(pad)}, pad)...)
	if p.Forge == ForgePadding {
		plain[len(plain)-1] = 33
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // cannot happen: 32 bytes are a valid key
	}
	cipher.NewCBCEncrypter(block, key[:16]).CryptBlocks(plain, plain)
	return plain
}

// message is a flat object whose members keep their order.
type message []struct {
	name  string
	value any
}

func (p Push) write(ms message) []byte {
	var b strings.Builder
	if p.XML {
		b.WriteString("<xml>")
		for _, m := range ms {
			if text, ok := m.value.(string); ok {
				fmt.Fprintf(&b, "<%s><![CDATA[%s]]></%[1]s>", m.name, text)
			} else {
				fmt.Fprintf(&b, "<%s>%v</%[1]s>", m.name, m.value)
			}
		}
		b.WriteString("</xml>")
		return []byte(b.String())
	}
	for i, m := range ms {
		value, err := json.Marshal(m.value)
		if err != nil {
			panic(err) // cannot happen: the values are texts and numbers
		}
		fmt.Fprintf(&b, "%c%q:%s", "{,"[min(i, 1)], m.name, value)
	}
	return []byte(b.String() + "}")
}

// Signature returns the lower-case hexadecimal SHA-1 of the parts, in the order in
// which WeChat signs its messages.
func Signature(parts ...string) string {
	slices.Sort(parts)
	sum := sha1.Sum([]byte(strings.Join(parts, "")))
	return hex.EncodeToString(sum[:])
}

// number is a nonce as WeChat writes it.
func number() string {
	var b [4]byte
	rand.Read(b[:])
	return strconv.FormatUint(uint64(binary.BigEndian.Uint32(b[:])), 10)
}

// Send sends the message, or a handshake if it has no body, with WeChat's five
// seconds for an answer.
func (d Delivery) Send(ctx context.Context, address string) (PushAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	method := http.MethodPost
	if d.Body == nil {
		method = http.MethodGet
	}
	r, err := http.NewRequestWithContext(ctx, method, address+"?"+d.Query.Encode(), bytes.NewReader(d.Body))
	if err != nil {
		return PushAnswer{}, err
	}
	if d.ContentType != "" {
		r.Header.Set("Content-Type", d.ContentType)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return PushAnswer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxRequest))
	return PushAnswer{response.StatusCode, string(body)}, err
}
