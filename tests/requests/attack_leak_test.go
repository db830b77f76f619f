package requests

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// The complete answers to all kinds of bad tokens are compared. An attacker must not
// learn from them how close a forgery came. Only a genuine token is answered with
// "expired" or "revoked".
func TestAttackBadTokensLookAlike(t *testing.T) {
	t.Parallel()
	f := newFort3(t, fortSite("", shortToken))
	expired := f.login(t, "13800138000").Token
	issued := time.Now()
	if err := f.Reload(withHTTP3(fortSite("", "token {\nleeway 0s\n}"))); err != nil {
		t.Fatal(err)
	}
	pair := f.login(t, "13800138000")
	revoked := f.login(t, "13900139000").Token
	f.Client().Logout(revoked, "", false).Want(t, http.StatusNoContent)
	stranger := newFort(t, fortSite("")).login(t, "13800138000").Token
	time.Sleep(time.Until(issued.Add(2 * time.Second)))

	forger := newForger(t, f, pair.Token)
	bad := forgeries(t, forger, "http://127.0.0.1:1/")
	for name, token := range map[string]string{"expired": expired, "revoked": revoked} {
		bad[name+", broken"] = broken(token)
		bad[name+", cut"] = token[:len(token)-1]
		bad[name+", no signature"] = token[:strings.LastIndexByte(token, '.')+1]
	}
	bad["another gateway's"] = stranger
	bad["opaque"] = "opaque"
	everyHTTP(t, f, func(t *testing.T, f *fort) {
		for _, at := range []struct{ method, target string }{{"GET", "/api/x"}, {"POST", "/api/x"}, {"GET", "/auth/wx/me"}, {"GET", "/auth/wx/sessions"}, {"DELETE", "/auth/wx/sessions/x"}, {"GET", "/auth/wx/verify"}, {"POST", "/auth/wx/logout"}} {
			t.Run(at.method+" "+at.target, func(t *testing.T) {
				ask := func(token string) string {
					return f.refuses(t, refusal{401, ""}, message(f.Addr, at.method, at.target, "Authorization: Bearer "+token, "Content-Length: 0")).Whole(t)
				}
				want := ask("x.y.z")
				for _, part := range []string{"token_invalid", "Www-Authenticate", "invalid_token", "no-store"} {
					if !strings.Contains(want, part) {
						t.Errorf("no %q in %s", part, want)
					}
				}
				for name, token := range bad {
					if len(token) > 9<<10 {
						continue // too large for a header here
					}
					if got := ask(token); got != want {
						t.Errorf("%s: answered\n%s, other bad tokens\n%s", name, got, want)
					}
				}
				if at.target == "/auth/wx/logout" {
					return // this site accepts both
				}
				if got := ask(expired); !strings.Contains(got, `"token_expired"`) {
					t.Errorf("expired: %s", got)
				}
				if got := ask(revoked); !strings.Contains(got, `"token_revoked"`) {
					t.Errorf("revoked: %s", got)
				}
			})
		}
	})
	// The same holds for refresh tokens.
	var want string
	for i, token := range []string{"x", pair.RefreshToken[:len(pair.RefreshToken)-3] + "AAA", pair.RefreshToken + "A", pair.Token, strings.Repeat("A", len(pair.RefreshToken)), "1." + pair.RefreshToken} {
		a := f.Client().Refresh(token)
		a.WantProblem(t, 401, "refresh_invalid", nil)
		if got := a.Whole(t); i == 0 {
			want = got
		} else if got != want {
			t.Errorf("%.20s: answered\n%s, another\n%s", token, got, want)
		}
	}
	f.passes(t, message(f.Addr, "GET", "/api/x", "Authorization: Bearer "+pair.Token))
}

