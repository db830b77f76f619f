package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// start serves a simulator with these flags.
func start(t *testing.T, args ...string) (*server, string) {
	t.Helper()
	set, err := parse(args, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newServer(set)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	return s, web.URL
}

// ask sends a request and returns the answer's status, body and headers.
func ask(t *testing.T, method, address, body string, headers ...string) (int, string, http.Header) {
	t.Helper()
	r, err := http.NewRequest(method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text), resp.Header
}

func session(t *testing.T, base, appid, secret, code string) string {
	t.Helper()
	_, body, _ := ask(t, http.MethodGet, base+"/sns/jscode2session?"+url.Values{
		"appid": {appid}, "secret": {secret}, "js_code": {code}, "grant_type": {"authorization_code"},
	}.Encode(), "")
	return body
}

// A developer without an AppID uses DevTools, whose wx.login returns a fixed text. The text
// logs in.
func TestDevToolsMockCode(t *testing.T) {
	_, base := start(t)
	if got := session(t, base, defaultAppID, defaultSecret, wechattest.MockCode); !strings.Contains(got, `"openid"`) {
		t.Errorf("the mock code: %s", got)
	}
	_, strict := start(t, "-mock", "")
	if got := session(t, strict, defaultAppID, defaultSecret, wechattest.MockCode); !strings.Contains(got, "40029") {
		t.Errorf("the mock code with -mock '': %s", got)
	}
}

// Apps and people come from a file and from flags.
func TestAppsAndPeople(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sim.json")
	text := `{"apps": [{"appid": "wx1111111111111111", "secret": "one", "frozen": true}], "phones": [{"user": "ann", "phone": "13700137000"}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, base := start(t, "-config", file, "-app", "wx2222222222222222:two:company", "-phone", "bob=13600136000")
	if got := session(t, base, "wx1111111111111111", "one", "x"); !strings.Contains(got, "40243") {
		t.Errorf("the frozen app of the file: %s", got)
	}
	_, codes, _ := ask(t, http.MethodPost, base+"/_control/codes", `{"appid": "wx2222222222222222", "user": "bob", "phone": "13600136000"}`)
	if !strings.Contains(codes, `"unionid"`) {
		t.Errorf("codes of an app with an account: %s", codes)
	}
	_, setup, _ := ask(t, http.MethodGet, base+"/_control/setup", "")
	var s struct{ Phones []person }
	if err := json.Unmarshal([]byte(setup), &s); err != nil || len(s.Phones) != 2 || s.Phones[0].User != "ann" || s.Phones[1].Phone != "13600136000" {
		t.Errorf("setup %s: %v", setup, err)
	}
	for _, args := range [][]string{{"-app", "wx1"}, {"-app", ":x"}, {"extra"}, {"-config", "/nowhere"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

// A developer visits a stranger's page. The page must not be able to mint codes or inject
// faults. The developer's own H5 page must be able to.
func TestOnlyLocalPagesControl(t *testing.T) {
	_, base := start(t, "-origin", "https://dev.example.com")
	for origin, want := range map[string]int{
		"http://localhost:5173": 200, "http://127.0.0.1:8080": 200, "http://[::1]:8080": 200, "https://dev.example.com": 200, base: 200,
		"https://evil.example": 403, "http://localhost.evil.example": 403, "null": 403,
	} {
		status, _, headers := ask(t, http.MethodPost, base+"/_control/codes", `{"appid": "`+defaultAppID+`", "phone": "13800138000"}`, "Origin: "+origin)
		if status != want {
			t.Errorf("%s: %d, want %d", origin, status, want)
		}
		if got := headers.Get("Access-Control-Allow-Origin"); want == 200 && origin != base && got != origin {
			t.Errorf("%s may not read the answer: %q", origin, got)
		}
	}
	status, _, headers := ask(t, http.MethodOptions, base+"/_control/codes", "", "Origin: http://localhost:5173")
	if status != http.StatusNoContent || headers.Get("Access-Control-Allow-Headers") == "" {
		t.Errorf("the preflight: %d %v", status, headers)
	}
}

// The control page shows each call and its outcome, even if the answer was lost, and no
// secret.
func TestCallsAreWatched(t *testing.T) {
	s, base := start(t)
	codes, err := s.sim.Mint(defaultAppID, "", wechattest.Phone{Number: "13800138000"})
	if err != nil {
		t.Fatal(err)
	}
	session(t, base, defaultAppID, defaultSecret, codes.Code)
	session(t, base, defaultAppID, defaultSecret, codes.Code)
	for i, f := range []wechattest.Fault{{Kind: wechattest.Status, Status: 502}, {Kind: wechattest.Reset}, {Kind: wechattest.HTML}} {
		if err := s.sim.Inject(f); err != nil {
			t.Fatal(err)
		}
		ask(t, http.MethodPost, base+"/cgi-bin/stable_token", "{}")
		// A call is recorded when its handler ends, which may be after the client has seen the end
		// of the connection.
		for shown := fmt.Sprintf(`"n":%d,`, 3+i); ; time.Sleep(time.Millisecond) {
			if _, text, _ := ask(t, http.MethodGet, base+"/_control/calls?after=0", ""); strings.Contains(text, shown) {
				break
			}
		}
	}
	ask(t, http.MethodGet, base+"//sns/jscode2session", "")
	status, text, _ := ask(t, http.MethodGet, base+"/_control/calls?after=0", "")
	var list []call
	if err := json.Unmarshal([]byte(text), &list); err != nil || status != http.StatusOK {
		t.Fatalf("%d %s: %v", status, text, err)
	}
	var outcomes []string
	for _, c := range list {
		outcomes = append(outcomes, c.Outcome)
	}
	if got, want := strings.Join(outcomes, ", "), "ok, 40163, 502, no answer, not JSON, 40066"; got != want {
		t.Errorf("outcomes %s, want %s", got, want)
	}
	for _, secret := range s.sim.Secrets() {
		if strings.Contains(text, secret) {
			t.Errorf("%q is shown", secret)
		}
	}
	if _, text, _ := ask(t, http.MethodGet, base+"/_control/calls?after=5", ""); strings.Count(text, `"n":`) != 1 {
		t.Errorf("after five: %s", text)
	}
}

// With -state, a code on a phone still works after a restart.
func TestStateFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	first, _ := start(t, "-state", file)
	codes, err := first.sim.Mint(defaultAppID, "", wechattest.Phone{Number: "13800138000"})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.save(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file with secrets: %v %v", info.Mode(), err)
	}
	_, base := start(t, "-state", file)
	if got := session(t, base, defaultAppID, defaultSecret, codes.Code); !strings.Contains(got, codes.OpenID) {
		t.Errorf("after a restart: %s", got)
	}
	if _, err := newServer(&settings{state: filepath.Dir(file)}); err == nil {
		t.Error("a directory was taken for a state file")
	}
}

// The page is a single file that loads nothing from elsewhere, in both languages.
func TestPageStandsAlone(t *testing.T) {
	_, base := start(t)
	status, text, headers := ask(t, http.MethodGet, base+"/", "")
	if status != http.StatusOK || !strings.Contains(headers.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("%d %v", status, headers)
	}
	if strings.Contains(text, "http://") || strings.Contains(text, "https://") || strings.Contains(text, "src=") {
		t.Error("the page names something elsewhere")
	}
	if zh, en := strings.Count(text, "data-zh="), strings.Count(text, "data-en="); zh != en || zh < 10 {
		t.Errorf("%d texts in Chinese, %d in English", zh, en)
	}
}

// The program prints the addresses that a server needs to use it, and ends with its context.
func TestRunEndsWithItsContext(t *testing.T) {
	done := make(chan error, 1)
	out, in := io.Pipe()
	ending, end := context.WithCancel(t.Context())
	go func() { done <- run(ending, []string{"-listen", "127.0.0.1:0"}, in) }()
	line := make([]byte, 512)
	n, err := out.Read(line)
	if err != nil || !strings.Contains(string(line[:n]), "http://127.0.0.1:") {
		t.Errorf("it printed %q: %v", line[:n], err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	end()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it goes on")
	}
}
