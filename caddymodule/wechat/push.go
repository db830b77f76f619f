package wechat

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The reasons to refuse a pushed message.
var (
	// ErrPushForm means that it does not have the form of WeChat's messages. This
	// includes pushes in plain or compatible mode, whose signature does not cover the
	// message.
	ErrPushForm = errors.New("not a message of the secure mode: in WeChat's console choose the secure mode (安全模式)")
	// ErrPushSignature means that it is not signed with the token.
	ErrPushSignature = errors.New("the signature is not made with this token: the token in WeChat's console must be the same")
	// ErrPushTime means that its time differs from ours by more than [PushAge].
	ErrPushTime = errors.New("its time is too far from ours: an old message sent again, or this server's clock is wrong")
	// ErrPushKey means that it cannot be decrypted.
	ErrPushKey = errors.New("it is not encrypted with this EncodingAESKey: the key in WeChat's console must be the same")
	// ErrPushApp means that it is meant for another app.
	ErrPushApp = errors.New("it is for another app")
)

const (
	// PushAge bounds the difference between a message's time and ours.
	PushAge = 5 * time.Minute
	// MaxPush bounds the body of a message, in bytes.
	MaxPush = 64 << 10

	maxEcho  = 256
	pushPad  = 32 // PKCS #7 with blocks of 32 bytes, although AES has blocks of 16
	pushHead = 16 + 4
)

// PushReceiver verifies and decrypts the messages that WeChat pushes to an app in
// secure mode. Printing it shows only the appid.
//
// https://developers.weixin.qq.com/miniprogram/dev/framework/server-ability/message-push.html
type PushReceiver struct {
	appid, token string
	key          []byte
}

var (
	pushTokenForm = regexp.MustCompile(`^[A-Za-z0-9]{3,32}$`)
	pushKeyForm   = regexp.MustCompile(`^[A-Za-z0-9+/]{43}$`)
	timestampForm = regexp.MustCompile(`^[0-9]{10}$`) // until the year 2286
)

// NewPushReceiver returns the receiver for an app, with the token and the
// EncodingAESKey from WeChat's console. Errors contain neither.
func NewPushReceiver(appid, token, encodingAESKey string) (*PushReceiver, error) {
	if !pushTokenForm.MatchString(token) {
		return nil, errors.New("the token has 3 to 32 letters and digits, as in WeChat's console")
	}
	if !pushKeyForm.MatchString(encodingAESKey) {
		return nil, errors.New("the EncodingAESKey has 43 letters and digits, as in WeChat's console")
	}
	// The decoding is not strict: WeChat's keys are any 43 characters, and two bits of the
	// last character have no meaning.
	key, err := base64.StdEncoding.DecodeString(encodingAESKey + "=")
	if err != nil {
		return nil, errors.New("the EncodingAESKey is not base64")
	}
	return &PushReceiver{appid: appid, token: token, key: key}, nil
}

// Format prints the appid, whatever the verb.
func (p *PushReceiver) Format(f fmt.State, _ rune) { io.WriteString(f, p.appid) }

// MarshalJSON writes {"appid": …}.
func (p *PushReceiver) MarshalJSON() ([]byte, error) {
	return []byte(`{"appid":` + strconv.Quote(p.appid) + `}`), nil
}

// Echo returns the answer to the request with which WeChat's console verifies the
// address: its echostr, if the signature is good. The answer is visible ASCII.
func (p *PushReceiver) Echo(query url.Values, now time.Time) (string, error) {
	given, ok := only(query, "signature", "timestamp", "nonce", "echostr")
	if !ok || !printable(given[3], maxEcho) {
		return "", ErrPushForm
	}
	if !p.signed(given[0], given[1], given[2]) {
		return "", ErrPushSignature
	}
	return given[3], timely(given[1], now)
}

// Open verifies and decrypts a message. It checks the signature and the time before it
// decrypts anything. The error is one of the five above and contains nothing of the
// message.
func (p *PushReceiver) Open(query url.Values, body []byte, now time.Time) (PushMessage, error) {
	given, ok := only(query, "msg_signature", "timestamp", "nonce")
	if !ok || len(body) > MaxPush {
		return PushMessage{}, ErrPushForm
	}
	envelope, ok := members(body)
	encrypted := envelope["Encrypt"]
	if !ok || encrypted == "" {
		return PushMessage{}, ErrPushForm
	}
	if !p.signed(given[0], given[1], given[2], encrypted) {
		return PushMessage{}, ErrPushSignature
	}
	if err := timely(given[1], now); err != nil {
		return PushMessage{}, err
	}
	text, appid, ok := p.decrypt(encrypted)
	if !ok {
		return PushMessage{}, ErrPushKey
	}
	if appid != p.appid {
		return PushMessage{}, ErrPushApp
	}
	return p.message(text)
}

// only returns the values of the named parameters. ok is false unless each occurs
// exactly once.
func only(query url.Values, names ...string) ([]string, bool) {
	values := make([]string, len(names))
	for i, name := range names {
		if len(query[name]) != 1 {
			return nil, false
		}
		values[i] = query[name][0]
	}
	return values, true
}

// signed reports whether the signature matches the token and the parts.
func (p *PushReceiver) signed(signature string, parts ...string) bool {
	parts = append(parts, p.token)
	slices.Sort(parts)
	sum := sha1.Sum([]byte(strings.Join(parts, "")))
	return subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(signature)) == 1
}

func timely(timestamp string, now time.Time) error {
	if !timestampForm.MatchString(timestamp) {
		return ErrPushTime
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return ErrPushTime
	}
	if age := now.Sub(time.Unix(seconds, 0)); age > PushAge || age < -PushAge {
		return ErrPushTime
	}
	return nil
}

// decrypt returns the message and the appid after it. The encryption is AES-256-CBC,
// and its IV is the first half of the key. The plaintext consists of 16 random bytes,
// the length of the message, the message and the appid. The signature must have been
// checked before: the result does not distinguish padding errors, but their timing
// would.
func (p *PushReceiver) decrypt(encrypted string) (message []byte, appid string, ok bool) {
	data, err := base64.StdEncoding.DecodeString(encrypted)
	if err != nil || len(data) == 0 || len(data)%pushPad != 0 {
		return nil, "", false
	}
	block, err := aes.NewCipher(p.key)
	if err != nil {
		return nil, "", false
	}
	cipher.NewCBCDecrypter(block, p.key[:aes.BlockSize]).CryptBlocks(data, data)
	pad := int(data[len(data)-1])
	if pad < 1 || pad > pushPad || len(data) < pad+pushHead {
		return nil, "", false
	}
	for _, b := range data[len(data)-pad:] {
		if int(b) != pad {
			return nil, "", false
		}
	}
	length := binary.BigEndian.Uint32(data[16:pushHead])
	rest := data[pushHead : len(data)-pad]
	if uint64(length) > uint64(len(rest)) {
		return nil, "", false
	}
	return rest[:length], string(rest[length:]), true
}
