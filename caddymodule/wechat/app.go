package wechat

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
)

// Own is the name of WeChat itself, whichever of its hosts is called.
const Own = "weixin.qq.com"

// App is a mini program and its secret. Printing or marshalling it shows only the id.
type App struct {
	ID     string // appid, "wx" and 16 hexadecimal digits
	Secret string // AppSecret
}

// String returns the appid.
func (a App) String() string { return a.ID }

// GoString returns the appid.
func (a App) GoString() string { return fmt.Sprintf("wechat.App{ID:%q}", a.ID) }

// Format prints the appid, whatever the verb: %d or %x would otherwise print the secret.
func (a App) Format(f fmt.State, verb rune) {
	if verb == 'v' && f.Flag('#') {
		io.WriteString(f, a.GoString())
		return
	}
	io.WriteString(f, a.ID)
}

// MarshalJSON writes {"id": appid}.
func (a App) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"id": a.ID})
}

// MarshalText writes the appid.
func (a App) MarshalText() ([]byte, error) { return []byte(a.ID), nil }

// fingerprint allows two secrets to be compared without storing either.
func (a App) fingerprint() [sha256.Size]byte { return sha256.Sum256([]byte(a.Secret)) }
