package directories

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// webhookKey is the key that secret encodes.
const webhookKey = "0123456789abcdef0123456789abcdef"

// These are the webhook's secrets: the current one, and one that replaces it.
var (
	secret      = "whsec_" + base64.StdEncoding.EncodeToString([]byte(webhookKey))
	otherSecret = "whsec_" + base64.StdEncoding.EncodeToString([]byte("fedcba9876543210fedcba9876543210"))
)

// event is one of the gateway's requests to a backend.
type event struct {
	Type, AppID, OpenID, Phone, Country, National, UserID string
	Rebound                                               bool
	ID                                                    string `json:"-"` // from the header webhook-id
}

// backend is a team's own backend. Each phone number has a user that is named after it.
type backend struct {
	t   testing.TB
	url string

	mu     sync.Mutex
	secret string
	answer http.HandlerFunc // replaces the usual answer
	asked  []event
}

func newBackend(t testing.TB) *backend {
	t.Helper()
	b := &backend{t: t, secret: secret}
	b.url = "http://" + rig.Serve(t, b) + "/wx-users"
	return b
}

// says replaces the backend's answer by h; nil restores the usual answer.
func (b *backend) says(h http.HandlerFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = h
}

// body returns an answer with that status and text.
func body(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

func (b *backend) events() []event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]event(nil), b.asked...)
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(b.secret, "whsec_"))
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), raw)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	if !strings.Contains(" "+r.Header.Get("webhook-signature")+" ", " "+want+" ") {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var e event
	if err := json.Unmarshal(raw, &e); err != nil {
		b.t.Error(err)
	}
	e.ID = r.Header.Get("webhook-id")
	b.asked = append(b.asked, e)
	if b.answer != nil {
		answer := b.answer
		b.mu.Unlock()
		defer b.mu.Lock()
		answer(w, r)
		return
	}
	usual(w, e)
}

// usual writes the answer of a backend whose users are named after their numbers.
func usual(w http.ResponseWriter, e event) {
	id := e.UserID
	if e.National != "" {
		id = "m" + e.National
	}
	if id == "" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	body(http.StatusOK, `{"id":"`+id+`","userInfo":{"nickName":"安安","id":"0","phoneNumber":"+1"},"claims":{"roles":["admin","shop,1"],"level":3}}`)(w, nil)
}

// hooked returns the Caddyfile of a gateway that asks a backend.
func hooked(options ...string) string {
	return rig.GatewaySite(append([]string{
		"users webhook {env.HOOK} {\nsecret {env.HOOK_SECRET}\n}",
		"identity X-WX-USER-ID id", "identity X-WX-PHONE phone", "identity X-User-Roles claims.roles", "identity X-Level claims.level",
	}, options...)...)
}

// newHooked starts a gateway and the backend that it asks.
func newHooked(t testing.TB, options ...string) (*rig.Gateway, *backend) {
	t.Helper()
	b := newBackend(t)
	g := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	g.Caddy = rig.StartCaddy(t, hooked(options...), append(g.WeChat.Environ(g.Upstream.Addr), "HOOK="+b.url, "HOOK_SECRET="+secret)...)
	g.Client = g.Caddy.Client()
	return g, b
}