// Every error that input can provoke is read: none may contain internals or repeat the
// input.
func TestAttackProblemsHoldNoInternals(t *testing.T) {
	t.Parallel()
	f := newFort(t, fortSite(""))
	pair := f.login(t, "13800138000")
	auth := "Authorization: Bearer " + pair.Token
	json1 := "Content-Type: application/json"
	login := func(path, body string) string {
		return message(f.Addr, "POST", path, json1, fmt.Sprintf("Content-Length: %d", len(body))) + body
	}
	codes := map[string]bool{}
	for _, raw := range []string{
		message(f.Addr, "GET", "/api/x"), message(f.Addr, "GET", "/api/x", auth+"x"), message(f.Addr, "GET", "/api/x", auth, auth), message(f.Addr, "TRACE", "/api/x"),
		message(f.Addr, "GET", "/api/../{env.WX_SECRET}"), message(f.Addr, "GET", "/api/'\"<script>"), message(f.Addr, "GET", "/auth/wx/nothing/"+canaryText), message(f.Addr, "GET", "/auth/wx"),
		message(f.Addr, "GET", "/auth/wx/sessions/"+canaryText, auth), message(f.Addr, "DELETE", "/auth/wx/sessions/"+canaryText, auth), message(f.Addr, "DELETE", "/auth/wx/sessions/%00", auth), message(f.Addr, "DELETE", "/auth/wx/sessions/'--", auth),
		message(f.Addr, canaryText, "/auth/wx"), login("/auth/wx", `{"code":"`+canaryText+`"}`), login("/auth/wx", `{"code":"`+canaryText+`","phoneCode":"`+canaryText+`"}`), login("/auth/wx", `{"code":17}`), login("/auth/wx", canaryText),
		login("/auth/wx", `{"code":"a","appid":"`+canaryText+`"}`), login("/auth/wx", `{"`+canaryText+`":1,"`+canaryText+`":2}`), login("/auth/wx", `{"code":"`+strings.Repeat("a", 5000)+`"}`), login("/auth/wx", `{"code":"{env.WX_SECRET}"}`), login("/auth/wx", `{"code":"\u0000' OR 1=1"}`),
		login("/auth/wx/refresh", `{"refreshToken":"`+canaryText+`"}`), login("/auth/wx/refresh", `{}`), login("/auth/wx/logout", `{"refreshToken":"`+canaryText+`"}`), login("/auth/wx/logout", `{"all":"`+canaryText+`"}`), message(f.Addr, "POST", "/auth/wx", "Content-Type: text/"+canaryText, "Content-Length: 0"),
	} {
		a := rig.Raw(f.Addr, raw)
		if a.Err != nil || a.Status < 400 || a.Status >= 500 {
			t.Errorf("%.200q: %d %v %s", raw, a.Status, a.Err, a.Body)
			continue
		}
		p := a.Problem(t)
		codes[p.Code] = true
		want := []string{"code", "detail", "requestId", "status", "title"}
		if got := slices.DeleteFunc(rig.Members(t, a.Body), func(m string) bool { return m == "renew" }); !slices.Equal(got, want) {
			t.Errorf("members %q", got)
		}
		for name := range a.Header {
			if !slices.Contains([]string{"Server", "Date", "Cache-Control", "Content-Type", "Content-Length", "X-Content-Type-Options", "Www-Authenticate", "Allow", "Connection", "Vary"}, name) {
				t.Errorf("header %s: %q", name, a.Header[name])
			}
		}
		all := strings.ToLower(fmt.Sprint(a))
		for _, internal := range []string{canaryText, rig.Secret, rig.AppID, f.Home, f.echoAddr(), strings.TrimPrefix(f.wx.URL, "http://"), "sqlite", "sql:", ".go", "goroutine", "panic", "runtime", "/root", "/tmp", "jscode2session", "errcode", "40029", "ecdsa", "jwx", "jws", "illegal", "unexpected", "invalid character", "strconv", "env.", "13800138000"} {
			if strings.Contains(all, strings.ToLower(internal)) {
				t.Errorf("%q in the answer to %.100q: %v", internal, raw, a)
			}
		}
	}
	for _, code := range []string{"token_missing", "token_invalid", "invalid_request", "method_not_allowed", "not_found", "login_code_invalid", "refresh_invalid", "unsupported_media_type", "body_too_large"} {
		if !codes[code] {
			t.Errorf("%s did not occur: %v", code, codes)
		}
	}
	if got := f.tap.take(); len(got) > 0 {
		t.Errorf("at the upstream: %s", short(got))
	}
}

