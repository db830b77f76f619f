package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// session is the answer to a login, as the mini program keeps it.
type session struct {
	Token        string         `json:"token"`
	ExpiresIn    int            `json:"expiresIn"`
	RefreshToken string         `json:"refreshToken"`
	UserInfo     map[string]any `json:"userInfo"`
}

// walk logs in once and prints the result of each step. It stops at the first step that
// fails.
func (d *demo) walk(ctx context.Context) error {
	d.say("\n1. The API without a token")
	if err := d.refused(ctx, "", "token_missing"); err != nil {
		return err
	}

	d.say("\n2. The user taps the phone button; the mini program sends both codes to POST /auth/wx")
	codes, err := d.sim.Mint(demoAppID, demoUser, wechattest.Phone{Number: demoPhone})
	if err != nil {
		return err
	}
	var s session
	if err := d.call(ctx, http.MethodPost, "/auth/wx", "", map[string]any{"code": codes.Code, "phoneCode": codes.PhoneCode}, http.StatusOK, &s); err != nil {
		return err
	}
	if s.Token == "" || s.UserInfo["phoneNumber"] != "+86"+demoPhone || s.UserInfo["isNew"] != true {
		return fmt.Errorf("the login answered %v", s.UserInfo)
	}
	d.say("   user    %s", compact(s.UserInfo))
	claims, err := payload(s.Token)
	if err != nil {
		return err
	}
	d.say("   token   %s…  (%d bytes, good for %d s)\n   claims  %s", s.Token[:24], len(s.Token), s.ExpiresIn, claims)

	d.say("\n3. The API with the token: it knows who is calling")
	if err := d.welcomed(ctx, s); err != nil {
		return err
	}

	d.say("\n4. The next start of the mini program: a silent login, with wx.login's code alone")
	codes, err = d.sim.MintLogin(demoAppID, demoUser)
	if err != nil {
		return err
	}
	var silent session
	if err := d.call(ctx, http.MethodPost, "/auth/wx", "", map[string]any{"code": codes.Code}, http.StatusOK, &silent); err != nil {
		return err
	}
	if silent.UserInfo["id"] != s.UserInfo["id"] {
		return fmt.Errorf("the silent login is another user: %v", silent.UserInfo["id"])
	}

	d.say("\n5. The token grows old: refresh")
	if err := d.call(ctx, http.MethodPost, "/auth/wx/refresh", "", map[string]any{"refreshToken": s.RefreshToken}, http.StatusOK, &s); err != nil {
		return err
	}
	if err := d.welcomed(ctx, s); err != nil {
		return err
	}

	d.say("\n6. Logout")
	if err := d.call(ctx, http.MethodPost, "/auth/wx/logout", s.Token, nil, http.StatusNoContent, nil); err != nil {
		return err
	}
	return d.refused(ctx, s.Token, "token_revoked")
}

// welcomed calls the API with a token and checks that the API received the caller's
// identity.
func (d *demo) welcomed(ctx context.Context, s session) error {
	var seen struct {
		Hello   string            `json:"hello"`
		Headers map[string]string `json:"headers"`
	}
	if err := d.call(ctx, http.MethodGet, "/orders", s.Token, nil, http.StatusOK, &seen); err != nil {
		return err
	}
	d.say("   the API saw  %s", compact(seen.Headers))
	if seen.Hello == "" || seen.Hello != s.userID() {
		return fmt.Errorf("the API saw the user %q", seen.Hello)
	}
	return nil
}

// refused calls the API and checks that the gateway refuses the request and the API
// does not receive it.
func (d *demo) refused(ctx context.Context, token, code string) error {
	before := d.api.hits.Load()
	var p struct {
		Code string `json:"code"`
	}
	if err := d.call(ctx, http.MethodGet, "/orders", token, nil, http.StatusUnauthorized, &p); err != nil {
		return err
	}
	if p.Code != code {
		return fmt.Errorf("the refusal's code is %q, not %q", p.Code, code)
	}
	if d.api.hits.Load() != before {
		return fmt.Errorf("the API was reached")
	}
	d.say("   the API was not reached")
	return nil
}

// call sends a request to the gateway, prints it, and decodes the answer.
func (d *demo) call(ctx context.Context, method, path, token string, body map[string]any, want int, v any) error {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, d.gateway+path, content)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	start := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	var problem struct{ Code string }
	if resp.StatusCode >= 400 {
		_ = json.Unmarshal(answer, &problem)
	}
	d.say("   %-4s %-22s -> %d %s  %s", method, path, resp.StatusCode, problem.Code, since(start))
	if resp.StatusCode != want {
		return fmt.Errorf("%s %s answered %d: %s", method, path, resp.StatusCode, answer)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(answer, v)
}

// hints prints commands to try while the demo stays up.
func (d *demo) hints() {
	d.say(`
In a browser:  http://%[4]s

Try it yourself (Ctrl-C ends):

   # a fresh pair of codes, as the phone button gives them; each works once
   curl -s %[2]s/_control/codes -d '{"appid":"%[3]s","phone":"13900139000"}'

   # log in with them
   curl -s %[1]s/auth/wx -H 'Content-Type: application/json' -d '{"code":"…","phoneCode":"…"}'

   # call the API with the token, and without it
   curl -s %[1]s/orders -H 'Authorization: Bearer …'
   curl -s %[1]s/orders

   # the public keys, for backends that verify tokens themselves
   curl -s %[1]s/auth/wx/jwks.json
`, d.gateway, d.wechat, demoAppID, d.stage.address)
}

func (s session) userID() string {
	claims, err := payload(s.Token)
	if err != nil {
		return ""
	}
	var c struct {
		Sub string `json:"sub"`
	}
	_ = json.Unmarshal([]byte(claims), &c)
	return c.Sub
}

// payload returns a token's middle part, which anyone can read.
func payload(token string) (string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", fmt.Errorf("not a token")
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	return string(b), err
}

func compact(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
