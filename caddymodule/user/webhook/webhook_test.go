package webhook_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user/webhook"
)

var secretBytes = []byte("0123456789abcdef0123456789abcdef")

func secret(t *testing.T) webhook.Secret {
	t.Helper()
	s, err := webhook.ParseSecret("whsec_" + base64.StdEncoding.EncodeToString(secretBytes))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func directory(t *testing.T, h http.HandlerFunc) *webhook.Directory {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &webhook.Directory{URL: s.URL + "/wx-users?key=secret", Secrets: []webhook.Secret{secret(t)}, Transport: webhook.NewTransport()}
}

func ann(t *testing.T) user.Login {
	t.Helper()
	p, err := user.ParsePhone("86", "13800138000")
	if err != nil {
		t.Fatal(err)
	}
	return user.Login{ID: "login-1", AppID: "wx1", OpenID: "o1", Phone: p}
}

func answering(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// Each kind of request is checked byte by byte. Unknown values are null, there is a signature for
// each secret, and all requests of a login have one webhook-id.
func TestRequestsAreSignedAndSayWhatIsKnown(t *testing.T) {
	var header http.Header
	var body string
	d := directory(t, func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		header, body = r.Header, string(raw)
		if r.Method != http.MethodPost || r.URL.String() != "/wx-users?key=secret" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		_, _ = io.WriteString(w, `{"id":"7"}`)
	})
	d.Now = func() time.Time { return time.Unix(1772000000, 0) }
	other, err := webhook.ParseSecret("whsec_" + base64.StdEncoding.EncodeToString([]byte("abcdefghijklmnopqrstuvwx")))
	if err != nil {
		t.Fatal(err)
	}
	d.Secrets = append(d.Secrets, other)
	full := ann(t)
	full.UnionID, full.UserID, full.Rebound = "un1", "6", true
	for _, tc := range []struct {
		name string
		do   func() error
		want string
	}{
		{"first login", func() error { _, err := d.Login(t.Context(), ann(t)); return err },
			`{"type":"user.login","appid":"wx1","openid":"o1","unionid":null,"phone":"+8613800138000","country":"86","national":"13800138000","userId":null,"rebound":false}`},
		{"all is known", func() error { _, err := d.Login(t.Context(), full); return err },
			`{"type":"user.login","appid":"wx1","openid":"o1","unionid":"un1","phone":"+8613800138000","country":"86","national":"13800138000","userId":"6","rebound":true}`},
		{"silent", func() error {
			_, err := d.Login(t.Context(), user.Login{ID: "login-1", AppID: "wx1", OpenID: "o1", UserID: "7"})
			return err
		},
			`{"type":"user.login","appid":"wx1","openid":"o1","unionid":null,"phone":null,"country":null,"national":null,"userId":"7","rebound":false}`},
		{"check", func() error { _, err := d.Check(t.Context(), "7"); return err }, `{"type":"user.check","userId":"7"}`},
		{"erase", func() error { return d.Erase(t.Context(), "7") }, `{"type":"user.erase","userId":"7"}`},
	} {
		if err := tc.do(); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if body != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, body, tc.want)
		}
		id := header.Get("webhook-id")
		mac := hmac.New(sha256.New, secretBytes)
		fmt.Fprintf(mac, "%s.1772000000.%s", id, body)
		want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
		if got := strings.Fields(header.Get("webhook-signature")); len(got) != 2 || got[0] != want || got[1] == want {
			t.Errorf("%s: signatures %q, want %s and another", tc.name, got, want)
		}
		if header.Get("webhook-timestamp") != "1772000000" || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: header %v", tc.name, header)
		}
		if login := strings.Contains(body, "user.login"); login != (id == "msg_login-1") || strings.Contains(id, ".") {
			t.Errorf("%s: webhook-id %q", tc.name, id)
		}
	}
}