// canaryText is part of every input; no answer may repeat it.
const canaryText = "CANARYTEXT"

func (f *fort) echoAddr() string { return f.tap.addr }

// Every secret is given by a placeholder. None may appear where Caddy shows its
// configuration, nor in its log at the level of traces.
func TestAttackSecretsInWhatCaddyShows(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private, _ := key.Bytes()
	sealing := make([]byte, 32)
	_, _ = rand.Read(sealing)
	encryption := base64.StdEncoding.EncodeToString(sealing)
	hs256 := rand.Text() + rand.Text()
	pemText := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))

	for name, secret := range map[string]struct{ token, alg string }{"PEM": {pemText, "ES256"}, "HS256": {hs256, "HS256"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFort(t, rig.Site("log\nwx_auth {env.WX_APPID} {env.WX_SECRET} {\nencryption_key {env.SEALING}\ntoken {\nalgorithm "+secret.alg+"\nkey {env.TOKEN_KEY}\n}\nwechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}",
				"log {\nlevel DEBUG\n}\nmetrics\nservers {\ntrace\n}"), "SEALING="+encryption, "TOKEN_KEY="+secret.token)
			pair := f.login(t, "13800138000")
			f.passes(t, message(f.Addr, "GET", "/api/x", "Authorization: Bearer "+pair.Token))
			f.refuses(t, tokenMissing, message(f.Addr, "GET", "/api/x"))
			jwks := f.Client().Get("/auth/wx/jwks.json", "")
			jwks.Want(t, http.StatusOK)
			shown := f.Shown(t)
			adapted, err := f.Command("adapt", "--config", filepath.Join(f.Home, "Caddyfile"), "--adapter", "caddyfile")
			if err != nil {
				t.Fatal(err, adapted)
			}
			line := f.Log.Wait(t, 20*time.Second, `"logger":"http.log.trace","msg":"wx_auth"`) // from the handler itself
			f.Stop()
			body := strings.Split(pemText, "\n")
			secrets := []string{rig.Secret, encryption, hs256, body[1], body[2], pair.Token, pair.RefreshToken, strings.Split(pair.Token, ".")[2], fmt.Sprintf("%x", private), fmt.Sprintf("%x", sealing),
				b64.EncodeToString(private), base64.StdEncoding.EncodeToString(private), base64.StdEncoding.EncodeToString([]byte(hs256)), b64.EncodeToString([]byte(hs256))}
			shown["caddy adapt"], shown["the log"], shown["the JWKS"] = adapted, f.Log.String(), jwks.Body
			for where, text := range shown {
				if len(text) < 10 {
					t.Errorf("%s is empty", where)
				}
				for _, s := range secrets {
					if s == pair.Token || len(s) < 20 {
						continue
					}
					if strings.Contains(text, s) {
						t.Errorf("%s shows %q", where, s)
					}
				}
				if strings.Contains(text, pair.Token) {
					t.Errorf("%s shows a token", where)
				}
			}
			for where, text := range map[string]string{"/config/": shown["/config/"], "autosave.json": shown["autosave.json"], "the trace": line} {
				if !strings.Contains(text, "{env.TOKEN_KEY}") || !strings.Contains(text, "{env.WX_SECRET}") {
					t.Errorf("%s does not show the directive: %.2000s", where, text)
				}
			}
			// Only public keys may be in the JWKS.
			var set struct{ Keys []map[string]any }
			if err := json.Unmarshal([]byte(jwks.Body), &set); err != nil {
				t.Fatal(err)
			}
			if want := map[string]int{"PEM": 1, "HS256": 0}[name]; len(set.Keys) != want {
				t.Errorf("%d keys published, want %d", len(set.Keys), want)
			}
			for _, k := range set.Keys {
				for _, member := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
					if k[member] != nil {
						t.Errorf("private member %s published", member)
					}
				}
			}
		})
	}
}
