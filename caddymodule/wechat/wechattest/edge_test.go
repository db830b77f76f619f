package wechattest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// askSession asks the simulator for the openid of a login code.
func askSession(t *testing.T, base, code string) (int, string) {
	t.Helper()
	resp, err := http.Get(base + "/sns/jscode2session?" + url.Values{"appid": {"wxA"}, "secret": {"s"}, "js_code": {code}, "grant_type": {"authorization_code"}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// An edge server refuses request lines beyond a certain length, as nginx does by
// default.
func TestEdgeRefusesLongRequestLines(t *testing.T) {
	s := New(Options{Apps: []App{{ID: "wxA", Secret: "s"}}})
	server := httptest.NewServer(s)
	defer server.Close()
	s.LimitRequestLine(1000)
	if status, body := askSession(t, server.URL, strings.Repeat("x", 1000)); status != 414 || !strings.Contains(body, "<html>") {
		t.Errorf("%d %s", status, body)
	}
	if status, body := askSession(t, server.URL, "x"); status != 200 || !strings.Contains(body, "40029") {
		t.Errorf("%d %s", status, body)
	}
	if n := s.Count(Code2Session).Outcomes["414"]; n != 1 {
		t.Errorf("%d counted", n)
	}
	s.LimitRequestLine(0)
	if status, _ := askSession(t, server.URL, strings.Repeat("x", 1000)); status != 200 {
		t.Errorf("without a limit: %d", status)
	}
}

// A fault is limited to the codes of one client. Other clients must not notice it.
func TestFaultStrikesOneClientsCodes(t *testing.T) {
	s := New(Options{Apps: []App{{ID: "wxA", Secret: "s"}}})
	server := httptest.NewServer(s)
	defer server.Close()
	if err := s.Inject(Fault{Kind: Errcode, Errcode: 99999, Code: "0eve", Count: -1}); err != nil {
		t.Fatal(err)
	}
	for code, want := range map[string]string{"0eve1": "99999", "0eve2": "99999", "0ann": "40029"} {
		if _, body := askSession(t, server.URL, code); !strings.Contains(body, want) {
			t.Errorf("%s: %s", code, body)
		}
	}
}