// A backend answers in one of the ways that backends do by mistake: other types, HTML, lists,
// redirects, megabytes. The error must reveal neither the key in the URL nor the phone number.
func TestAnswersAreReadOrRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		want   user.User
		err    error
	}{
		"id alone": {200, `{"id":"7"}`, user.User{ID: "7"}, nil},
		"made":     {201, `{"id":"7"}`, user.User{ID: "7", New: true}, nil},
		"all": {200, `{"id":"7","userInfo":{"nick":"安","points":12345678901234567890},"claims":{"roles":["a"]},"disabled":false,"more":1}`,
			user.User{ID: "7", Info: map[string]any{"nick": "安", "points": json.Number("12345678901234567890")}, Claims: map[string]any{"roles": []any{"a"}}}, nil},
		"disabled":                 {200, `{"id":"7","disabled":true}`, user.User{ID: "7", Disabled: true}, nil},
		"nulls":                    {200, `{"id":"7","userInfo":null,"claims":null,"disabled":null}`, user.User{ID: "7"}, nil},
		"PHP's empty objects":      {200, `{"id":"7","userInfo":[],"claims":[]}`, user.User{ID: "7"}, nil},
		"nobody":                   {404, `<h1>Not Found</h1>`, user.User{}, user.ErrRegistrationClosed},
		"gone":                     {410, ``, user.User{}, user.ErrRegistrationClosed},
		"a number for an id":       {200, `{"id":7}`, user.User{}, user.ErrMisconfigured},
		"null for an id":           {200, `{"id":null}`, user.User{}, user.ErrMisconfigured},
		"no id":                    {200, `{"userId":"7"}`, user.User{}, user.ErrMisconfigured},
		"ID":                       {200, `{"ID":"7"}`, user.User{}, user.ErrMisconfigured},
		"a list":                   {200, `[{"id":"7"}]`, user.User{}, user.ErrMisconfigured},
		"null":                     {200, `null`, user.User{}, user.ErrMisconfigured},
		"nothing":                  {200, ``, user.User{}, user.ErrMisconfigured},
		"HTML":                     {200, `<!DOCTYPE html>`, user.User{}, user.ErrMisconfigured},
		"more behind it":           {200, `{"id":"7"}{"id":"8"}`, user.User{}, user.ErrMisconfigured},
		"disabled is text":         {200, `{"id":"7","disabled":"false"}`, user.User{}, user.ErrMisconfigured},
		"disabled is a number":     {200, `{"id":"7","disabled":0}`, user.User{}, user.ErrMisconfigured},
		"claims are a list":        {200, `{"id":"7","claims":["a"]}`, user.User{}, user.ErrMisconfigured},
		"userInfo is text":         {200, `{"id":"7","userInfo":"x"}`, user.User{}, user.ErrMisconfigured},
		"64 KiB and one byte":      {200, `{"id":"7"}` + strings.Repeat(" ", 64<<10-9), user.User{}, user.ErrMisconfigured},
		"10 MB":                    {200, strings.Repeat("x", 10<<20), user.User{}, user.ErrMisconfigured},
		"204":                      {204, ``, user.User{}, user.ErrMisconfigured},
		"a redirect":               {302, ``, user.User{}, user.ErrMisconfigured},
		"a redirect that keeps it": {307, ``, user.User{}, user.ErrMisconfigured},
		"401":                      {401, ``, user.User{}, user.ErrMisconfigured},
		"403":                      {403, ``, user.User{}, user.ErrMisconfigured},
		"400":                      {400, ``, user.User{}, user.ErrMisconfigured},
		"405":                      {405, ``, user.User{}, user.ErrMisconfigured},
	} {
		t.Run(name, func(t *testing.T) {
			d := directory(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/wx-users" {
					t.Errorf("a redirect was followed to %s", r.URL)
				}
				w.Header().Set("Location", "/elsewhere")
				answering(tc.status, tc.body)(w, r)
			})
			got, err := d.Login(t.Context(), ann(t))
			if !errors.Is(err, tc.err) || tc.err == nil && !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %+v, %v; want %+v, %v", got, err, tc.want, tc.err)
			}
			if err != nil && (strings.Contains(err.Error(), "key=secret") || strings.Contains(err.Error(), "138")) {
				t.Errorf("the error reveals too much: %v", err)
			}
			switch got, err := d.Check(t.Context(), "7"); {
			case tc.status == 404 || tc.status == 410:
				if err != user.ErrUnknown {
					t.Errorf("check: %v", err)
				}
			case !errors.Is(err, tc.err) || tc.err == nil && (got.ID != tc.want.ID || got.New):
				t.Errorf("check: %+v, %v", got, err)
			}
		})
	}
}

// A backend answers with the status of a temporary fault. The login can be retried, and the error
// does not ask the operator to fix the configuration.
func TestServerErrorsMayPass(t *testing.T) {
	for _, status := range []int{408, 425, 429, 500, 502, 503, 504} {
		d := directory(t, answering(status, `{"id":"7"}`))
		for what, err := range map[string]error{
			"login": second(d.Login(t.Context(), ann(t))), "check": second(d.Check(t.Context(), "7")), "erase": d.Erase(t.Context(), "7"),
		} {
			if err == nil || errors.Is(err, user.ErrMisconfigured) || errors.Is(err, user.ErrUnknown) {
				t.Errorf("%d, %s: %v", status, what, err)
			}
		}
	}
}

func second(_ user.User, err error) error { return err }

// A backend answers a silent login with 404. The user is unknown, so that the client asks for the
// phone number.
func TestSilentLoginOfNobodyIsUnknown(t *testing.T) {
	d := directory(t, answering(404, ""))
	if _, err := d.Login(t.Context(), user.Login{AppID: "wx1", OpenID: "o1"}); err != user.ErrUnknown {
		t.Error(err)
	}
}

// A user is erased twice. The second time is a success, too, so that an interrupted erasure can be
// repeated.
func TestErasureOfNobodyIsDone(t *testing.T) {
	for _, status := range []int{200, 202, 204, 404, 410} {
		if err := directory(t, answering(status, "")).Erase(t.Context(), "7"); err != nil {
			t.Errorf("%d: %v", status, err)
		}
	}
}

// The connection breaks before the answer. The same request is sent once more. It is not repeated
// once an answer has begun.
func TestBrokenConnectionIsTriedOnceMore(t *testing.T) {
	var asked atomic.Int64
	for _, broken := range []int64{1, 2} {
		asked.Store(0)
		var ids [3]atomic.Value
		d := directory(t, func(w http.ResponseWriter, r *http.Request) {
			n := asked.Add(1)
			ids[n-1].Store(r.Header.Get("webhook-id"))
			if n <= broken {
				conn, _, err := w.(http.Hijacker).Hijack()
				if err == nil {
					conn.Close()
				}
				return
			}
			_, _ = io.WriteString(w, `{"id":"7"}`)
		})
		_, err := d.Login(t.Context(), ann(t))
		if asked.Load() != 2 || ids[0].Load() != ids[1].Load() || (err == nil) != (broken == 1) || errors.Is(err, user.ErrMisconfigured) {
			t.Errorf("%d broken: asked %d times, ids %v and %v, %v", broken, asked.Load(), ids[0].Load(), ids[1].Load(), err)
		}
	}
	asked.Store(0)
	d := directory(t, func(w http.ResponseWriter, _ *http.Request) { // breaks off within its answer
		asked.Add(1)
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{"id":`)
	})
	if _, err := d.Login(t.Context(), ann(t)); err == nil || errors.Is(err, user.ErrMisconfigured) || asked.Load() != 1 {
		t.Errorf("asked %d times, %v", asked.Load(), err)
	}
}

// No backend listens. The error must be a temporary one, and must not reveal the key in the URL.
func TestUnreachableBackendMayPass(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	d := &webhook.Directory{URL: "http://" + ln.Addr().String() + "/?key=secret", Secrets: []webhook.Secret{secret(t)}, Transport: webhook.NewTransport()}
	_, err = d.Login(t.Context(), ann(t))
	if err == nil || errors.Is(err, user.ErrMisconfigured) || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

// slow never answers. It blocks until the request's context ends.
type slow struct{ left chan time.Duration }

func (s slow) RoundTrip(r *http.Request) (*http.Response, error) {
	at, ok := r.Context().Deadline()
	if !ok {
		return nil, errors.New("there is no deadline")
	}
	s.left <- time.Until(at)
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// A backend hangs. The login fails after the timeout, and the request is not sent again.
func TestAnswerThatTakesTooLongIsNotWaitedFor(t *testing.T) {
	s := slow{make(chan time.Duration, 2)}
	d := &webhook.Directory{URL: "http://127.0.0.1/", Secrets: []webhook.Secret{secret(t)}, Transport: s}
	_, err := d.Login(t.Context(), ann(t))
	if err == nil || errors.Is(err, user.ErrMisconfigured) || !strings.Contains(err.Error(), "3s") {
		t.Error(err)
	}
	if left := <-s.left; left > webhook.Timeout {
		t.Errorf("%s to wait", left)
	}
	if len(s.left) != 0 {
		t.Error("the request was sent again")
	}
}
